"""Which frame a row is about: the columns that every kind of record begins with, so that tables of one video join."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pyarrow as pa

IDENTITY_FIELDS: tuple[pa.Field, ...] = (
    pa.field("video_uri", pa.string(), nullable=False, metadata={"meaning": "the input, without secrets"}),
    pa.field("video_version", pa.string(), nullable=False, metadata={"meaning": "etag, or size and mtime"}),
    pa.field("member", pa.string(), nullable=False, metadata={"meaning": "member of a tar shard, or row of a table"}),
    pa.field("video_id", pa.string(), nullable=False, metadata={"meaning": "names uri, member and version"}),
    pa.field("shot", pa.int32(), nullable=False, metadata={"meaning": "0-based; frames between two cuts"}),
    pa.field("clip_id", pa.string(), nullable=False, metadata={"meaning": "the unit of work that made the row"}),
    pa.field("frame_index", pa.int64(), nullable=False, metadata={"meaning": "0-based, in order of pts"}),
    pa.field("pts", pa.int64(), nullable=False, metadata={"unit": "time_base"}),
    pa.field("time_base", pa.string(), nullable=False, metadata={"unit": "seconds, as a fraction"}),
    pa.field("height", pa.int32(), nullable=False, metadata={"unit": "px of the full frame, as coded"}),
    pa.field("width", pa.int32(), nullable=False, metadata={"unit": "px of the full frame, as coded"}),
)


@dataclass(frozen=True, slots=True)
class FrameIdentity:
    """One frame of one video; the columns of IDENTITY_FIELDS."""

    video_uri: str
    video_version: str
    member: str
    video_id: str
    shot: int
    """0-based. Where a clip was made on its own, counted from the clip's beginning until its video is joined."""
    clip_id: str
    frame_index: int
    pts: int
    time_base: Fraction
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.frame_index < 0 or self.time_base <= 0:
            raise ValueError(f"no frame: {self!r}")

    def columns(self) -> dict[str, Any]:
        """Values by column name, as Arrow takes them."""
        values = {field.name: getattr(self, field.name) for field in IDENTITY_FIELDS}
        return values | {"time_base": str(self.time_base)}

    @staticmethod
    def of(row: Mapping[str, Any]) -> FrameIdentity:
        """From a row of a table that has these columns, and perhaps others."""
        values = {field.name: row[field.name] for field in IDENTITY_FIELDS}
        return FrameIdentity(**(values | {"time_base": Fraction(values["time_base"])}))
