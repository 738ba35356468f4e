"""Recognition rows into Parquet files; `concatenate` joins clips' files into videos' files (joining.py says how)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import EncodeError
from pipeline.layout import SCHEMA_VERSION
from pipeline.records import joining
from pipeline.records.joining import Grouped, GroupedFile, TableFile, TableKind
from pipeline.records.palette import class_palette
from pipeline.records.png import encode_png
from pipeline.records.recognition_schema import SCHEMA, Detections, Encoding, Kind, RecognitionRow, recognition_schema
from pipeline.records.rle import VOID, Labels, encode_labels
from pipeline.storage import redact

PAYLOAD = ("segments", "label_map", "boxes", "scores", "classes", "class_names")
_ZSTD = pa.Codec("zstd", compression_level=3)


def _payload_bytes(row: pa.Table) -> int:
    if "segments" in row.column_names:
        strings = pc.struct_field(pc.list_flatten(row.column("segments")), "rle")
        return int(pc.sum(pc.binary_length(strings)).as_py() or 0)
    if "label_map" in row.column_names:
        return len(row.column("label_map")[0].as_buffer())
    return 24 * len(row.column("scores")[0].values)


TABLE = TableKind(SCHEMA, PAYLOAD, _payload_bytes)


class RecognitionFileWriter:
    """One Parquet file of recognition rows. A context manager, or `close` it.

    kind      "segmentation" or "detection"
    classes   names; labels and detections hold places in this list
    labels    how label maps are stored: "rle", "png" or "zstd" (recognition_schema.py)
    groups    where row groups end
    metadata  for the file, beside units and classes: the run's configuration, code version, …
    After an error, or where the `with` block raises, the file is incomplete: delete it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        kind: Kind,
        classes: Sequence[str],
        labels: Encoding = "rle",
        groups: Grouped | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._kind, self._classes, self._labels = kind, tuple(classes), labels
        self._schema = recognition_schema(kind, classes, labels, metadata)
        self._palette = class_palette(self._classes)
        self._out = GroupedFile(Path(path), self._schema, TABLE, groups or Grouped())
        self._done: TableFile | None = None

    def write(self, row: RecognitionRow) -> None:
        """Appends a row. EncodeError for classes that are not in the list, and boxes or scores that are not finite."""
        try:
            payload = self._payload(row)
        except EncodeError as error:
            raise EncodeError(f"{redact(row.video_uri)} frame {row.frame_index}: {error}", pts=row.pts) from None
        columns = {
            **row.columns(),
            "video_uri": redact(row.video_uri),
            **{name: getattr(row, name) for name in _PLAIN},
            "schema_version": SCHEMA_VERSION,
            **payload,
        }
        self._out.add(pa.table({name: [columns[name]] for name in self._schema.names}, schema=self._schema))

    def _payload(self, row: RecognitionRow) -> dict[str, Any]:
        if (self._kind == "segmentation") != (row.labels is not None):
            raise EncodeError(f"{row!r} does not belong into a table of {self._kind}")
        if row.detections is not None:
            return self._detected(row.detections)
        assert row.labels is not None
        labels = row.labels
        unknown = labels[(labels >= len(self._classes)) & (labels != VOID)]
        if unknown.size:
            raise EncodeError(f"label {int(unknown[0])} is none of the {len(self._classes)} classes, nor {VOID}")
        return {
            "labels_height": labels.shape[0],
            "labels_width": labels.shape[1],
            **({"segments": self._segments(labels)} if self._labels == "rle" else {"label_map": self._map(labels)}),
        }

    def _segments(self, labels: Labels) -> list[dict[str, Any]]:
        return [
            {
                "class_id": segment.class_id,
                "class_name": self._classes[segment.class_id],
                "area": segment.area,
                "bbox": list(segment.bbox),
                "rle": segment.rle,
            }
            for segment in encode_labels(labels)
        ]

    def _map(self, labels: Labels) -> bytes:
        if self._labels == "png":
            return encode_png(labels, self._palette)
        return bytes(_ZSTD.compress(np.ascontiguousarray(labels).tobytes(), asbytes=True))

    def _detected(self, found: Detections) -> dict[str, Any]:
        if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
            raise EncodeError("boxes or scores are not finite")
        if len(found) and not 0 <= found.classes.min() <= found.classes.max() < len(self._classes):
            raise EncodeError(f"class {int(found.classes.max())} of a detection is none of the {len(self._classes)}")
        return {
            "boxes": found.boxes.tolist(),
            "scores": found.scores.tolist(),
            "classes": found.classes.tolist(),
            "class_names": [self._classes[place] for place in found.classes],
        }

    def close(self) -> TableFile:
        """Writes what waits, and the footer."""
        if self._done is None:
            self._done = self._out.close()
        return self._done

    def __enter__(self) -> RecognitionFileWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._out.abandon()


_PLAIN = (
    "previous_pts", "is_key", "promoted", "key_pts", "gap", "side", "residual", "other_key_pts", "share", "flops",
    "model", "weights_sha256", "precision",
)  # fmt: skip


def concatenate(
    parts: Iterable[Path], out: Path, groups: Grouped | None = None, file_bytes: int | None = None
) -> Iterator[TableFile]:
    """Clips' files into a video's, or several videos' into one: `joining.concatenate` for recognition rows."""
    return joining.concatenate(parts, out, TABLE, groups or Grouped(), file_bytes)
