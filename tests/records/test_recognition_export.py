"""Exports as COCO's own code reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import COCO

from pipeline.records.png import decode_png
from pipeline.records.recognition import read_recognition_file
from pipeline.records.recognition_export import export_coco, export_fiftyone, file_name
from pipeline.records.recognition_schema import RecognitionRecord
from tests.records.recognition_samples import CLASSES, row, write_file


def records(folder: Path, kind: str = "segmentation", **changes: object) -> list[RecognitionRecord]:
    path = write_file(folder / f"{kind}.parquet", [row(f, kind=kind, **changes) for f in range(4)], kind=kind)
    return list(read_recognition_file(str(path)))


def test_coco_reads_the_masks_that_were_recognised(tmp_path: Path) -> None:
    given = records(tmp_path)
    made = export_coco(given, tmp_path / "coco.json")
    coco = COCO(str(made.path))
    assert (made.images, made.annotations) == (4, 12)
    assert {c["name"] for c in coco.loadCats(coco.getCatIds())} == set(CLASSES)
    for image, record in zip(coco.loadImgs(coco.getImgIds()), given, strict=True):
        assert image["file_name"] == file_name(record)
        assert (image["frame_index"], image["pts"], image["is_key"]) == (record.frame_index, record.pts, record.is_key)
        labels = np.full((24, 40), 255, np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            mask = coco.annToMask(annotation).astype(bool)
            assert annotation["area"] == mask.sum()
            labels[mask] = annotation["category_id"] - 1
        np.testing.assert_array_equal(labels, record.labels)


def test_coco_reads_the_boxes_with_their_scores(tmp_path: Path) -> None:
    given = records(tmp_path, "detection")
    made = export_coco(given, tmp_path / "coco.json")
    coco = COCO(str(made.path))
    assert made.annotations == sum(len(record.detections or ()) for record in given) == 3
    (one,) = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    found = given[1].detections
    assert found is not None
    x, y, width, height = one["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(found.boxes[0].tolist())
    assert (one["score"], one["category_id"]) == (pytest.approx(found.scores[0]), found.classes[0] + 1)


def test_reduced_label_maps_are_exported_at_the_frame_s_size(tmp_path: Path) -> None:
    made = export_coco(records(tmp_path, labels=np.array([[0, 2]], np.uint8)), tmp_path / "coco.json")
    coco = COCO(str(made.path))
    masks = [coco.annToMask(annotation) for annotation in coco.loadAnns([1, 2])]
    assert [mask.shape for mask in masks] == [(24, 40)] * 2
    assert masks[0][:, :20].all()
    assert masks[1][:, 20:].all()
    assert (masks[0] + masks[1] == 1).all()


def test_the_folder_holds_the_frames_their_label_maps_and_the_json(tmp_path: Path) -> None:
    given = records(tmp_path)
    made = export_fiftyone(given, tmp_path / "out", lambda record: np.full((24, 40, 3), record.frame_index, np.uint8))
    names = [image["file_name"] for image in json.loads(made.path.read_text())["images"]]
    assert names == [file_name(record) for record in given]
    for name, record in zip(names, given, strict=True):
        assert (decode_png((tmp_path / "out/data" / name).read_bytes()) == record.frame_index).all()
        np.testing.assert_array_equal(decode_png((tmp_path / "out/labels" / name).read_bytes()), record.labels)
    export_fiftyone(records(tmp_path, "detection"), tmp_path / "boxes", lambda _: np.zeros((24, 40, 3), np.uint8))
    assert sorted(path.name for path in (tmp_path / "boxes").iterdir()) == ["data", "labels.json"]


def test_nothing_gives_an_empty_file_and_a_mixture_or_a_wrong_picture_is_refused(tmp_path: Path) -> None:
    made = export_coco([], tmp_path / "coco.json")
    assert json.loads(made.path.read_text()) == {"images": [], "annotations": []}
    with pytest.raises(ValueError, match="detection of 5 classes after segmentation"):
        export_coco([*records(tmp_path), *records(tmp_path, "detection")], tmp_path / "mixed.json")
    with pytest.raises(ValueError, match=r"a picture of \[4, 4, 3\]"):
        export_fiftyone(records(tmp_path), tmp_path / "out", lambda _: np.zeros((4, 4, 3), np.uint8))
