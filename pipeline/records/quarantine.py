"""The quarantine table: what failed, why, how far it got. Derived from error commits, so it can always be rebuilt."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.layout import SCHEMA_VERSION, Layout
from pipeline.records.commit import ClipCommit, VideoCommit, iter_clip_commits, iter_video_commits
from pipeline.storage import Storage, redact, scrub

SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("clip", pa.string(), metadata={"meaning": "clip_id; null: the whole video"}),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error_type", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("pts", pa.int64(), metadata={"unit": "time_base", "meaning": "how far it got"}),
        pa.field("time_base", pa.string(), metadata={"unit": "seconds, as a fraction"}),
        pa.field("attempts", pa.int32(), nullable=False, metadata={"unit": "tries"}),
        pa.field("traceback", pa.string(), nullable=False),
        pa.field("prefix_uri", pa.string(), metadata={"meaning": "good beginning of the video, if any"}),
        pa.field("prefix_frames", pa.int64(), metadata={"unit": "frames"}),
        pa.field("session", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False, metadata={"meaning": "when it was recorded"}),
        pa.field("fingerprint", pa.string(), nullable=False),
    ],
    metadata={"schema": "motionmill.quarantine", "schema_version": str(SCHEMA_VERSION)},
)


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """One failure; the columns of the table."""

    uri: str
    member: str
    version: str
    video_id: str
    clip: str | None
    stage: str
    error_type: str
    message: str
    pts: int | None
    time_base: str | None
    attempts: int
    traceback: str
    prefix_uri: str | None
    prefix_frames: int | None
    session: str
    time: datetime
    fingerprint: str


def row_of(
    commit: ClipCommit | VideoCommit, layout: Layout, session: str, time: datetime | None = None
) -> QuarantineRow:
    """The row of an error commit. ValueError if it is none."""
    failure = commit.failure
    if failure is None:
        raise ValueError(f"{commit.video_id}: status {commit.status!r} has no place in quarantine")
    return QuarantineRow(
        uri=redact(commit.uri),
        member=commit.member,
        version=commit.version,
        video_id=commit.video_id,
        clip=commit.clip_id if isinstance(commit, ClipCommit) else None,
        stage=failure.stage,
        error_type=failure.error_type,
        message=scrub(failure.message),
        pts=failure.pts,
        time_base=commit.time_base or None,
        attempts=failure.attempts,
        traceback=scrub(failure.traceback),
        prefix_uri=redact(layout.uri(failure.prefix.path)) if failure.prefix else None,
        prefix_frames=failure.prefix.frames if failure.prefix else None,
        session=session,
        time=time or datetime.now(UTC),
        fingerprint=commit.fingerprint,
    )


def failures(storage: Storage, layout: Layout, session: str) -> Iterator[QuarantineRow]:
    """The rows of all error commits: those of videos, then those of clips. Brings the commits' catalogue up to date."""
    time = datetime.now(UTC)
    for video in iter_video_commits(storage, layout, renew=True):
        if video.status == "error":
            yield row_of(video, layout, session, time)
    for clip in iter_clip_commits(storage, layout):
        if clip.status == "error":
            yield row_of(clip, layout, session, time)


def write(storage: Storage, layout: Layout, rows: Iterable[QuarantineRow]) -> int:
    """Replaces the table by `rows` in one atomic put (zstd Parquet); returns how many."""
    names = [field.name for field in fields(QuarantineRow)]
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for row in rows:
        for name in names:
            columns[name].append(getattr(row, name))
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), buffer, compression="zstd")
    storage.put(layout.quarantine, buffer.getvalue())
    return len(columns["uri"])


def rebuild(storage: Storage, layout: Layout, session: str) -> int:
    """Writes the table anew from the error commits; returns the number of rows."""
    return write(storage, layout, failures(storage, layout, session))


def read(storage: Storage, layout: Layout) -> pa.Table:
    """The table. ObjectNotFound if the run has written none."""
    return pq.read_table(io.BytesIO(storage.read_bytes(layout.quarantine)))
