"""The flow table: a row a frame, with its flow to both neighbours. Columns, units, and what a row is in memory.

With codec `pcodec` the fields are payloads of flow_codec.py; with `none` they are plain lists in row order (flow:
2·H·W float32, all x then all y; validity: H·W booleans; confidence: H·W float32), for those who want no reader of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pyarrow as pa

from pipeline.layout import SCHEMA_VERSION
from pipeline.records.flow_codec import CODECS, CONFIDENCE_MAX_ERROR, Bools, Floats
from pipeline.records.identity import IDENTITY_FIELDS, FrameIdentity

SCHEMA = "motionmill.flow"
UNIT = "px of the full frame"
COORDINATES = "x right, y down; component 0 is x, 1 is y; the frame as coded, before rotation and sample aspect ratio"
DIRECTIONS = (
    "flow_forward: the pixel (x, y) of this frame is at (x, y) + flow in the next frame of the shot; "
    "flow_backward: the same in the previous frame"
)
SCALES = (Fraction(1), Fraction(1, 2), Fraction(1, 4), Fraction(1, 8))

FLOW_COLUMNS = ("flow_forward", "flow_backward")
VALIDITY_COLUMNS = ("validity_forward", "validity_backward")
CONFIDENCE_COLUMNS = ("confidence_forward", "confidence_backward")
FIELD_COLUMNS = (*FLOW_COLUMNS, *VALIDITY_COLUMNS, *CONFIDENCE_COLUMNS)
"""The large ones: no dictionaries, no statistics."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class FlowRow(FrameIdentity):
    """One frame and its flows, at full size, as the writer takes them. ValueError for shapes that do not fit.

    A direction without a neighbour is None, and so are its validity and confidence. `previous_pts` and `next_pts` are
    the neighbours in the shot, whichever directions are stored: None says that the shot begins or ends here.
    """

    previous_pts: int | None
    next_pts: int | None
    flow_forward: Floats | None
    """float32 [2,H,W] px, to the next frame."""
    flow_backward: Floats | None
    """float32 [2,H,W] px, to the previous frame."""
    validity_forward: Bools | None = None
    """bool [H,W]."""
    validity_backward: Bools | None = None
    confidence_forward: Floats | None = None
    """float32 [H,W] in 0..1."""
    confidence_backward: Floats | None = None
    model: str
    weights_sha256: str
    iterations: int
    precision: str
    """"fp32" or "bf16"."""

    def __post_init__(self) -> None:
        FrameIdentity.__post_init__(self)
        check_fields(self, self.height, self.width)
        for flow, pts in zip(FLOW_COLUMNS, (self.next_pts, self.previous_pts), strict=True):
            if getattr(self, flow) is not None and pts is None:
                raise ValueError(f"frame {self.frame_index} of {self.video_id}: {flow} without that neighbour's pts")

    def __repr__(self) -> str:
        return f"FlowRow({self.video_id}, frame {self.frame_index}, {described(self)})"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class FlowRecord(FrameIdentity):
    """One frame and its flows, as the reader gives them: everything that the row says.

    Fields have `stored_height` × `stored_width` pixels, which is `stored_scale` of the full frame; their values are
    pixels of the full frame at any scale.
    """

    previous_pts: int | None
    next_pts: int | None
    direction: str
    """Which flows the row holds, read or not: "both", "forward", "backward" or "none"."""
    flow_forward: Floats | None
    """float32 [2,H,W] px, x right, y down: pixel p of this frame is at p + flow in the next frame. None where there is
    no next frame, or it was not stored, or not asked for."""
    flow_backward: Floats | None
    """float32 [2,H,W] px, to the previous frame."""
    validity_forward: Bools | None
    """bool [H,W]: points into the neighbour, whose own flow points back. None where it was not stored."""
    validity_backward: Bools | None
    confidence_forward: Floats | None
    """float32 [H,W] in 0..1, within 1/500 with codec pcodec."""
    confidence_backward: Floats | None
    unit: str
    coordinates: str
    codec: str
    max_error_px: float
    """Declared: no component of a flow differs by more from what was computed (at the stored scale)."""
    stored_scale: Fraction
    stored_height: int
    stored_width: int
    model: str
    weights_sha256: str
    iterations: int
    precision: str
    schema_version: int

    def __repr__(self) -> str:
        return f"FlowRecord({self.video_id}, frame {self.frame_index}, {described(self)})"


def flow_schema(codec: str, metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """The table's columns; units and conventions also as metadata of the file, with the caller's own."""
    if codec not in CODECS:
        raise ValueError(f"codec {codec!r}: one of {', '.join(CODECS)}")
    plain = codec == "none"
    flow = pa.list_(pa.field("element", pa.float32(), nullable=False)) if plain else pa.binary()
    mask = pa.list_(pa.field("element", pa.bool_(), nullable=False)) if plain else pa.binary()
    sure = pa.list_(pa.field("element", pa.float32(), nullable=False)) if plain else pa.binary()
    shape = "[2, stored_height, stored_width]"
    forward, backward = "pixel p of this frame is at p + flow in the next", "… in the previous"

    def field(name: str, kind: pa.DataType, nullable: bool = False, **notes: str) -> pa.Field:
        return pa.field(name, kind, nullable=nullable, metadata=notes or None)

    columns = [
        *IDENTITY_FIELDS,
        field("previous_pts", pa.int64(), True, unit="time_base", meaning="neighbour in the shot; null: begins here"),
        field("next_pts", pa.int64(), True, unit="time_base", meaning="neighbour in the shot; null: ends here"),
        field("direction", pa.string(), meaning="flows in this row: both, forward, backward or none"),
        field("flow_forward", flow, True, unit=UNIT, shape=shape, meaning=forward),
        field("flow_backward", flow, True, unit=UNIT, shape=shape, meaning=backward),
        *(
            field(name, mask, True, shape=shape[0] + shape[4:], meaning="in the frame, and the flow back agrees")
            for name in VALIDITY_COLUMNS
        ),
        *(
            field(name, sure, True, unit="0..1", shape=shape[0] + shape[4:], meaning="1/e: expected error of e px")
            for name in CONFIDENCE_COLUMNS
        ),
        field("unit", pa.string(), meaning="of flow values"),
        field("coordinates", pa.string()),
        field("codec", pa.string(), meaning="of the fields; none: plain lists"),
        field("max_error_px", pa.float64(), unit="px", meaning="declared bound of each component's error; 0: exact"),
        field("stored_scale", pa.float64(), meaning="size of stored fields in full frames: 1, 1/2, 1/4 or 1/8"),
        field("stored_height", pa.int32(), unit="px of the stored field"),
        field("stored_width", pa.int32(), unit="px of the stored field"),
        field("model", pa.string()),
        field("weights_sha256", pa.string()),
        field("iterations", pa.int32()),
        field("precision", pa.string()),
        field("schema_version", pa.int32()),
    ]
    notes = {
        "schema": SCHEMA,
        "schema_version": str(SCHEMA_VERSION),
        "unit": UNIT,
        "coordinates": COORDINATES,
        "directions": DIRECTIONS,
        "codec": codec,
        "confidence_max_error": "0" if plain else str(CONFIDENCE_MAX_ERROR),
    }
    return pa.schema(columns, metadata={**(metadata or {}), **notes})


def check_fields(row: FlowRow | FlowRecord, height: int, width: int) -> None:
    """ValueError unless fields have the type and shape that belongs, and none stands without its flow."""
    for flow, validity, confidence in zip(FLOW_COLUMNS, VALIDITY_COLUMNS, CONFIDENCE_COLUMNS, strict=True):
        for name, kind, shape in (
            (flow, "float32", (2, height, width)),
            (validity, "bool", (height, width)),
            (confidence, "float32", (height, width)),
        ):
            value = getattr(row, name)
            if value is None:
                continue
            place = f"frame {row.frame_index} of {row.video_id}: {name}"
            if str(value.dtype) != kind or value.shape != shape:
                raise ValueError(f"{place} is {value.dtype} {list(value.shape)}; it must be {kind} {list(shape)}")
            if getattr(row, flow) is None:
                raise ValueError(f"{place} without {flow}")


def direction_of(forward: object | None, backward: object | None) -> str:
    return {(True, True): "both", (True, False): "forward", (False, True): "backward", (False, False): "none"}[
        (forward is not None, backward is not None)
    ]


def described(row: Any) -> str:
    """Shapes, not pixels."""
    shapes = (f"{name}={None if (v := getattr(row, name)) is None else list(v.shape)}" for name in FLOW_COLUMNS)
    return f"pts {row.pts}, {', '.join(shapes)}"
