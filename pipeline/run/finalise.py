"""When all clips of a video are committed: join them, check the result, commit the video."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import MotionmillError, OutputMismatch
from pipeline.records.commit import ClipCommit, DataObject, Failure, VideoCommit, commit_video, load_clip_commits, tidy
from pipeline.run.rows import Row
from pipeline.run.watchdog import Watchdog
from pipeline.run.worker import RunContext, attempt, open_video, upload
from pipeline.storage import redact
from pipeline.tasks.base import ClipPart, VideoOutput


def finalise(context: RunContext, row: Row) -> VideoCommit:
    """Joins the video of `row` and commits it; a video with a failed clip keeps its good prefix, in quarantine.

    Safe to run twice, or twice at once: the output is the same, and only one commit wins.
    """
    if row.refusal is not None:
        commit, _ = commit_video(context.storage, context.layout, _commit(context, row, (), row.refusal, None, {}))
        return commit
    clips = list(load_clip_commits(context.storage, context.layout, row.video.video_id).values())
    bad = next((clip.failure for clip in clips if clip.failure is not None), None)

    def work(_number: int) -> tuple[DataObject | None, dict[str, Any]]:
        folder = Path(tempfile.mkdtemp(prefix="motionmill-", dir=context.task.config.resources.scratch or None))
        try:
            return _joined(context, row, clips, folder, bad is None)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # Joining shows no sign of life in between: it may take as long as its clips might.
    watchdog = Watchdog(context.task.config.retry.hang_s * max(1, len(clips)))
    result, failure = attempt(context, watchdog, row.video.video_id, "join", work, stage="finalise")
    data, extra = result or (None, {})
    # Where the clips are good but cannot be joined, this is the video's failure; else the first clip's counts.
    commit, _ = commit_video(context.storage, context.layout, _commit(context, row, clips, bad or failure, data, extra))
    with suppress(MotionmillError):  # what is left behind is named by no commit: harmless, and collected by a later run
        tidy(context.storage, context.layout, commit)
    return commit


def _joined(
    context: RunContext, row: Row, clips: Sequence[ClipCommit], folder: Path, whole: bool
) -> tuple[DataObject | None, dict[str, Any]]:
    output = _join(context, row, _good(clips), folder, whole)
    if whole and (output is None or output.rows != row.expected_rows):
        raise OutputMismatch(
            f"{row.video}: the output has {output.rows if output else 0} frames, the plan {row.expected_rows}"
        )
    if output is None:
        return None, {}
    place = context.layout.final if whole else context.layout.good_prefix
    return upload(context, output.path, place(row.video.name, output.suffix), output.rows), output.extra


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


def _join(
    context: RunContext, row: Row, good: Sequence[tuple[DataObject, dict[str, Any]]], folder: Path, whole: bool
) -> VideoOutput | None:
    assert row.info is not None
    if not good:
        return None
    parts = [_fetch(context, data, extra, folder / f"{index:06d}") for index, (data, extra) in enumerate(good)]
    with open_video(context.storage, row.video) as source:
        return context.task.join(row.video, row.info, parts, source, folder, whole)


def _fetch(context: RunContext, data: DataObject, extra: dict[str, Any], path: Path) -> ClipPart:
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
    return ClipPart(path, data.frames, extra)


def _commit(
    context: RunContext,
    row: Row,
    clips: Sequence[ClipCommit],
    failure: Failure | None,
    data: DataObject | None,
    extra: dict[str, Any],
) -> VideoCommit:
    video = row.video
    if failure is not None:
        failure = failure.model_copy(update={"prefix": data})
    return VideoCommit(
        video_id=video.video_id,
        uri=redact(video.uri),
        member=video.member,
        version=video.version,
        name=video.name,
        status="error" if failure else "ok",
        attempt=context.session,
        fingerprint=context.fingerprint,
        provenance=clips[0].provenance if clips else context.provenance("", ""),
        failure=failure,
        extra={"source_frames": row.source_frames, **extra},
        time_base=str(row.info.time_base) if row.info else "",
        outputs=(data,) if data is not None and failure is None else (),
        clips=row.clip.count if row.clip else 0,
        failed_clips=sum(clip.status == "error" for clip in clips),
    )
