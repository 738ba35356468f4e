"""Reading recognition records: `read_recognition` for a run's output, `read_recognition_file` for one Parquet file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.records.png import decode_png
from pipeline.records.reading import Frames, RecordKind, read_record_file, read_records
from pipeline.records.recognition_schema import SCHEMA, Detections, RecognitionRecord
from pipeline.records.recognition_writer import PAYLOAD
from pipeline.records.rle import Labels, Segment, decode_labels
from pipeline.storage import Storage


def read_recognition(
    output: str, video: str | None = None, frames: Frames = None, *, storage: Storage | None = None
) -> Iterator[RecognitionRecord]:
    """The recognition records of a run, by video, in the order of frames; see `reading.read_records`.

    output    the run's output prefix: a folder or any fsspec URL
    video     its name below the input, its URI, or its video_id; None: all
    frames    frame indices of the video, from 0: one, or several; None: all
    """
    return read_records(_KIND, output, video, frames, storage)


def read_recognition_file(
    source: str, video: str | None = None, frames: Frames = None, *, storage: Storage | None = None
) -> Iterator[RecognitionRecord]:
    """The recognition records of one Parquet file, whether or not a commit names it; `video` is a video_id."""
    return read_record_file(_KIND, source, video, frames, storage)


def _record(row: dict[str, Any], table: pa.Table, place: int) -> RecognitionRecord:
    notes = table.schema.metadata
    kind = notes[b"kind"].decode()
    found: dict[str, Any] = {}
    if kind == "detection":
        boxes, scores, classes = (table.column(name)[place].as_py() for name in ("boxes", "scores", "classes"))
        shaped = np.array(boxes, np.float32).reshape(-1, 4)
        found["detections"] = Detections(shaped, np.array(scores, np.float32), np.array(classes, np.int32))
    else:
        shape = (row.pop("labels_height"), row.pop("labels_width"))
        found["labels"] = _labels(notes[b"labels"].decode(), table, place, shape)
    return RecognitionRecord(
        **{**row, "time_base": Fraction(row["time_base"])},
        **found,
        kind=kind,
        classes=tuple(json.loads(notes[b"classes"])),
    )


def _labels(encoding: str, table: pa.Table, place: int, shape: tuple[int, int]) -> Labels:
    if encoding == "rle":
        segments = table.column("segments")[place].as_py()
        whole = (Segment(one["class_id"], one["rle"], one["area"], tuple(one["bbox"])) for one in segments)
        return decode_labels(whole, *shape)
    data = table.column("label_map")[place].as_py()
    try:
        if encoding == "png":
            labels = decode_png(data)
        else:
            plain = pa.decompress(data, decompressed_size=shape[0] * shape[1], codec="zstd", asbytes=True)
            labels = np.frombuffer(plain, np.uint8).reshape(shape).copy()
    except OSError as error:  # zstd's, through Arrow
        raise ValueError(f"the label map is damaged ({error})") from None
    if labels.dtype != np.uint8 or labels.shape != shape:
        raise ValueError(f"the label map is {labels.dtype} {list(labels.shape)} where the row says {list(shape)}")
    return labels.astype(np.uint8, copy=False)


_KIND = RecordKind(
    task="recognize",
    records="recognition records",
    job="jobs/recognize.py",
    schema=SCHEMA,
    large=PAYLOAD,
    make=_record,
)
