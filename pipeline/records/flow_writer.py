"""Flow rows into Parquet files, and clips' files into videos' files, in the memory of about two row groups.

A file's bytes follow from its rows and settings alone. Where row groups and files are cut follows from the rows' sizes,
not from the clips that they came in, so that the same frames make the same files however the work was divided.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import EncodeError, RecordDamaged
from pipeline.layout import SCHEMA_VERSION
from pipeline.records import flow_codec as codecs
from pipeline.records.flow_codec import DEFAULT_CODEC, DEFAULT_MAX_ERROR_PX, Bools, Floats
from pipeline.records.flow_scale import reduced, stored_size
from pipeline.records.flow_schema import (
    CONFIDENCE_COLUMNS,
    COORDINATES,
    FIELD_COLUMNS,
    FLOW_COLUMNS,
    SCALES,
    UNIT,
    VALIDITY_COLUMNS,
    FlowRow,
    direction_of,
    flow_schema,
)
from pipeline.storage import redact

ROW_GROUP_ROWS = 64
ROW_GROUP_BYTES = 8 << 20
"""What reading one frame fetches at most, about: five frames of busy 1080p."""
FILE_BYTES = 256 << 20
_DISTINCT = ("frame_index", "pts", "previous_pts", "next_pts")


@dataclass(frozen=True, slots=True)
class FlowFile:
    """A finished local file."""

    path: Path
    rows: int
    bytes: int
    max_error_px: float | None = None
    """Largest error of a stored component against what was given, px; None where fields were only copied."""


class FlowFileWriter:
    """One Parquet file of flow rows: encodes, verifies the bound, groups. A context manager, or `close` it.

    codec             "pcodec" or "none" (plain float32 lists)
    max_error_px      the bound that every flow component keeps; 0 in the file with codec none, which stores it exactly
    stored_scale      1, 1/2, 1/4 or 1/8 of the frame's size (flow_scale.py)
    row_group_rows,   a row group ends with the row that would go past either
    row_group_bytes
    metadata          for the file, beside units and conventions: the run's configuration, code version, …
    After an error, or where the `with` block raises, the file is incomplete: delete it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        codec: str = DEFAULT_CODEC,
        max_error_px: Fraction | float = DEFAULT_MAX_ERROR_PX,
        stored_scale: Fraction | float = Fraction(1),
        row_group_rows: int = ROW_GROUP_ROWS,
        row_group_bytes: int = ROW_GROUP_BYTES,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        if stored_scale not in SCALES:
            raise ValueError(f"stored_scale={stored_scale}: one of 1, 1/2, 1/4, 1/8")
        codecs.step_exponent(max_error_px)  # or a ValueError
        self._codec = codec
        self._scale = Fraction(stored_scale)
        self._bound: Fraction | float = 0 if codec == "none" else max_error_px
        notes = {"max_error_px": str(self._bound), "stored_scale": str(self._scale)}
        self._schema = flow_schema(codec, {**(metadata or {}), **notes})
        self._path, self._error = Path(path), 0.0
        self._out = _GroupedFile(self._path, self._schema, row_group_rows, row_group_bytes)
        self._done: FlowFile | None = None

    def write(self, row: FlowRow) -> None:
        """Appends a row. EncodeError if a field cannot be stored within the bound (values that are not finite)."""
        try:
            columns = self._columns(row)
        except EncodeError as error:
            raise EncodeError(f"{redact(row.video_uri)} frame {row.frame_index}: {error}", pts=row.pts) from error
        self._out.add(_one_row(columns, self._schema))

    def _columns(self, row: FlowRow) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for flow, validity, confidence in zip(FLOW_COLUMNS, VALIDITY_COLUMNS, CONFIDENCE_COLUMNS, strict=True):
            field = getattr(row, flow)
            if field is None:
                columns |= {flow: None, validity: None, confidence: None}
                continue
            small = reduced(field, getattr(row, validity), getattr(row, confidence), self._scale)
            columns |= dict(zip((flow, validity, confidence), self._encoded(*small), strict=True))
        height, width = stored_size(row.height, row.width, self._scale)
        return columns | {
            **row.columns(),
            "video_uri": redact(row.video_uri),
            "previous_pts": row.previous_pts,
            "next_pts": row.next_pts,
            "direction": direction_of(row.flow_forward, row.flow_backward),
            "unit": UNIT,
            "coordinates": COORDINATES,
            "codec": self._codec,
            "max_error_px": float(self._bound),
            "stored_scale": float(self._scale),
            "stored_height": height,
            "stored_width": width,
            "model": row.model,
            "weights_sha256": row.weights_sha256,
            "iterations": row.iterations,
            "precision": row.precision,
            "schema_version": SCHEMA_VERSION,
        }

    def _encoded(self, flow: Floats, validity: Bools | None, confidence: Floats | None) -> tuple[Any, Any, Any]:
        if self._codec == "none":
            codecs.check_flow(flow)  # the same refusals, whatever the codec
            if confidence is not None:
                codecs.check_confidence(confidence)
            return flow, validity, confidence
        encoded = codecs.encode(flow, self._bound, self._codec)
        self._error = max(self._error, encoded.max_error)
        return (
            encoded.payload,
            None if validity is None else codecs.encode_mask(validity).payload,
            None if confidence is None else codecs.encode_confidence(confidence).payload,
        )

    def close(self) -> FlowFile:
        """Writes what waits, and the footer."""
        if self._done is None:
            self._done = replace(self._out.close(), max_error_px=self._error)
        return self._done

    def abandon(self) -> None:
        """Lets go of the file, which stays incomplete."""
        self._out.abandon()

    def __enter__(self) -> FlowFileWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()


def concatenate(
    parts: Iterable[Path],
    out: Path,
    *,
    row_group_rows: int = ROW_GROUP_ROWS,
    row_group_bytes: int = ROW_GROUP_BYTES,
    file_bytes: int | None = None,
) -> Iterator[FlowFile]:
    """The rows of `parts`, in order, in new files, yielded as they are finished; fields are copied as they are.

    Each part is read to its end before the next is asked for, and may be gone then. The first file is `out`, which
    holds everything where `file_bytes` is None; else a file ends with the row group that reaches it, and
    `<stem>-00001` follows, and so on; a last one of less than a quarter of that is taken into the one before. A file
    that was yielded may be moved or deleted. Shots are counted anew along each video: one more at each row without a
    predecessor.
    Raises RecordDamaged for a part that is no flow file, or differs from the first in codec, error, scale or metadata;
    ValueError without any part.
    """
    finished = _files(parts, out, row_group_rows, row_group_bytes, file_bytes)
    held: FlowFile | None = None
    for file in finished:
        if held is not None:
            if file_bytes and file.bytes < file_bytes // 4:  # only the last can be
                yield _merged(held, file, row_group_rows, row_group_bytes)
                return
            yield held
        held = file
    if held is None:
        raise ValueError(f"{out}: no parts to join")
    yield held


def _files(
    parts: Iterable[Path], out: Path, row_group_rows: int, row_group_bytes: int, file_bytes: int | None
) -> Iterator[FlowFile]:
    number, schema, shots = 0, None, _Shots()
    target: _GroupedFile | None = None
    try:
        for part in parts:
            with _opened(part) as source:
                schema = _same_schema(schema, source.schema_arrow, part)
                target = target or _GroupedFile(out, schema, row_group_rows, row_group_bytes)
                for group in range(source.metadata.num_row_groups):
                    for row in _rows(shots.counted(source.read_row_group(group))):
                        if file_bytes and target.full_with(row) and target.bytes >= file_bytes:
                            yield target.close()
                            number += 1
                            path = out.with_stem(f"{out.stem}-{number:05d}")
                            target = _GroupedFile(path, schema, row_group_rows, row_group_bytes)
                        target.add(row)
        if target is not None:
            done, target = target, None
            yield done.close()
    finally:
        if target is not None:
            target.abandon()


def _merged(first: FlowFile, last: FlowFile, row_group_rows: int, row_group_bytes: int) -> FlowFile:
    path = first.path.with_stem(f"{first.path.stem}-merged")
    (both,) = _files([first.path, last.path], path, row_group_rows, row_group_bytes, None)
    last.path.unlink()
    os.replace(path, first.path)
    return FlowFile(first.path, both.rows, both.bytes)


@contextlib.contextmanager
def _opened(part: Path) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(part)
    except pa.ArrowException as error:
        raise RecordDamaged(f"{part}: not a Parquet file ({error}); make the clip again") from error
    with file:
        yield file


def _same_schema(first: pa.Schema | None, found: pa.Schema, part: Path) -> pa.Schema:
    if (found.metadata or {}).get(b"schema") != b"motionmill.flow":
        raise RecordDamaged(f"{part}: no file of flow records; its schema is {found.metadata}")
    if first is not None and not first.equals(found, check_metadata=True):
        notes = sorted({*first.metadata.items()} ^ {*found.metadata.items()})
        raise RecordDamaged(
            f"{part}: its columns or metadata differ from the first part's: {notes}; join like with like"
        )
    return found


class _Shots:
    """Clips are made on their own and count their shots from 0; a video's go on from clip to clip."""

    def __init__(self) -> None:
        self._video, self._shot = "", -1

    def counted(self, table: pa.Table) -> pa.Table:
        numbers = []
        columns = (table.column("video_id").to_pylist(), table.column("previous_pts").to_pylist())
        for video, previous in zip(*columns, strict=True):
            if video != self._video:
                self._video, self._shot = video, -1
            if previous is None or self._shot < 0:
                self._shot += 1
            numbers.append(self._shot)
        place = table.schema.get_field_index("shot")
        return table.set_column(place, table.schema.field(place), pa.array(numbers, pa.int32()))


class _GroupedFile:
    """A Parquet file whose row groups are cut by the rows' own sizes."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int, size: int) -> None:
        if rows < 1 or size < 1:
            raise ValueError(f"row_group_rows={rows}, row_group_bytes={size}: both at least 1")
        self._path, self._max_rows, self._max_bytes = path, rows, size
        self._waiting: list[pa.Table] = []
        self._waiting_bytes, self._rows = 0, 0
        self.bytes = 0
        """Of the fields so far, before Parquet's own compression."""
        plain = pa.types.is_list(schema.field(FLOW_COLUMNS[0]).type)
        small = [name for name in schema.names if name not in FIELD_COLUMNS]
        leaves = {name: f"{name}.list.element" if plain else name for name in FIELD_COLUMNS}
        floats = [leaves[name] for name in (*FLOW_COLUMNS, *CONFIDENCE_COLUMNS)]
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression=dict.fromkeys(small, "zstd") | dict.fromkeys(leaves.values(), "zstd" if plain else "none"),
            use_dictionary=[name for name in small if name not in _DISTINCT],
            write_statistics=small,
            column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT") if plain else None,
        )

    def full_with(self, row: pa.Table) -> bool:
        """Whether this row begins a new row group."""
        past = self._waiting_bytes + _field_bytes(row) > self._max_bytes
        return bool(self._waiting) and (past or len(self._waiting) >= self._max_rows)

    def add(self, row: pa.Table) -> None:
        if self.full_with(row):
            self._flush()
        self._waiting.append(row)
        self._waiting_bytes += _field_bytes(row)
        self.bytes += _field_bytes(row)

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=len(self._waiting))
            self._rows += len(self._waiting)
            self._waiting, self._waiting_bytes = [], 0

    def close(self) -> FlowFile:
        self._flush()
        self._writer.close()
        return FlowFile(self._path, self._rows, os.path.getsize(self._path))

    def abandon(self) -> None:
        self._waiting = []
        with contextlib.suppress(Exception):  # what went wrong before is the error to tell
            self._writer.close()


def _one_row(values: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        value = values[field.name]
        if isinstance(value, np.ndarray):
            flat = pa.array(value.reshape(-1), field.type.value_type)
            arrays.append(pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), flat, type=field.type))
        else:
            arrays.append(pa.array([value], field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _rows(table: pa.Table) -> Iterator[pa.Table]:
    return (table.slice(row, 1) for row in range(table.num_rows))


def _field_bytes(row: pa.Table) -> int:
    """Bytes of a row's fields, the same wherever the row comes from (Table.nbytes depends on how it was sliced)."""
    total = 0
    for name in FIELD_COLUMNS:
        scalar = row.column(name)[0]
        if scalar.is_valid:
            wide = 1 if pa.types.is_binary(scalar.type) or pa.types.is_boolean(scalar.type.value_type) else 4
            total += wide * (len(scalar.as_buffer()) if pa.types.is_binary(scalar.type) else len(scalar.values))
    return total
