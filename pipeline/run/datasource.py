"""Ray Data's source: videos are probed and planned in parallel, and come out as one clip reference a block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from pipeline.errors import StorageError, UsageError
from pipeline.media.probe import probe
from pipeline.plan.clips import plan_clips
from pipeline.records.commit import load_clip_commits
from pipeline.run.rows import Row, headers_only, to_table
from pipeline.run.watchdog import Watchdog
from pipeline.run.worker import RunContext, attempt, failure_of, open_video
from pipeline.types import ClipRef, VideoInfo, VideoRef

PROBE = "probe"
"""Stands for a clip's name in the ledger of attempts while a video is probed."""


def plan_video(context: RunContext, video: VideoRef, resume: bool) -> Iterator[Row]:
    """Rows of one video. Errors of the video itself become a row; those of the store are raised."""
    task = context.task

    def work(_number: int) -> tuple[VideoInfo, list[ClipRef], int, int]:
        with open_video(context.storage, video) as source:
            info = probe(source, video, task.config.input, task.config.decode)
        task.check_video(info)
        clips = plan_clips(video, info, task.config.clip.frames, task.halo())
        return headers_only(info), clips, len(info.pts), task.expected_rows(info)

    # Under the retry budget: headers that crash or hang the demuxer end in quarantine too.
    planned, failure = attempt(context, Watchdog(task.config.retry.hang_s), video.video_id, PROBE, work, stage=PROBE)
    if planned is None:
        yield Row("refused", video, refusal=failure)
        return
    header, clips, frames, expected = planned
    done = load_clip_commits(context.storage, context.layout, video.video_id) if resume else {}
    for clip in clips:
        commit = done.get(clip.clip_id)
        kind = "clip" if commit is None else "committed" if commit.status == "ok" else "failed"
        yield Row(kind, video, header, clip, expected, frames)


class VideoSource(Datasource):
    """Clips of `videos`, probed by light tasks a few videos at a time."""

    def __init__(self, context: RunContext, videos: Sequence[VideoRef], resume: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._context = context
        self._videos = list(videos)
        self._resume = resume

    def estimate_inmemory_data_size(self) -> int:
        return 1000 * len(self._videos)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        # Small groups, so that the first clips come early and a lost task costs little.
        size = max(1, min(8, len(self._videos) // max(1, parallelism)))
        return [
            ReadTask(
                _Reader(self._context, self._videos[start : start + size], self._resume),
                BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None),
            )
            for start in range(0, len(self._videos), size)
        ]


class _Reader:
    def __init__(self, context: RunContext, videos: list[VideoRef], resume: bool) -> None:
        self._context, self._videos, self._resume = context, videos, resume

    def __call__(self) -> Iterable[pa.Table]:
        for video in self._videos:
            try:
                for row in plan_video(self._context, video, self._resume):
                    yield to_table(row)
            except (StorageError, UsageError) as error:
                yield to_table(Row("stopped", video, refusal=failure_of(error, stage=PROBE)))
