"""The actor's side of interpolation: one clip decoded, its pictures made, and encoded at the target's frame times.

Decode runs ahead of the model and encode behind it, on threads of the same process. Source frames go to the encoder as
they were decoded; only synthesised pictures pass through RGB.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pipeline.errors import CorruptVideo, OutputMismatch
from pipeline.media.colour import from_rgb, to_rgb
from pipeline.media.decode import decode_clip
from pipeline.media.encode import SegmentEncoder
from pipeline.media.frame import Frame
from pipeline.plan.grid import frames_before, make_grid
from pipeline.tasks.base import ClipOutput, Heartbeat
from pipeline.tasks.decisions import FrameRow, noted, pack
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.tasks.interpolate_model import build
from pipeline.tasks.interpolators import Interpolator, Pair
from pipeline.tasks.intervals import Interval, intervals
from pipeline.tasks.self_check import SelfCheck
from pipeline.tasks.stages import Ahead, Bare, Behind, stage_seconds
from pipeline.types import ClipRef, VideoInfo


class InterpolateProcessor:
    """Holds the model; processes one clip at a time."""

    def __init__(self, task: InterpolateTask, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._task = task
        self._device = device
        self._bare = Bare()
        config = task.config
        self.interpolator, self.model, self.weights_sha256 = build(config, device, task.precision)
        self.adaptive = bool(getattr(self.interpolator, "adaptive", False))

    def process(self, clip: ClipRef, info: VideoInfo, source: BinaryIO, scratch: Path, beat: Heartbeat) -> ClipOutput:
        config = self._task.config
        grid = make_grid(config.target, clip.time_base, clip.origin_pts)
        plan = self._task.encode_plan(info, grid)
        expected = frames_before(grid, clip.end_pts, clip.frames + clip.start_frame) - frames_before(
            grid, clip.start_pts, clip.start_frame
        )
        path = scratch / "segment.mp4"
        picture = _Pictures(self.interpolator, info, self._device)
        check = SelfCheck(config.self_check, clip, config.cuts, info.colour, self._device)
        error: CorruptVideo | None = None
        self._bare.begin()
        spent = self._spent()
        started = time.perf_counter()
        decoder = Ahead(decode_clip(source, clip, config.decode), config.decode.queue_frames, "decode")
        encoder: SegmentEncoder | None = None
        writer: Behind[Frame] | None = None
        try:
            stream = intervals(check.over(decoder), clip, grid, config.cuts, config.duplicates)
            while True:
                chunk: list[Interval] = []
                try:
                    for interval in islice(stream, config.batch if self._device != "cpu" else 1):
                        chunk.append(interval)
                except CorruptVideo as caught:  # after the intervals before it, which are good
                    error = caught
                beat("decode")  # also where a low target rate leaves intervals without a frame
                self._bare.settle(decoder, writer)
                made = picture.make(chunk)
                self._bare.made(picture.work, picture.model_s)
                for frame in made:
                    if writer is None:
                        encoder = SegmentEncoder(path, plan)
                        writer = Behind(encoder.write, config.decode.queue_frames, "encode")
                    writer.put(frame)
                    beat("model")
                check.run(self.interpolator)
                if error is not None or not chunk:
                    break
            if writer is not None and encoder is not None:
                writer.close()
                encoder.close()
        except BaseException:
            if writer is not None and encoder is not None:
                writer.abandon()
                encoder.__exit__(RuntimeError, None, None)
            raise
        finally:
            decoder.close()
        if error is None and picture.frames != expected:
            raise OutputMismatch(
                f"{clip}: {picture.frames} output frames made, the plan has {expected}; report this as a bug",
                stage="model",
            )
        seconds = stage_seconds(started, decoder, picture.model_s, writer)
        extra: dict[str, Any] = {"kinds": dict(picture.kinds), "max_t_error": str(picture.max_t_error)}
        if config.self_check:
            seconds["self_check"] = check.seconds
            extra["self_check"] = check.as_extra()
        if encoder is None or encoder.stats is None:
            return ClipOutput(None, 0, extra, seconds, error, picture.work, self._bare.result(), self._spent() - spent)
        stats = encoder.stats
        # A good prefix ends with its last good frame, shown as long as the source would have shown it at least.
        end = grid.end(clip.end_pts, stats.last_pts) if error is None else stats.last_pts + picture.step
        extra |= {
            "first_pts": stats.first_pts,
            "last_pts": stats.last_pts,
            "end_pts": end,
            "reorder_depth": stats.reorder_depth,
            "gaps": stats.gaps,
        }
        if noted(config, self.adaptive):
            extra["adaptive"] = self.adaptive
            extra["decisions"] = pack(picture.rows, self.model, self.weights_sha256)
        return ClipOutput(
            path, picture.frames, extra, seconds, error, picture.work, self._bare.result(), self._spent() - spent
        )

    def _spent(self) -> int:
        """FLOPs of an adaptive model so far, on pictures that only others come from and on known frames too."""
        return int(getattr(self.interpolator, "spent", 0))


class _Pictures:
    """Makes the output frames of intervals, and counts how each was made."""

    def __init__(self, model: Interpolator, info: VideoInfo, device: str) -> None:
        self.kinds: Counter[str] = Counter()
        self.max_t_error = Fraction(0)
        self.frames = 0
        self.step = 1
        """Ticks between the last two frames."""
        self.model_s = 0.0
        self.work = 0.0
        """Pixels synthesised; for adaptive models, FLOPs."""
        self.rows: list[FrameRow] = []
        self._last: int | None = None
        self._model = model
        self._info = info
        self._device = device
        self._rgb: tuple[Frame, torch.Tensor] | None = None

    def make(self, chunk: Sequence[Interval]) -> list[Frame]:
        started = time.perf_counter()
        pairs = []
        for interval in chunk:
            places = [t for _, t in interval.outputs if 0 < t < 1]
            if interval.right is not None and places:
                pairs.append(Pair(self._to_rgb(interval.left), self._to_rgb(interval.right), places))
        made = iter(self._model.between(pairs)) if pairs else iter(())
        frames: list[Frame] = []
        for interval in chunk:
            inner = interval.right is not None and any(0 < t < 1 for _, t in interval.outputs)
            pictures = iter(next(made)) if inner else iter(())
            for pts, t in interval.outputs:
                frames.append(self._frame(interval, pts, t, pictures))
                self.step = pts - self._last if self._last is not None else self.step
                self._last = pts
        self.frames += len(frames)
        self.model_s += time.perf_counter() - started
        return frames

    def _frame(self, interval: Interval, pts: int, t: Fraction, pictures: Any) -> Frame:
        left, right = interval.left, interval.right
        if t == 0 or right is None:
            kind = "source" if t == 0 else f"held_{interval.reason}"
            self._note(FrameRow(pts, kind, t, t if t == 0 else None))
            return Frame(pts, left.planes, left.format)
        picture, node, decisions = next(pictures)
        error = abs(node - t)
        if node in (0, 1):
            self._note(FrameRow(pts, "source_near", t, error))
            return Frame(pts, (right if node else left).planes, left.format)
        self._note(FrameRow(pts, "synthesised", t, error, decisions))
        self.work += self._info.width * self._info.height if decisions is None else decisions.flops
        return Frame(pts, from_rgb(picture, left.format, self._info.colour), left.format)

    def _note(self, row: FrameRow) -> None:
        self.kinds[row.kind] += 1
        self.max_t_error = max(self.max_t_error, row.t_error or Fraction(0))
        self.rows.append(row)

    def _to_rgb(self, frame: Frame) -> torch.Tensor:
        # Each frame is the right end of one interval and the left end of the next.
        if self._rgb is None or self._rgb[0] is not frame:
            self._rgb = (frame, to_rgb(frame, self._info.colour, self._device))
        return self._rgb[1]
