"""What travels through Ray Data: one small row a clip in, one receipt out. Frames and flow fields never do.

A row's `kind` says what is to be done with it:
    clip        process and commit it
    committed   an earlier run has committed it: pass it on, so that its video can be joined
    failed      an earlier run has quarantined it: likewise
    refused     the video could not be probed or planned: pass the error on to the quarantine
    stopped     the store stayed unwell while the video was planned: the run ends
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from pipeline.records.commit import Failure
from pipeline.types import ClipRef, VideoInfo, VideoRef


@dataclass(frozen=True, slots=True)
class Row:
    kind: str
    video: VideoRef
    info: VideoInfo | None = None
    """Headers only: the frames' times stay behind (see `headers_only`)."""
    clip: ClipRef | None = None
    expected_rows: int = 0
    """Rows that the whole video will have."""
    source_frames: int = 0
    """Frames of the whole video."""
    refusal: Failure | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """When a worker did a clip. Moments are Unix times by its own clock."""

    worker: str
    """Names the process."""
    born: float
    ready: float
    """When its model was loaded."""
    began: float
    span_s: float
    """Seconds of the whole clip, from opening the video to the commit."""
    first_s: float = 0.0
    """Until its first frame was decoded."""
    after_s: float = 0.0
    """From the last frame that the model made to the commit."""
    work: float = 0.0
    bare: tuple[float, float] = (0.0, 0.0)
    spent_flops: int = 0
    """As ClipOutput has them."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a row. `status`: ok, error (quarantined), refused, or stopped (the run must end: `message`)."""

    row: Row
    status: str
    rows: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    message: str = ""
    bytes: int = 0
    fresh: bool = True
    """False when an earlier run, or another worker, had committed it."""
    retries: int = 0
    """Object-store calls that had to be repeated."""
    peak_rss: int = 0
    """Most bytes that the worker has had resident so far."""
    tries: int = 1
    """How often the clip was begun, by this worker or others."""
    times: Times | None = None


def headers_only(info: VideoInfo) -> VideoInfo:
    """Without all frames' times and key packets, which grow with the video: the first ones, and the end, are kept."""
    return replace(info, pts=(info.pts[0],), last_duration=info.end_pts - info.pts[0], keys=info.keys[:1])


_ADAPTERS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Row, Receipt)}


def to_table(item: Row | Receipt) -> pa.Table:
    """One row of one JSON column."""
    return pa.table({"item": [_ADAPTERS[type(item)].dump_json(item)]})


def row_from(item: bytes) -> Row:
    row: Row = _ADAPTERS[Row].validate_json(item)
    return row


def receipt_from(item: bytes) -> Receipt:
    receipt: Receipt = _ADAPTERS[Receipt].validate_json(item)
    return receipt
