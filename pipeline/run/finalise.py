"""When all clips of a video are committed: join them, check the result, commit the video."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import MotionmillError, OutputMismatch
from pipeline.records.commit import (
    ClipCommit,
    DataObject,
    Failure,
    VideoCommit,
    commit_video,
    identity,
    load_clip_commits,
    tidy,
)
from pipeline.run import scratch
from pipeline.run.rows import Row
from pipeline.run.watchdog import Watchdog
from pipeline.run.worker import RunContext, attempt, open_video, upload
from pipeline.storage import redact
from pipeline.tasks.base import ClipPart, VideoOutput
from pipeline.types import VideoRef


def finalise(context: RunContext, row: Row) -> VideoCommit:
    """Joins the video of `row` and commits it; a video with a failed clip keeps its good prefix, in quarantine.

    Safe to run twice, or twice at once: the output is the same, and only one commit wins.
    """
    if row.refusal is not None:
        commit, _ = commit_video(context.storage, context.layout, _commit(context, row, (), row.refusal, (), {}))
        return commit
    clips = list(load_clip_commits(context.storage, context.layout, row.video.video_id).values())
    bad = next((clip.failure for clip in clips if clip.failure is not None), None)

    uploaded: list[DataObject] = []

    def work(_number: int) -> tuple[list[DataObject], dict[str, Any]]:
        uploaded.clear()  # the same names again
        with scratch.folder(context.task.config.resources.scratch) as folder:
            return uploaded, _joined(context, row, clips, folder, bad is None, uploaded)

    # Joining shows no sign of life in between: it may take as long as its clips might.
    watchdog = Watchdog(context.task.config.retry.hang_s * max(1, len(clips)))
    result, failure = attempt(context, watchdog, row.video.video_id, "join", work, stage="finalise")
    data, extra = result or ([], {})
    # Where the clips are good but cannot be joined, this is the video's failure; else the first clip's counts.
    commit, mine = commit_video(
        context.storage, context.layout, _commit(context, row, clips, bad or failure, data, extra)
    )
    with suppress(MotionmillError):  # what is left behind is named by no commit: harmless, and collected by a later run
        tidy(context.storage, context.layout, commit)
        if mine and result is None:  # a video of several files that failed after the first
            context.storage.delete_many(context.layout.uri(data.path) for data in uploaded)
    return commit


def _joined(
    context: RunContext,
    row: Row,
    clips: Sequence[ClipCommit],
    folder: Path,
    whole: bool,
    uploaded: list[DataObject],
) -> dict[str, Any]:
    """Each output is uploaded, and its local file deleted, before the next is made."""
    assert row.info is not None
    extra: dict[str, Any] = {}
    rows = 0
    good = _good(clips)
    if good:
        parts = [
            ClipPart(data.frames, data.size, facts, partial(_fetch, context, data, folder / f"{index:06d}"))
            for index, (data, facts) in enumerate(good)
        ]
        with open_video(context.storage, row.video) as source:
            for output in context.task.join(row.video, row.info, parts, source, folder, whole):
                uploaded.append(upload(context, output.path, _place(context, row.video, output, whole), output.rows))
                output.path.unlink()
                extra |= output.extra
                rows += output.rows if output.result else 0
    if whole and rows != row.expected_rows:
        raise OutputMismatch(f"{row.video}: the output has {rows} frames, the plan {row.expected_rows}")
    return extra


def _place(context: RunContext, video: VideoRef, output: VideoOutput, whole: bool) -> str:
    layout, task = context.layout, context.task
    if not whole:
        return layout.good_prefix(video.name, output.suffix, task.folder)
    grouping = task.grouping
    if grouping is not None and output.may_share and output.path.stat().st_size < grouping.below:
        return layout.ungrouped(video.video_id, output.suffix)
    return layout.final(video.name, output.suffix, task.folder)


def _good(clips: Sequence[ClipCommit]) -> list[tuple[DataObject, dict[str, Any]]]:
    """The data up to the first failed clip, and that clip's own good beginning."""
    good = []
    for clip in clips:
        data = clip.failure.prefix if clip.failure else clip.data
        if data is not None:
            good.append((data, clip.extra))
        if clip.failure is not None:
            break
    return good


def _fetch(context: RunContext, data: DataObject, path: Path) -> Path:
    uri = context.layout.uri(data.path)
    context.storage.get_file(uri, path)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != data.sha256:
        raise OutputMismatch(
            f"{redact(uri)}: sha256 {found[:16]}… differs from its commit's {data.sha256[:16]}…: it was changed from "
            "outside; run again with --overwrite",
            stage="finalise",
        )
    return path


def _commit(
    context: RunContext,
    row: Row,
    clips: Sequence[ClipCommit],
    failure: Failure | None,
    outputs: Sequence[DataObject],
    extra: dict[str, Any],
) -> VideoCommit:
    if failure is not None:
        failure = failure.model_copy(update={"prefix": outputs[0] if outputs else None})
    return VideoCommit(
        **identity(row.video),
        status="error" if failure else "ok",
        attempt=context.session,
        fingerprint=context.fingerprint,
        provenance=clips[0].provenance if clips else context.provenance("", ""),
        failure=failure,
        extra={"source_frames": row.source_frames, **extra},
        time_base=str(row.info.time_base) if row.info else "",
        outputs=tuple(outputs) if failure is None else (),
        clips=row.clip.count if row.clip else 0,
        failed_clips=sum(clip.status == "error" for clip in clips),
    )
