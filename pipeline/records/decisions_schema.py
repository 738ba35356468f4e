"""The table of decisions: a row an output frame, with how it was made, at which place, and what its patches got.

A row names the frame by the output's own count and time base. It does not say which clip made it: the same video gives
the same file however the work was cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import pyarrow as pa

from pipeline.layout import SCHEMA_VERSION
from pipeline.plan.adaptive import Choice
from pipeline.plan.patches import Patch

SCHEMA = "motionmill.decisions"
SUFFIX = ".decisions.parquet"
"""Beside the video: video/<name>.decisions.parquet."""
SHOWN_AS_IS = ("source", "source_near", "held_cut", "held_end", "held_same")
SYNTHESISED = "synthesised"
KINDS = (SYNTHESISED, *SHOWN_AS_IS)
PATCH_COLUMNS = ("patch_top", "patch_left", "patch_height", "patch_width", "scale", "depth")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DecisionRecord:
    """One output frame. ValueError for what contradicts itself."""

    video_uri: str
    video_version: str
    member: str
    video_id: str
    frame_index: int
    """Of the output, from 0."""
    pts: int
    """Of the output, in time_base."""
    time_base: Fraction
    kind: str
    """How it was made: one of KINDS."""
    t: Fraction
    """The place that was wanted between the two pictures around it, 0..1; 0: the earlier one itself."""
    t_error: Fraction | None
    """Distance to the place that was made, as a share of the interval; None: a picture was held, nothing was made."""
    height: int
    width: int
    """Pixels of the frame as coded in the source; patches lie in it."""
    patches: tuple[Patch, ...] = ()
    """In row order; empty where nothing was synthesised, and for models that do not decide by patch."""
    choices: tuple[Choice, ...] = ()
    """What each patch got; depth 0: no network."""
    flops: int | None
    """Spent by the pass that made the frame, two a multiply-accumulate; 0: none was needed; None: not counted."""
    full_flops: int | None
    """What the same network takes at full depth and scale on the whole frame; None: not counted."""
    model: str
    weights_sha256: str
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.kind not in KINDS or len(self.patches) != len(self.choices) or not 0 <= self.t <= 1:
            raise ValueError(
                f"{self!r}: kind one of {', '.join(KINDS)}, t in 0..1 (found {self.t}), a choice for each patch "
                f"(found {len(self.choices)} for {len(self.patches)})"
            )

    def __repr__(self) -> str:
        return f"DecisionRecord({self.video_id}, frame {self.frame_index}, {self.kind}, {len(self.patches)} patches)"

    def shares(self) -> dict[Choice, float]:
        """Share of the patches by what they got, the most frequent first; empty without patches."""
        return {choice: count / len(self.choices) for choice, count in Counter(self.choices).most_common()}


def decisions_schema(metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """The table's columns; units also as metadata of the file, with the caller's own."""

    def field(name: str, kind: pa.DataType, nullable: bool = False, **notes: str) -> pa.Field:
        return pa.field(name, kind, nullable=nullable, metadata=notes or None)

    def each(kind: pa.DataType) -> pa.DataType:
        return pa.list_(pa.field("element", kind, nullable=False))

    columns = [
        field("video_uri", pa.string(), meaning="the input, without secrets"),
        field("video_version", pa.string(), meaning="etag, or size and mtime"),
        field("member", pa.string(), meaning="member of a tar shard, or row of a table"),
        field("video_id", pa.string(), meaning="names uri, member and version"),
        field("frame_index", pa.int64(), meaning="of the output, 0-based, in order of pts"),
        field("pts", pa.int64(), unit="time_base", meaning="of the output"),
        field("time_base", pa.string(), unit="seconds, as a fraction"),
        field("kind", pa.string(), meaning=" or ".join(KINDS)),
        field("t", pa.string(), unit="share of the interval, as a fraction", meaning="place wanted; 0: earlier frame"),
        field("t_error", pa.string(), True, unit="share of the interval, as a fraction", meaning="null: held"),
        field("height", pa.int32(), unit="px of the source frame, as coded"),
        field("width", pa.int32(), unit="px of the source frame, as coded"),
        *(field(name, each(pa.int32()), unit="px of the frame") for name in PATCH_COLUMNS[:4]),
        field("scale", each(pa.int8()), meaning="of each patch: its sides were divided by this"),
        field("depth", each(pa.int8()), meaning="of each patch: the exit, from 1; 0: no network, static"),
        field("flops", pa.int64(), True, unit="floating-point operations, two a multiply-accumulate"),
        field("full_flops", pa.int64(), True, unit="as flops", meaning="the whole frame at full depth and scale"),
        field("model", pa.string()),
        field("weights_sha256", pa.string()),
        field("schema_version", pa.int32()),
    ]
    notes = {"schema": SCHEMA, "schema_version": str(SCHEMA_VERSION)}
    return pa.schema(columns, metadata={**(metadata or {}), **notes})
