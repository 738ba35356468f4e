"""The actor's side of flow: one clip decoded, cut into its shots, its flows computed, and written as records.

Decode runs ahead of the model, and encoding and writing behind it, on threads of the same process.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from models.memfof import Field, FrameFlow, stream
from pipeline.config import CutsConfig
from pipeline.errors import CorruptVideo, OutputMismatch
from pipeline.media.colour import to_rgb
from pipeline.media.decode import decode_clip
from pipeline.media.frame import Frame, luma8
from pipeline.plan import shots
from pipeline.records.flow_codec import Bools, Floats, finite_only
from pipeline.records.flow_schema import FlowRow
from pipeline.tasks import flow_model
from pipeline.tasks.base import ClipOutput, Heartbeat
from pipeline.tasks.flow import FlowTask
from pipeline.tasks.stages import Ahead, Bare, Behind, stage_seconds
from pipeline.types import ClipRef, Colour, VideoInfo

WAITING_ROWS = 2
"""Rows between model and writer: a 1080p row takes 54 MB."""


class FlowProcessor:
    """Holds the model; processes one clip at a time."""

    def __init__(self, task: FlowTask, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._task = task
        self._device = device
        network, facts = flow_model.load_network(task.config.model)
        self.network = network.to(device)
        self.model, self.weights_sha256 = facts.name, facts.sha256
        self._bare = Bare(1 if device == "cpu" else task.config.batch)

    def process(self, clip: ClipRef, info: VideoInfo, source: BinaryIO, scratch: Path, beat: Heartbeat) -> ClipOutput:
        config = self._task.config
        path = scratch / "flow.parquet"
        self._bare.begin()
        started = time.perf_counter()
        decoder = Ahead(
            marked(decode_clip(source, clip, config.decode), config.cuts), config.decode.queue_frames, "decode"
        )
        records = self._task.writer(path)
        writer = Behind(records.write, WAITING_ROWS, "encode")
        rows = _Rows(self._task, self, clip, info)
        error: CorruptVideo | None = None
        model_s = work = 0.0
        try:
            flows = self._flows(decoder, clip, info.colour, beat)
            while True:
                self._bare.settle(decoder, writer)
                began, waited = time.perf_counter(), decoder.waited_s
                try:
                    with torch.no_grad(), flow_model.autocast(self._device, self._task.precision):
                        made = next(flows, None)
                except CorruptVideo as caught:  # after the frames whose flow needs nothing of what is missing
                    error, made = caught, None
                model_s += time.perf_counter() - began - (decoder.waited_s - waited)
                if made is None:
                    break
                work += info.width * info.height
                if made[0].next_pts is not None:  # a shot's last frame was computed with the one before it
                    self._bare.made(work, model_s)
                writer.put(rows.row(*made))
                del made  # 50 MB at 1080p, while the next is computed
                beat("model")
            writer.close()
            stored = records.close()
        except BaseException:
            writer.abandon()
            records.abandon()
            raise
        finally:
            decoder.close()
        if error is None and rows.count != clip.frames:
            raise OutputMismatch(
                f"{clip}: flows of {rows.count} frames made, the plan has {clip.frames}; report this as a bug",
                stage="model",
            )
        seconds = stage_seconds(started, decoder, model_s, writer)
        extra: dict[str, Any] = {"kinds": dict(rows.kinds), "max_error_px": stored.max_error_px}
        if rows.not_finite:
            extra["not_finite_px"] = rows.not_finite
        bare = self._bare.result()
        return ClipOutput(path if rows.count else None, rows.count, extra, seconds, error, work, bare)

    def _flows(
        self, decoded: Iterable[Marked], clip: ClipRef, colour: Colour, beat: Heartbeat
    ) -> Iterator[tuple[Place, FrameFlow]]:
        """The flows of the clip's own frames, in order."""
        config = self._task.config
        left = clip.frames
        for _, one in groupby(numbered(decoded), key=lambda seen: seen.shot):
            shot = _Shot(one, clip, colour, self._device, beat)
            if not shot.has_own:
                continue
            # Frames after the clip are given like its own, and the stream is left when its own are done: whether a cut
            # lies among them need not be known beforehand, and no flow is computed for them alone.
            flows = stream(
                self.network, shot.frames(), config.iterations, before=shot.before, batch=config.batch,
                memory_budget=config.memory_budget,
            )  # fmt: skip
            for flow in flows:
                yield shot.next_place(), flow
                del flow  # or, at 1080p, 50 MB would stay here until the next is computed
                left -= 1
                if not left:
                    return


@dataclass(frozen=True, slots=True)
class Marked:
    """A decoded frame, and whether a cut lies between the frame before and this one."""

    frame: Frame
    cut: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """A decoded frame in its place among those that the clip sees."""

    frame: Frame
    number: int
    """From 0, the halo's included."""
    shot: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame of the clip stands; its neighbours are those in its shot."""

    number: int
    """From 0, the halo's included."""
    shot: int
    """Likewise: the video's joining counts anew."""
    pts: int
    previous_pts: int | None
    next_pts: int | None


def marked(frames: Iterator[Frame], cuts: CutsConfig) -> Iterator[Marked]:
    """Finds cuts, from two neighbouring frames alone: every clip that sees both finds the same."""
    earlier = None
    for frame in frames:
        later = luma8(frame, shots.WIDTH, shots.HEIGHT) if cuts.detect else None
        cut = earlier is not None and later is not None and shots.is_cut(earlier, later, cuts.threshold)
        earlier = later
        yield Marked(frame, cut)


def numbered(frames: Iterable[Marked]) -> Iterator[Seen]:
    shot = 0
    for number, one in enumerate(frames):
        shot += one.cut
        yield Seen(one.frame, number, shot)


class _Shot:
    """Consecutive frames of one shot on their way into the model, and their places on the way out."""

    def __init__(self, seen: Iterator[Seen], clip: ClipRef, colour: Colour, device: str, beat: Heartbeat) -> None:
        self._seen, self._colour, self._device, self._beat = seen, colour, device, beat
        self._head: list[Seen] = []
        for one in seen:
            self._head.append(one)
            if one.number >= clip.halo_before:
                break
        last = self._head[-1]
        self.has_own = clip.halo_before <= last.number < clip.halo_before + clip.frames
        self.before = len(self._head) - 1
        """Frames of the halo before the clip that belong to the shot."""
        self._shot, self._next = last.shot, last.number
        self._fed: deque[tuple[int, int]] = deque()
        """(number, pts) of frames that have gone into the model, from the predecessor of the next to come out."""

    def frames(self) -> Iterator[Tensor]:
        """[3,H,W] RGB 0..255: uint8 for 8-bit video, as the model was trained on; float32 for deeper."""
        while self._head:
            yield self._into(self._head.pop(0))
        for one in self._seen:
            yield self._into(one)

    def _into(self, seen: Seen) -> Tensor:
        self._fed.append((seen.number, seen.frame.pts))
        self._beat("decode")
        rgb = 255 * to_rgb(seen.frame, self._colour, self._device)
        return rgb.round_().to(torch.uint8) if seen.frame.format.bits == 8 else rgb

    def next_place(self) -> Place:
        number = self._next
        self._next += 1
        while self._fed[0][0] < number - 1:
            self._fed.popleft()
        pts = dict(self._fed)
        return Place(number, self._shot, pts[number], pts.get(number - 1), pts.get(number + 1))


class _Rows:
    """Makes the records of a clip's frames, and counts them by the neighbours that they have."""

    def __init__(self, task: FlowTask, processor: FlowProcessor, clip: ClipRef, info: VideoInfo) -> None:
        self.kinds: Counter[str] = Counter()
        self.count = 0
        self.not_finite = 0
        """Pixels whose flow was no number: stored as zero, and invalid."""
        self._task, self._processor, self._clip, self._info = task, processor, clip, info
        self._first_shot: int | None = None

    def row(self, place: Place, flow: FrameFlow) -> FlowRow:
        config, clip, video = self._task.config, self._clip, self._clip.video
        first = self._first_shot = place.shot if self._first_shot is None else self._first_shot
        self.count += 1
        self.kinds[_KINDS[place.previous_pts is not None, place.next_pts is not None]] += 1
        forward = self._fields(flow.forward if config.directions != "backward" else None)
        backward = self._fields(flow.backward if config.directions != "forward" else None)
        return FlowRow(
            video_uri=video.uri,
            video_version=video.version,
            member=video.member,
            video_id=video.video_id,
            shot=place.shot - first,
            clip_id=clip.clip_id,
            frame_index=clip.start_frame + place.number - clip.halo_before,
            pts=place.pts,
            time_base=clip.time_base,
            height=self._info.height,
            width=self._info.width,
            previous_pts=place.previous_pts,
            next_pts=place.next_pts,
            flow_forward=forward[0],
            flow_backward=backward[0],
            validity_forward=forward[1],
            validity_backward=backward[1],
            confidence_forward=forward[2],
            confidence_backward=backward[2],
            model=self._processor.model,
            weights_sha256=self._processor.weights_sha256,
            iterations=config.iterations,
            precision=self._task.precision,
        )

    def _fields(self, field: Field | None) -> tuple[Floats | None, Bools | None, Floats | None]:
        if field is None:
            return None, None, None
        assert field.valid is not None
        flow, valid, sure = (tensor.cpu().numpy() for tensor in (field.flow, field.valid, field.confidence))
        if not (np.isfinite(flow).all() and np.isfinite(sure).all()):
            flow, known = finite_only(flow)
            known &= np.isfinite(sure)
            self.not_finite += int(known.size - known.sum())
            valid, sure = valid & known, np.where(known, sure, np.float32(0))
        return flow, valid, sure


_KINDS = {
    (True, True): "between", (False, True): "first_of_shot", (True, False): "last_of_shot", (False, False): "alone",
}  # fmt: skip
"""By whether a frame has a neighbour before and after it."""
