"""Records of decisions as Parquet: `write_decisions` for one video, `read_decisions` for a run's output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.plan.adaptive import Choice
from pipeline.plan.patches import Patch
from pipeline.records.decisions_schema import PATCH_COLUMNS, SCHEMA, DecisionRecord, decisions_schema
from pipeline.records.reading import Frames, RecordKind, read_record_file, read_records
from pipeline.storage import Storage, redact

GROUP_ROWS = 1024
"""Rows of a row group: a few tens of kilobytes, and what is held while writing."""


def write_decisions(path: Path, records: Iterable[DecisionRecord], metadata: Mapping[str, str] | None = None) -> int:
    """Writes a file; returns its rows. Its bytes follow from the records and the metadata alone."""
    schema = decisions_schema(metadata)
    rows, remaining = 0, iter(records)
    lists = {*PATCH_COLUMNS}
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        write_statistics=[name for name in schema.names if name not in lists],
    ) as out:
        while group := [_columns(record) for record in islice(remaining, GROUP_ROWS)]:
            out.write_table(pa.Table.from_pylist(group, schema), row_group_size=len(group))
            rows += len(group)
    return rows


def _columns(record: DecisionRecord) -> dict[str, Any]:
    plain = {name: getattr(record, name) for name in _PLAIN}
    patches = {f"patch_{side}": [getattr(patch, side) for patch in record.patches] for side in _SIDES}
    choices = {name: [getattr(choice, name) for choice in record.choices] for name in ("scale", "depth")}
    return plain | patches | choices | {
        "video_uri": redact(record.video_uri),
        "time_base": str(record.time_base),
        "t": str(record.t),
        "t_error": None if record.t_error is None else str(record.t_error),
    }  # fmt: skip


_SIDES = ("top", "left", "height", "width")
_PLAIN = (
    "video_version", "member", "video_id", "frame_index", "pts", "kind", "height", "width", "flops", "full_flops",
    "model", "weights_sha256", "schema_version",
)  # fmt: skip


def read_decisions(
    output: str, video: str | None = None, frames: Frames = None, *, storage: Storage | None = None
) -> Iterator[DecisionRecord]:
    """The records of decisions of an interpolation run, by video, in the order of frames.

    output    the run's output prefix: a folder or any fsspec URL
    video     its name below the input, its URI, or its video_id; None: all
    frames    frame indices of the output video, from 0: one, or several; None: all
    Raises InputNotFound and RecordDamaged as `reading.read_records` says, InputNotFound also for a run that was made
    without these records.
    """
    return read_records(_KIND, output, video, frames, storage)


def read_decisions_file(
    source: str, frames: Frames = None, *, storage: Storage | None = None
) -> Iterator[DecisionRecord]:
    """The records of one Parquet file, whether or not a commit names it."""
    return read_record_file(_KIND, source, None, frames, storage)


def _record(row: dict[str, Any], _table: pa.Table, _place: int) -> DecisionRecord:
    lists = [row.pop(name) for name in PATCH_COLUMNS]
    if len({len(values) for values in lists}) != 1:
        raise ValueError(f"{', '.join(PATCH_COLUMNS)} have {[len(values) for values in lists]} patches")
    exact = {name: None if row[name] is None else Fraction(row[name]) for name in ("time_base", "t", "t_error")}
    return DecisionRecord(
        **{**row, **exact},
        patches=tuple(Patch(*sides) for sides in zip(*lists[:4], strict=True)),
        choices=tuple(Choice(*pair) for pair in zip(*lists[4:], strict=True)),
    )


_KIND = RecordKind(
    task="interpolate",
    records="records of decisions",
    job="jobs/interpolate.py with decisions=true",
    schema=SCHEMA,
    large=(),
    make=_record,
)
