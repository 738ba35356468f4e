"""Recognition records in the forms of others: COCO JSON, and a folder that FiftyOne and labelling tools import.

Both are written as the records come, in bounded memory. A frame becomes one COCO image; a class's pixels one annotation
with its run-length string (semantic, not panoptic: one a class), a detection one annotation with its box and score.
Category ids are 1 more than the places in the records' `classes`, since many tools take 0 for the background.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipeline import __version__
from pipeline.errors import RecordDamaged
from pipeline.layout import within
from pipeline.records.palette import class_palette
from pipeline.records.png import encode_png
from pipeline.records.recognition_schema import RecognitionRecord
from pipeline.records.rle import encode_labels

Pictures = Callable[[RecognitionRecord], NDArray[np.uint8]]
"""The frame of a record, RGB uint8 [H,W,3]."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    path: Path
    images: int
    annotations: int


def file_name(record: RecognitionRecord) -> str:
    """Of a frame's image, unique over all videos: "<video_id>-<frame index>.png". Raises RecordDamaged for a path."""
    if "/" in record.video_id or not within(record.video_id):
        raise RecordDamaged(f"a record of {record.video_id!r}, which is no video's id; restore the file")
    return f"{record.video_id}-{record.frame_index:06d}.png"


def export_coco(records: Iterable[RecognitionRecord], path: str | Path) -> Exported:
    """One COCO JSON file of all the records, which must be of one kind and of the same classes.

    Images carry video, frame index, pts and key-frame flag beside what COCO asks for. ValueError for records that
    differ in kind or classes; the file is then incomplete.
    """
    path = Path(path)
    with path.open("w", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as later:
        images, annotations = _write(records, out, later)
    return Exported(path, images, annotations)


def export_fiftyone(records: Iterable[RecognitionRecord], folder: str | Path, pictures: Pictures) -> Exported:
    """A folder with the frames in data/ and labels.json (COCO), and for segmentation their label maps in labels/.

    FiftyOne reads it with `fo.Dataset.from_dir(dataset_dir=folder, dataset_type=fo.types.COCODetectionDataset,
    label_types=["detections", "segmentations"])`, and label maps as `fo.types.ImageSegmentationDirectory`.
    The PNGs of labels/ show the classes' colours; their values are places in `classes`, 255 for none.
    """
    folder = Path(folder)
    (folder / "data").mkdir(parents=True, exist_ok=True)

    def with_pictures() -> Iterator[RecognitionRecord]:
        for record in records:
            picture = pictures(record)
            if picture.shape != (record.height, record.width, 3):
                raise ValueError(
                    f"frame {record.frame_index} of {record.video_id}: a picture of {list(picture.shape)}, "
                    f"{[record.height, record.width, 3]} is wanted"
                )
            (folder / "data" / file_name(record)).write_bytes(encode_png(picture))
            if record.labels is not None:
                (folder / "labels").mkdir(exist_ok=True)
                mask = encode_png(record.full_labels(), class_palette(record.classes))
                (folder / "labels" / file_name(record)).write_bytes(mask)
            yield record

    return export_coco(with_pictures(), folder / "labels.json")


def _write(records: Iterable[RecognitionRecord], out: IO[str], later: IO[str]) -> tuple[int, int]:
    """Images go straight to `out`; annotations, which follow all of them, wait in `later`."""
    first: RecognitionRecord | None = None
    images = annotations = 0
    for record in records:
        if first is None:
            first = record
            out.write(json.dumps(_head(record), ensure_ascii=False)[:-1] + ', "images": [\n')
        if (record.kind, record.classes) != (first.kind, first.classes):
            raise ValueError(
                f"frame {record.frame_index} of {record.video_id}: {record.kind} of {len(record.classes)} classes "
                f"after {first.kind} of {len(first.classes)}; export them into files of their own"
            )
        images += 1
        out.write((",\n" if images > 1 else "") + json.dumps(_image(record, images), ensure_ascii=False))
        for annotation in _annotations(record):
            annotations += 1
            whole = {"id": annotations, "image_id": images, "iscrowd": 0, **annotation}
            later.write((",\n" if annotations > 1 else "") + json.dumps(whole))
    if first is None:
        out.write('{"images": [')
    out.write('\n], "annotations": [\n')
    later.seek(0)
    while chunk := later.read(1 << 20):
        out.write(chunk)
    out.write("\n]}\n")
    return images, annotations


def _head(record: RecognitionRecord) -> dict[str, Any]:
    return {
        "info": {
            "description": f"motionmill {record.kind}",
            "version": __version__,
            "model": record.model,
            "weights_sha256": record.weights_sha256,
        },
        "licenses": [],
        "categories": [
            {"id": place + 1, "name": name, "supercategory": ""} for place, name in enumerate(record.classes)
        ],
    }


def _image(record: RecognitionRecord, image: int) -> dict[str, Any]:
    return {
        "id": image,
        "file_name": file_name(record),
        "width": record.width,
        "height": record.height,
        "video_id": record.video_id,
        "video_uri": record.video_uri,
        "frame_index": record.frame_index,
        "pts": record.pts,
        "time_base": str(record.time_base),
        "is_key": record.is_key,
    }


def _annotations(record: RecognitionRecord) -> Iterator[dict[str, Any]]:
    if record.detections is not None:
        found = record.detections
        rows = zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True)
        for (x1, y1, x2, y2), score, class_id in rows:
            box = [x1, y1, x2 - x1, y2 - y1]
            yield {"category_id": class_id + 1, "bbox": box, "area": box[2] * box[3], "score": score}
        return
    for segment in encode_labels(record.full_labels()):
        yield {
            "category_id": segment.class_id + 1,
            "bbox": list(segment.bbox),
            "area": segment.area,
            "segmentation": {"size": [record.height, record.width], "counts": segment.rle},
        }
