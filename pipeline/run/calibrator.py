"""Measuring what work costs: from a run's first receipts, or from a few frames in this process."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, replace

from pipeline.errors import MotionmillError
from pipeline.layout import Layout
from pipeline.plan.clips import plan_clips
from pipeline.run import scratch
from pipeline.run.calibration import Calibration, blank, cached, write
from pipeline.run.cluster import Placement
from pipeline.run.rows import Receipt
from pipeline.run.worker import open_video
from pipeline.storage import Storage
from pipeline.tasks.base import Task
from pipeline.types import VideoInfo, VideoRef

FIRST_CLIPS = 64
"""Clips that a run measures on: further ones change little."""
_SAMPLE_FRAMES = 240
"""Frames whose arithmetic is counted for a video; the rest is taken to need as much each."""
_WARM_UP = 2
"""Frames, not timed."""
_ENOUGH_S = 1.0


class Calibrator:
    """Takes in a run's receipts until it has enough, and keeps what they show."""

    def __init__(self, task: Task, placement: Placement) -> None:
        self._task = task
        self.found = blank(task, placement.device, placement.gpus, placement.threads, placement.actors)
        self._flops: dict[tuple[int, ...], float] = {}
        self._stored = 0

    def add(self, receipt: Receipt) -> bool:
        """Returns whether this is a moment to store what was found: the first clips, or enough of them."""
        found, row, times = self.found, receipt.row, receipt.times
        if found.clips >= FIRST_CLIPS or receipt.status != "ok" or not receipt.fresh or times is None:
            return False
        if row.clip is None or row.info is None:
            return False
        self.found = replace(
            found,
            clips=found.clips + 1,
            frames=found.frames + row.clip.frames,
            rows=found.rows + receipt.rows,
            pixels=found.pixels + receipt.rows * row.info.width * row.info.height,
            flops=found.flops + round(self._each(row.info, row.source_frames) * row.clip.frames),
            spent_flops=found.spent_flops + times.spent_flops,
            output_bytes=found.output_bytes + receipt.bytes,
            model_s=round(found.model_s + receipt.seconds.get("model", 0.0), 4),
            decode_s=round(found.decode_s + receipt.seconds.get("decode", 0.0), 4),
            encode_s=round(found.encode_s + receipt.seconds.get("encode", 0.0), 4),
            actor_s=round(found.actor_s + times.span_s, 4),
        )
        return self.found.clips in (found.actors, FIRST_CLIPS)

    def store(self, storage: Storage, layout: Layout) -> None:
        """Beside the output and in the user's cache. What cannot be written is left."""
        if not self.found.clips or self._stored == self.found.clips:
            return
        self._stored = self.found.clips
        data = json.dumps(asdict(self.found), indent=1, ensure_ascii=False).encode()
        with suppress(MotionmillError):
            storage.put(layout.calibration, data)
        write(cached(self.found), data)

    def _each(self, info: VideoInfo, source_frames: int) -> float:
        """FLOPs a source frame, for frames spaced evenly."""
        count = max(1, min(source_frames, max(_SAMPLE_FRAMES, 2 * self._task.config.clip.frames)))
        step = (info.end_pts - info.pts[0]) // max(1, source_frames) or 1
        key = (info.width, info.height, count, step, *info.time_base.as_integer_ratio())
        if key not in self._flops:
            pts = tuple(range(info.pts[0], info.pts[0] + count * step, step))
            self._flops[key] = self._task.flops(replace(info, pts=pts, last_duration=step)) / count
        return self._flops[key]


def measure(
    task: Task, storage: Storage, video: VideoRef, info: VideoInfo, device: str, threads: int, gpus: float
) -> Calibration:
    """Runs the task's first frames of a video in this process, without storing anything: seconds, not minutes.

    The first few warm the model up; then a few more are timed, and more where they were quick.
    """
    processor = task.load(device, threads)
    found = blank(task, device, gpus, threads, 1)
    for count in (_WARM_UP, 4, 24):
        clip = plan_clips(video, info, min(count, len(info.pts)), task.halo())[0]
        with scratch.folder(task.config.resources.scratch) as folder, open_video(storage, video) as source:
            began = time.perf_counter()
            output = processor.process(clip, info, source, folder, lambda _: None)
            span = time.perf_counter() - began
            size = output.path.stat().st_size if output.path else 0
        found = replace(
            found,
            clips=1,
            frames=clip.frames,
            rows=output.rows,
            pixels=output.rows * info.width * info.height,
            flops=round(task.flops(info) * clip.frames / len(info.pts)),
            spent_flops=output.spent_flops,
            output_bytes=size,
            model_s=output.seconds.get("model", 0.0),
            decode_s=output.seconds.get("decode", 0.0),
            encode_s=output.seconds.get("encode", 0.0),
            actor_s=span,
        )
        if count > _WARM_UP and span >= _ENOUGH_S:
            break
    return found
