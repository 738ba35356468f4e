"""The recognition table: a row a frame, with what was recognised in it and where its features came from.

Segmentation, by `labels`: "rle" has one run-length string a class, as COCO writes them (column-major); "png" and "zstd"
hold the label map whole, as a PNG in the classes' colours or as zstd-compressed bytes in row order. A pixel's value is
its class's place in the file's `classes`; 255 is none. Detection: boxes, scores and classes as lists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.layout import SCHEMA_VERSION
from pipeline.records.identity import IDENTITY_FIELDS, FrameIdentity
from pipeline.records.rle import VOID, Labels

if TYPE_CHECKING:
    from pipeline.plan.key_frames import Carried

SCHEMA = "motionmill.recognition"
KINDS = ("segmentation", "detection")
ENCODINGS = ("rle", "png", "zstd")
SIDES = ("key", "before", "after", "both")
COORDINATES = "px of the full frame as coded, x right, y down, before rotation and sample aspect ratio"

Kind = Literal["segmentation", "detection"]
Encoding = Literal["rle", "png", "zstd"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Detections:
    """Objects found in one frame, in the order of the network's own."""

    boxes: NDArray[np.float32]
    """[N,4] x1, y1, x2, y2: pixels of the full frame, corners of the box's outline."""
    scores: NDArray[np.float32]
    """[N] in 0..1."""
    classes: NDArray[np.int32]
    """[N] places in the file's `classes`."""

    def __post_init__(self) -> None:
        shapes = {"boxes": (len(self.scores), 4), "scores": (len(self.scores),), "classes": (len(self.scores),)}
        for name, shape in shapes.items():
            value, kind = getattr(self, name), "int32" if name == "classes" else "float32"
            if str(value.dtype) != kind or value.shape != shape:
                raise ValueError(f"{name} is {value.dtype} {list(value.shape)}; it must be {kind} {list(shape)}")

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Detections({len(self)})"

    @staticmethod
    def none() -> Detections:
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class RecognitionRow(FrameIdentity):
    """One frame and what was recognised, as the writer takes it. ValueError for what contradicts itself."""

    previous_pts: int | None
    """The frame before in the shot; None: the shot begins here."""
    is_key: bool
    """Whether the whole network ran on it."""
    promoted: bool = False
    """A key frame beyond the budget, because none explained it well enough."""
    key_pts: int
    """Of the key frame whose features were carried here; its own if it is one."""
    gap: int
    """Frames to that key frame."""
    side: str
    """Where it lies: "key" (itself), "before", "after", or "both" where features of two were mixed."""
    residual: float | None
    """Of carrying low-resolution frames (plan/key_residuals.py): 0 for a key frame, None where not measured."""
    other_key_pts: int | None = None
    """With "both": the second key frame's."""
    share: float = 1.0
    """Weight of the first one's features."""
    flops: int
    """Floating-point operations spent on the frame, two a multiply-accumulate."""
    model: str
    weights_sha256: str
    precision: str
    """"fp32" or "bf16"."""
    labels: Labels | None = None
    """uint8 [h,w] of the frame's size or smaller: places in `classes`, 255 for none. Segmentation only."""
    detections: Detections | None = None
    """Detection only."""

    def __post_init__(self) -> None:
        FrameIdentity.__post_init__(self)
        check_row(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.video_id}, frame {self.frame_index}, {self.side}, {described(self)})"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class RecognitionRecord(RecognitionRow):
    """One frame and what was recognised, as the reader gives it: everything that the row says, and its file's classes.

    Labels have `labels.shape` pixels, which may be fewer than the frame's; `full_labels` brings them to its size.
    """

    kind: str
    """"segmentation" or "detection"."""
    classes: tuple[str, ...]
    """Names, by the numbers in labels and detections."""
    schema_version: int

    def full_labels(self) -> Labels:
        """The label map at the frame's size [H,W]: each pixel takes the value of the cell that it lies in."""
        if self.labels is None:
            raise ValueError(f"frame {self.frame_index} of {self.video_id}: a {self.kind} record has no label map")
        return enlarged(self.labels, self.height, self.width)


def enlarged(labels: Labels, height: int, width: int) -> Labels:
    """The label map [h,w] at the size [height,width]: each pixel takes the value of the cell that it lies in."""
    if labels.shape == (height, width):
        return labels
    rows = np.arange(height) * labels.shape[0] // height
    columns = np.arange(width) * labels.shape[1] // width
    return np.ascontiguousarray(labels[rows[:, None], columns])


def carried_columns(carried: Carried, pts: Sequence[int] | Mapping[int, int]) -> dict[str, Any]:
    """The part of a row that says where its features came from. `pts`: by frame of the video."""
    return {
        "is_key": carried.is_key,
        "promoted": carried.promoted,
        "key_pts": pts[carried.key],
        "gap": carried.gap,
        "side": carried.side,
        "residual": carried.residual,
        "other_key_pts": None if carried.other is None else pts[carried.other],
        "share": carried.share,
    }


def recognition_schema(
    kind: Kind, classes: Sequence[str], labels: Encoding = "rle", metadata: Mapping[str, str] | None = None
) -> pa.Schema:
    """The table's columns; units and classes also as metadata of the file, with the caller's own."""
    if kind not in KINDS or labels not in ENCODINGS:
        raise ValueError(f"kind={kind!r}, labels={labels!r}: one of {', '.join(KINDS)}, and of {', '.join(ENCODINGS)}")
    if not 1 <= len(classes) <= VOID or len({*classes}) != len(classes):
        raise ValueError(f"{len(classes)} classes: 1 to {VOID}, of different names; found {list(classes)[:9]}")

    def field(name: str, kind: pa.DataType, nullable: bool = False, **notes: str) -> pa.Field:
        return pa.field(name, kind, nullable=nullable, metadata=notes or None)

    def each(kind: pa.DataType) -> pa.DataType:
        return pa.list_(pa.field("element", kind, nullable=False))

    segment = pa.struct(
        [
            field("class_id", pa.int32()),
            field("class_name", pa.string()),
            field("area", pa.int64()),
            field("bbox", each(pa.int32())),
            field("rle", pa.string()),
        ]
    )
    if kind == "detection":
        payload = [
            field("boxes", each(each(pa.float32())), unit=COORDINATES, shape="[N][x1, y1, x2, y2]"),
            field("scores", each(pa.float32()), unit="0..1"),
            field("classes", each(pa.int32()), meaning="places in the file's classes"),
            field("class_names", each(pa.string())),
        ]
    else:
        runs = "COCO counts, column-major, of [labels_height, labels_width]; bbox: x, y, width, height"
        whole = f"uint8 [labels_height, labels_width] as {labels}: places in the file's classes, {VOID} none"
        rle = labels == "rle"
        payload = [
            field("labels_height", pa.int32(), unit="px of the label map"),
            field("labels_width", pa.int32(), unit="px of the label map"),
            field("segments", each(segment), meaning=runs) if rle else field("label_map", pa.binary(), meaning=whole),
        ]
    columns = [
        *IDENTITY_FIELDS,
        field("previous_pts", pa.int64(), True, unit="time_base", meaning="neighbour in the shot; null: begins here"),
        field("is_key", pa.bool_(), meaning="the whole network ran on this frame"),
        field("promoted", pa.bool_(), meaning="a key frame beyond the budget"),
        field("key_pts", pa.int64(), unit="time_base", meaning="of the frame whose features were carried here"),
        field("gap", pa.int32(), unit="frames", meaning="to that frame"),
        field("side", pa.string(), meaning="where that frame lies: key (itself), before, after, both"),
        field("residual", pa.float32(), True, unit="0..1", meaning="of carrying low-resolution frames: a quality flag"),
        field("other_key_pts", pa.int64(), True, unit="time_base", meaning="side both: of the second frame"),
        field("share", pa.float32(), unit="0..1", meaning="weight of the first frame's features"),
        field("flops", pa.int64(), unit="floating-point operations, two a multiply-accumulate"),
        *payload,
        field("model", pa.string()),
        field("weights_sha256", pa.string()),
        field("precision", pa.string()),
        field("schema_version", pa.int32()),
    ]
    notes = {
        "schema": SCHEMA,
        "schema_version": str(SCHEMA_VERSION),
        "kind": kind,
        "classes": json.dumps(list(classes), ensure_ascii=False),
        "coordinates": COORDINATES,
    }
    if kind == "segmentation":
        notes |= {"labels": labels, "void": str(VOID)}
    return pa.schema(columns, metadata={**(metadata or {}), **notes})


def check_row(row: RecognitionRow) -> None:
    """ValueError unless the columns agree with each other and what was recognised has the type and shape it needs."""
    place = f"frame {row.frame_index} of {row.video_id}"
    sides = (row.side == "key") == row.is_key and (row.side == "both") == (row.other_key_pts is not None)
    order = {"key": row.key_pts == row.pts, "before": row.key_pts < row.pts, "after": row.key_pts > row.pts}
    if row.side not in SIDES or not sides or not order.get(row.side, row.key_pts != row.pts):
        raise ValueError(f"{place}: side={row.side!r} with is_key={row.is_key}, key_pts={row.key_pts}, pts={row.pts}")
    if row.gap < 0 or (row.gap == 0) != row.is_key or not 0 < row.share <= 1 or row.flops < 0:
        raise ValueError(
            f"{place}: gap={row.gap}, share={row.share}, flops={row.flops} of a frame at side {row.side!r}"
        )
    if row.residual is not None and not (math.isfinite(row.residual) and row.residual >= 0):
        raise ValueError(f"{place}: residual={row.residual}; 0 or more, or None where it was not measured")
    if (row.labels is None) == (row.detections is None):
        raise ValueError(f"{place}: give labels, or detections")
    if row.labels is not None:
        kind, shape = row.labels.dtype, row.labels.shape
        if kind != np.uint8 or len(shape) != 2 or not (0 < shape[0] <= row.height and 0 < shape[1] <= row.width):
            raise ValueError(f"{place}: labels are {kind} {list(shape)}; uint8, at most {row.height} x {row.width}")


def described(row: RecognitionRow) -> str:
    """Shapes, not pixels."""
    return f"pts {row.pts}, " + (f"labels {list(row.labels.shape)}" if row.labels is not None else f"{row.detections}")
