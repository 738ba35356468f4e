"""Ray Data's source: videos are probed and planned in parallel, and come out as one clip reference a block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from pipeline.errors import StorageError, UsageError
from pipeline.records.commit import load_clip_commits
from pipeline.run.plans import Kept, Packed, Plan, plan_of, read_headers
from pipeline.run.rows import Row, to_table
from pipeline.run.watchdog import Watchdog
from pipeline.run.worker import RunContext, attempt, failure_of
from pipeline.types import VideoRef

PROBE = "probe"
"""Stands for a clip's name in the ledger of attempts while a video is probed."""


def plan_video(context: RunContext, video: VideoRef, resume: bool, packed: Packed | None = None) -> Iterator[Row]:
    """Rows of one video, by the plan that was made of it before or by a new one.

    Errors of the video itself become a row; those of the store are raised.
    """
    task = context.task

    def work(_number: int) -> Plan:
        return plan_of(task, video, read_headers(task, context.storage, video))

    if packed is not None:
        plan: Plan | None = Plan.unpacked(packed)
    else:
        # Under the retry budget: headers that crash or hang the demuxer end in quarantine too.
        watchdog = Watchdog(task.config.retry.hang_s)
        plan, failure = attempt(context, watchdog, video.video_id, PROBE, work, stage=PROBE)
        if plan is None:
            yield Row("refused", video, refusal=failure)
            return
    assert plan is not None
    done = load_clip_commits(context.storage, context.layout, video.video_id) if resume else {}
    for clip in plan.clips:
        commit = done.get(clip.clip_id)
        kind = "clip" if commit is None else "committed" if commit.status == "ok" else "failed"
        yield Row(kind, video, plan.info, clip, plan.expected_rows, plan.frames)


class VideoSource(Datasource):
    """Clips of `videos`: those without a kept plan are probed by light tasks, a few videos at a time."""

    def __init__(self, context: RunContext, videos: Sequence[VideoRef], resume: bool, kept: Kept | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._context = context
        self._videos = list(videos)
        self._resume = resume
        self._kept = kept or Kept()

    def estimate_inmemory_data_size(self) -> int:
        return 1000 * len(self._videos)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        # Small groups, so that the first clips come early and a lost task costs little.
        size = max(1, min(8, len(self._videos) // max(1, parallelism)))
        groups = [self._videos[start : start + size] for start in range(0, len(self._videos), size)]
        return [
            ReadTask(
                _Reader(self._context, group, self._resume, self._kept.of(group)),
                BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None),
            )
            for group in groups
        ]


class _Reader:
    def __init__(
        self, context: RunContext, videos: Sequence[VideoRef], resume: bool, plans: Mapping[str, Packed]
    ) -> None:
        self._context, self._videos, self._resume, self._plans = context, videos, resume, plans

    def __call__(self) -> Iterable[pa.Table]:
        for video in self._videos:
            try:
                for row in plan_video(self._context, video, self._resume, self._plans.get(video.video_id)):
                    yield to_table(row)
            except (StorageError, UsageError) as error:
                yield to_table(Row("stopped", video, refusal=failure_of(error, stage=PROBE)))
