"""Flow rows into Parquet files, and clips' files into videos' files, in the memory of about two row groups.

A file's bytes follow from its rows and settings alone. Where row groups and files are cut follows from the rows' sizes,
not from the clips that they came in, so that the same frames make the same files however the work was divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import EncodeError
from pipeline.layout import SCHEMA_VERSION
from pipeline.records import flow_codec as codecs
from pipeline.records import joining
from pipeline.records.flow_codec import DEFAULT_CODEC, DEFAULT_MAX_ERROR_PX, Bools, Floats
from pipeline.records.flow_scale import reduced, stored_size
from pipeline.records.flow_schema import (
    CONFIDENCE_COLUMNS,
    COORDINATES,
    FIELD_COLUMNS,
    FLOW_COLUMNS,
    SCALES,
    SCHEMA,
    UNIT,
    VALIDITY_COLUMNS,
    FlowRow,
    direction_of,
    flow_schema,
)
from pipeline.records.joining import Grouped, GroupedFile, TableFile, TableKind
from pipeline.storage import redact

ROW_GROUP_ROWS = 64
ROW_GROUP_BYTES = 8 << 20
"""What reading one frame fetches at most, about: five frames of busy 1080p."""
FILE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class FlowFile(TableFile):
    """A finished local file."""

    max_error_px: float = 0.0
    """Largest error of a stored component against what was given, px."""


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
        self._out = GroupedFile(self._path, self._schema, TABLE, Grouped(row_group_rows, row_group_bytes))
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
            file = self._out.close()
            self._done = FlowFile(file.path, file.rows, file.bytes, self._error)
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
) -> Iterator[TableFile]:
    """Clips' files into a video's, or several videos' into one: `joining.concatenate` for flow rows.

    Fields are copied as they are. RecordDamaged for a part that is no flow file, or differs from the first in codec,
    error, scale or metadata; ValueError without any part.
    """
    groups = Grouped(row_group_rows, row_group_bytes)
    return joining.concatenate(parts, out, TABLE, groups, file_bytes)


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


def _field_bytes(row: pa.Table) -> int:
    """Bytes of a row's fields, the same wherever the row comes from (Table.nbytes depends on how it was sliced)."""
    total = 0
    for name in FIELD_COLUMNS:
        scalar = row.column(name)[0]
        if scalar.is_valid:
            wide = 1 if pa.types.is_binary(scalar.type) or pa.types.is_boolean(scalar.type.value_type) else 4
            total += wide * (len(scalar.as_buffer()) if pa.types.is_binary(scalar.type) else len(scalar.values))
    return total


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    """Payloads are compressed already; plain lists pack best with their floats' bytes split."""
    plain = pa.types.is_list(schema.field(FLOW_COLUMNS[0]).type)
    small = [name for name in schema.names if name not in FIELD_COLUMNS]
    leaves = {name: f"{name}.list.element" if plain else name for name in FIELD_COLUMNS}
    floats = [leaves[name] for name in (*FLOW_COLUMNS, *CONFIDENCE_COLUMNS)]
    return {
        "compression": dict.fromkeys(small, "zstd") | dict.fromkeys(leaves.values(), "zstd" if plain else "none"),
        "column_encoding": dict.fromkeys(floats, "BYTE_STREAM_SPLIT") if plain else None,
    }


TABLE = TableKind(SCHEMA, FIELD_COLUMNS, _field_bytes, _encodings)
