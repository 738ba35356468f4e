"""The pictures that recognition records are of, out of the input that a run was given: what exports show."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DecodeConfig, InputConfig
from pipeline.errors import InputNotFound
from pipeline.media.colour import to_rgb
from pipeline.media.decode import decode_clip
from pipeline.media.frame import Frame
from pipeline.media.probe import probe
from pipeline.media.source import open_source
from pipeline.plan.clips import plan_clips
from pipeline.plan.discover import discover
from pipeline.records.recognition_schema import RecognitionRecord
from pipeline.storage import Storage, redact
from pipeline.types import Colour, VideoRef


class SourcePictures:
    """Called with records, by video and in the order of frames, as readers give them; used in a `with` statement.

    One video at a time is decoded, from its beginning. Raises InputNotFound at once where `input` names no video, and
    for a record whose video or frame it does not have; and whatever reading and decoding raise.
    """

    def __init__(self, input: str, storage: Storage, limits: InputConfig, decode: DecodeConfig) -> None:
        self._input, self._storage, self._limits, self._decode = input, storage, limits, decode
        listed = discover(input, limits, storage)
        self._videos = {video.video_id: video for video in listed if isinstance(video, VideoRef)}
        self._shown = ""
        self._frames: Iterator[Frame] = iter(())
        self._colour = Colour()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> SourcePictures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def __call__(self, record: RecognitionRecord) -> NDArray[np.uint8]:
        """RGB uint8 [H,W,3]."""
        if record.video_id != self._shown:
            self._begin(record)
        for frame in self._frames:
            if frame.pts == record.pts:
                rgb = (255 * to_rgb(frame, self._colour)).round_().byte()
                return rgb.permute(1, 2, 0).contiguous().numpy()
        raise InputNotFound(
            f"{redact(record.video_uri)}: no frame at pts {record.pts} (frame {record.frame_index}) after the one "
            "before; give records in the order of frames, of the video as it is now"
        )

    def _begin(self, record: RecognitionRecord) -> None:
        if record.video_id not in self._videos:
            raise InputNotFound(
                f"{redact(self._input)}: has no {redact(record.video_uri)} in the version that was recognised; give "
                "the INPUT that the run was given"
            )
        video = self._videos[record.video_id]
        self._open.close()
        self._shown = record.video_id
        file = self._open.enter_context(open_source(video, self._storage))
        info = probe(file, video, self._limits, self._decode)
        (whole,) = plan_clips(video, info, len(info.pts), (0, 0))
        frames = cast("Generator[Frame]", decode_clip(file, whole, self._decode))
        self._frames, self._colour = self._open.enter_context(contextlib.closing(frames)), info.colour
