"""The actor's side of recognition: one clip decoded, its key frames chosen, features made or carried, rows written.

Decode runs ahead of the model, and writing behind it, on threads of the same process. A window's frames are held as
decoded (3 MB each at 1080p) from its first to its last: key frames are chosen for the whole of it, and a frame may take
its features from one that comes later.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from models.dff import warp
from models.dff.preprocess import resized
from models.dff.protocol import Detections as Found
from models.dff.protocol import Segmentation
from pipeline.errors import CorruptVideo, OutputMismatch
from pipeline.media.colour import to_rgb
from pipeline.media.decode import decode_clip
from pipeline.media.frame import Frame, luma8
from pipeline.plan import shots
from pipeline.plan.key_frames import Carried
from pipeline.plan.key_residuals import Picture
from pipeline.plan.key_schedule import ClipSchedule, schedule_clip
from pipeline.plan.key_windows import windows
from pipeline.records.recognition_schema import Detections, RecognitionRow, carried_columns
from pipeline.storage import Storage
from pipeline.tasks import flow_model, recognize_model
from pipeline.tasks.base import ClipOutput, Heartbeat
from pipeline.tasks.recognize import RecognizeTask
from pipeline.tasks.recognize_flow import RecordedFlow
from pipeline.tasks.stages import Ahead, Bare, Behind, stage_seconds
from pipeline.types import ClipRef, VideoInfo

WAITING_ROWS = 8
"""Rows between model and writer."""


class RecognizeProcessor:
    """Holds the model; processes one clip at a time."""

    def __init__(self, task: RecognizeTask, device: str, threads: int) -> None:
        # The last bits of a convolution depend on its threads: they are the configuration's, however many actors run.
        torch.set_num_threads(threads)
        self.task, self.device = task, device
        self.bundle, self.facts = recognize_model.load_bundle(task.config)
        self.bundle.model.to(device)
        self.model, self.weights_sha256 = self.facts.name, self.facts.sha256
        self._costs: dict[tuple[int, int], recognize_model.Costs] = {}
        self._bare = Bare(1 if device == "cpu" else task.config.batch)

    def costs(self, high: int, wide: int) -> recognize_model.Costs:
        """Of frames that the networks see at this size, px."""
        if (high, wide) not in self._costs:
            self._costs[high, wide] = recognize_model.costs_of(self.bundle.model, self.task.config, high, wide)
        return self._costs[high, wide]

    def process(self, clip: ClipRef, info: VideoInfo, source: BinaryIO, scratch: Path, beat: Heartbeat) -> ClipOutput:
        config = self.task.config
        path = scratch / "recognition.parquet"
        self._bare.begin()
        started = time.perf_counter()
        decoder = Ahead(_seen(decode_clip(source, clip, config.decode)), config.decode.queue_frames, "decode")
        rows = _Rows(self, clip, info, beat)
        error: CorruptVideo | None = None
        model_s = 0.0
        try:
            with self.task.writer(path, self.facts) as records:
                writer = Behind(records.write, WAITING_ROWS, "encode")
                try:
                    made = rows.rows(iter(decoder))
                    while True:
                        self._bare.settle(decoder, writer)
                        began, waited = time.perf_counter(), decoder.waited_s
                        try:
                            with torch.no_grad(), flow_model.autocast(self.device, self.task.precision):
                                row = next(made, None)
                        except CorruptVideo as caught:  # after the frames that were decoded before it
                            error, row = caught, None
                        model_s += time.perf_counter() - began - (decoder.waited_s - waited)
                        if row is None:
                            break
                        self._bare.made(rows.flops, model_s)
                        writer.put(row)
                        beat("model")
                    writer.close()
                except BaseException:
                    writer.abandon()
                    raise
        finally:
            decoder.close()
        if error is None and rows.count != clip.frames:
            raise OutputMismatch(
                f"{clip}: {rows.count} frames recognised, the plan has {clip.frames}; report this as a bug",
                stage="model",
            )
        seconds = stage_seconds(started, decoder, model_s, writer)
        extra: dict[str, Any] = {"kinds": dict(rows.kinds), "flops": rows.flops}
        bare = self._bare.result()
        return ClipOutput(path if rows.count else None, rows.count, extra, seconds, error, rows.flops, bare)


@dataclass(frozen=True, slots=True)
class _Seen:
    frame: Frame
    thumbnail: Picture


def _seen(frames: Iterator[Frame]) -> Iterator[_Seen]:
    for frame in frames:
        yield _Seen(frame, luma8(frame, shots.WIDTH, shots.HEIGHT))


@dataclass(slots=True)
class _Window:
    """Decoded frames of one window, those that the clip does not own too."""

    first: int
    """The first one's number in the video."""
    before: _Seen | None
    """The frame before it, where there is one."""
    frames: list[_Seen] = field(default_factory=list)

    def thumbnails(self) -> tuple[int, list[Picture]]:
        """(number of the first, all)."""
        pictures = [seen.thumbnail for seen in self.frames]
        return (self.first, pictures) if self.before is None else (self.first - 1, [self.before.thumbnail, *pictures])

    def pts(self) -> dict[int, int]:
        times = {self.first + place: seen.frame.pts for place, seen in enumerate(self.frames)}
        return times if self.before is None else {self.first - 1: self.before.frame.pts} | times


class _Rows:
    """Makes the rows of a clip's frames, in order, and counts them by where their features came from."""

    def __init__(self, processor: RecognizeProcessor, clip: ClipRef, info: VideoInfo, beat: Heartbeat) -> None:
        self.kinds: Counter[str] = Counter()
        self.count = self.flops = 0
        self._processor, self._clip, self._info, self._beat = processor, clip, info, beat
        config = processor.task.config
        self._config = config
        self._size, self._scale = recognize_model.frame_size(config, processor.facts, info.height, info.width)
        self._costs = processor.costs(*self._size)
        self.flow: RecordedFlow | None = None
        if config.flow == "records":
            output, stride = processor.task.flow_output, processor.bundle.model.network.stride
            self.flow = RecordedFlow(Storage(config.retry), output, clip.video, self._size, stride)
        self._own = range(clip.start_frame, clip.start_frame + clip.frames)
        # The halo is as long as a window can be; where it is shorter, the video ends.
        self._total = self._own.stop + clip.halo_after
        self._shot = 0

    def rows(self, decoded: Iterator[_Seen]) -> Iterator[RecognitionRow]:
        """Raises CorruptVideo after the rows of all frames before the damage, scheduled as if the video ended there."""
        number = self._own.start - self._clip.halo_before
        before: _Seen | None = None
        for span in windows(self._own.start, self._own.stop, self._total, self._config.key_frames.window_frames):
            error: CorruptVideo | None = None
            window = _Window(span.start, before)
            try:
                for seen in islice(decoded, span.stop - number):
                    if number < span.start:
                        window.before = seen
                    else:
                        window.frames.append(seen)
                    number += 1
                    self._beat("decode")
            except CorruptVideo as caught:
                error = caught
            there = range(max(span.start, self._own.start), min(span.start + len(window.frames), self._own.stop))
            if there:
                yield from self._window(window, there)
            if error is not None:
                raise error
            before = window.frames[-1]
            del window

    def _window(self, window: _Window, own: range) -> Iterator[RecognitionRow]:
        first, thumbnails = window.thumbnails()
        schedule = schedule_clip(own, self._total, first, thumbnails, self._config.cuts, self._config.key_frames)
        pts = window.pts()
        if self.flow is not None:
            self.flow.load(schedule.frames, pts, self._processor.device)
        features = _KeyFeatures(self, window, schedule)
        batch = 1 if self._processor.device == "cpu" else self._config.batch
        for run in _runs(schedule.frames, batch):
            for carried, found in zip(run, self._found(features, run), strict=True):
                yield self._row(carried, schedule, pts, found)

    def _found(self, features: _KeyFeatures, run: list[Carried]) -> list[dict[str, Any]]:
        """What is recognised in frames that take their features from the same key frames."""
        network = self._processor.bundle.model.network
        found = network.head(features.of(run), self._size)
        if isinstance(found, Segmentation):
            return [{"labels": labels} for labels in found.labels.cpu().numpy()]
        return [{"detections": self._objects(one)} for one in found]

    def _objects(self, found: Found) -> Detections:
        found = found.above(self._config.min_score)
        boxes = found.boxes.float().cpu().numpy() / np.float32(self._scale)
        edges = np.array([self._info.width, self._info.height] * 2, np.float32)
        return Detections(
            np.clip(boxes, 0, edges).astype(np.float32),
            found.scores.float().cpu().numpy(),
            found.classes.cpu().numpy().astype(np.int32),
        )

    def image(self, frame: Frame) -> Tensor:
        """[1,3,H,W] RGB 0..255 at the size that the networks see: uint8 for 8-bit video of that size."""
        rgb = 255 * to_rgb(frame, self._info.colour, self._processor.device)
        image = (rgb.round_().to(torch.uint8) if frame.format.bits == 8 else rgb)[None]
        return image if self._scale == 1 else resized(image, self._size, self._scale)

    @property
    def processor(self) -> RecognizeProcessor:
        return self._processor

    def _row(
        self, carried: Carried, schedule: ClipSchedule, pts: dict[int, int], found: dict[str, Any]
    ) -> RecognitionRow:
        clip, video, processor = self._clip, self._clip.video, self._processor
        begins = carried.frame in schedule.starts
        self._shot += begins and self.count > 0
        self.count += 1
        self.kinds["key_promoted" if carried.promoted else _KINDS[carried.side]] += 1
        flops = self._costs.of(carried.is_key, 1 + (carried.other is not None))
        self.flops += flops
        return RecognitionRow(
            video_uri=video.uri,
            video_version=video.version,
            member=video.member,
            video_id=video.video_id,
            shot=self._shot,
            clip_id=clip.clip_id,
            frame_index=carried.frame,
            pts=pts[carried.frame],
            time_base=clip.time_base,
            height=self._info.height,
            width=self._info.width,
            previous_pts=None if begins else pts[carried.frame - 1],
            **carried_columns(carried, pts),
            flops=flops,
            model=processor.model,
            weights_sha256=processor.weights_sha256,
            precision=processor.task.precision,
            **found,
        )


class _KeyFeatures:
    """Features of a window's key frames: each made when it is first needed, and dropped after its last use."""

    def __init__(self, rows: _Rows, window: _Window, schedule: ClipSchedule) -> None:
        self._rows, self._window = rows, window
        self._last_use = {key: carried.frame for carried in schedule.frames for key in _keys(carried)}
        self._held: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, run: list[Carried]) -> Tensor:
        """Features [N,C,h,w] of N frames that have the same key frames."""
        first = run[0]
        if first.is_key:
            features = self._key(first.key)[0]
        else:
            features = self._carried(run, first.key)
            if first.other is not None:
                share = features.new_tensor([carried.share for carried in run])[:, None, None, None]
                features = share * features + (1 - share) * self._carried(run, first.other)
        for key in list(self._held):
            if self._last_use[key] <= run[-1].frame:
                del self._held[key]
        return features

    def _carried(self, run: list[Carried], key: int) -> Tensor:
        """A key frame's features in each frame of the run."""
        features, image = self._key(key)
        recorded = self._rows.flow
        if recorded is not None:
            return warp(features, torch.cat([recorded.between(carried, key) for carried in run]))
        current = torch.cat([self._image(carried.frame) for carried in run])
        return self._rows.processor.bundle.model.carried(features, image, current)

    def _key(self, key: int) -> tuple[Tensor, Tensor]:
        """(features, image) of a key frame."""
        if key not in self._held:
            image = self._image(key)
            self._held[key] = (self._rows.processor.bundle.model.network.features(image), image)
        return self._held[key]

    def _image(self, number: int) -> Tensor:
        return self._rows.image(self._window.frames[number - self._window.first].frame)


def _keys(carried: Carried) -> tuple[int, ...]:
    return (carried.key,) if carried.other is None else (carried.key, carried.other)


def _runs(frames: tuple[Carried, ...], most: int) -> Iterator[list[Carried]]:
    """Neighbours with the same key frames, at most so many at a time; key frames alone."""
    for _, group in groupby(frames, key=lambda carried: (carried.key, carried.other, carried.is_key)):
        while run := list(islice(group, most)):
            yield run


_KINDS = {"key": "key", "before": "carried_forward", "after": "carried_back", "both": "carried_both"}
"""By the side that the features came from."""
