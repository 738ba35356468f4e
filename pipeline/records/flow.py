"""Reading flow records: `read_flow` for a run's output, `read_flow_file` for a single Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from pipeline.records import flow_codec as codecs
from pipeline.records.flow_schema import (
    CONFIDENCE_COLUMNS,
    FIELD_COLUMNS,
    FLOW_COLUMNS,
    SCHEMA,
    VALIDITY_COLUMNS,
    FlowRecord,
)
from pipeline.records.reading import SUFFIX, Frames, RecordKind, read_record_file, read_records
from pipeline.storage import Storage

__all__ = ["SUFFIX", "Directions", "Frames", "read_flow", "read_flow_file"]

Directions = Literal["both", "forward", "backward"]


def read_flow(
    output: str,
    video: str | None = None,
    frames: Frames = None,
    *,
    directions: Directions = "both",
    storage: Storage | None = None,
) -> Iterator[FlowRecord]:
    """The flow records of a run, by video, in the order of frames.

    output      the run's output prefix: a folder or any fsspec URL
    video       its name below the input, its URI (`…/a.tar#member` for one in a shard), or its video_id; None: all
    frames      frame indices of the video, from 0: one, or several (long stretches best as a range); None: all. They
                come in ascending order, once each
    directions  which fields are fetched and decoded: flow, validity and confidence of the other direction are None,
                at half the bytes and half the time. A record's `direction` still says what is stored
    Raises InputNotFound where there is no run of the flow task, or no such video, or it failed, and, after those that
    are there, for frames that the video asked for does not have; RecordDamaged for bytes that are not what was written.
    """
    return read_records(_kind(directions), output, video, frames, storage)


def read_flow_file(
    source: str,
    video: str | None = None,
    frames: Frames = None,
    *,
    directions: Directions = "both",
    storage: Storage | None = None,
) -> Iterator[FlowRecord]:
    """The flow records of one Parquet file (a path or fsspec URL), whether or not a commit names it.

    `video` is a video_id, for a file that holds several; `frames`, `directions` and errors as for `read_flow`.
    """
    return read_record_file(_kind(directions), source, video, frames, storage)


def _kind(directions: str) -> RecordKind[FlowRecord]:
    if directions not in get_args(Directions):
        raise ValueError(f"directions={directions!r}: one of {', '.join(get_args(Directions))}")
    if directions == "both":
        return _KIND
    left_out = frozenset(name for name in FIELD_COLUMNS if not name.endswith(f"_{directions}"))
    return replace(_KIND, left_out=left_out, make=partial(_record, left_out=left_out))


def _record(row: dict[str, Any], table: pa.Table, place: int, left_out: frozenset[str] = frozenset()) -> FlowRecord:
    shape = (row["stored_height"], row["stored_width"])
    fields: dict[str, Any] = {}
    for names, read, kind, full in (
        (FLOW_COLUMNS, codecs.decode, np.float32, (2, *shape)),
        (VALIDITY_COLUMNS, codecs.decode_mask, np.bool_, shape),
        (CONFIDENCE_COLUMNS, codecs.decode_confidence, np.float32, shape),
    ):
        for name in names:
            value = None if name in left_out else table.column(name)[place]
            if value is None or not value.is_valid:
                fields[name] = None
            elif row["codec"] == "none":
                plain = value.values.to_numpy(zero_copy_only=False)
                fields[name] = plain.astype(kind).reshape(full)  # a copy, that outlives the row group
            else:
                fields[name] = read(value.as_py())
            if fields[name] is not None and fields[name].shape != full:
                raise ValueError(f"{name} is {list(fields[name].shape)} where the row says {list(full)}")
    exact = {"time_base": Fraction(row["time_base"]), "stored_scale": Fraction(row["stored_scale"])}
    return FlowRecord(**{**row, **fields, **exact})


_KIND = RecordKind(
    task="flow",
    records="flow records",
    job="jobs/flow.py",
    schema=SCHEMA,
    large=FIELD_COLUMNS,
    make=_record,
)
