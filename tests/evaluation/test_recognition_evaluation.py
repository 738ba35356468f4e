"""Records of a run against the truth, and against another run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.evaluation.recognition import against_boxes, against_labels, against_run, table, write_json
from pipeline.records.png import encode_png
from pipeline.records.recognition import read_recognition_file
from pipeline.records.recognition_schema import RecognitionRecord
from tests.records.recognition_samples import CLASSES, detections, label_map, row, write_file


def records(folder: Path, name: str, **changes: Any) -> list[RecognitionRecord]:
    kind = changes.get("kind", "segmentation")
    rows = [row(frame, video=video, **changes) for video in ("a", "b") for frame in range(6)]
    return list(read_recognition_file(str(write_file(folder / name, rows, kind=kind))))


def test_a_run_agrees_with_itself_in_whatever_order_its_videos_come(tmp_path: Path) -> None:
    found = records(tmp_path, "found.parquet")
    scores = against_run(found, [*found[6:], *found[:6]])
    assert (scores.frames, scores.scores["miou"]) == (12, 1.0)
    assert scores.key_share == pytest.approx(1 / 3)
    assert scores.gflops == 1
    assert np.isnan(scores.by_class["person"]), "it is nowhere"


def test_a_difference_lowers_the_agreement(tmp_path: Path) -> None:
    found = records(tmp_path, "found.parquet")
    other = records(tmp_path, "other.parquet", labels=label_map(3))
    scores = against_run(found, other)
    assert 0 < scores.by_class["car"] < 0.5 < scores.by_class["road"] < 1
    assert 0.9 < scores.scores["pixel_accuracy"] < 1


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    found = records(tmp_path, "found.parquet")
    with pytest.raises(UsageError, match="no record of frame 5"):
        against_run(found, found[:5])
    with pytest.raises(UsageError, match="compare runs of one model"):
        against_run(found, records(tmp_path, "other.parquet", kind="detection"))
    with pytest.raises(UsageError, match="the run has no records"):
        against_run([], [])


def test_label_maps_are_found_by_video_and_frame(tmp_path: Path) -> None:
    found = records(tmp_path, "found.parquet")
    (tmp_path / "labels" / "a").mkdir(parents=True)
    (tmp_path / "labels" / "a" / "000002.png").write_bytes(encode_png(label_map(2)))
    scores = against_labels(found, tmp_path / "labels")
    assert (scores.frames, scores.scores["miou"]) == (1, 1.0)
    (tmp_path / "labels" / "a" / "000004.png").write_bytes(encode_png(label_map(4)[:-1]))
    with pytest.raises(UsageError, match=r"000004\.png: \[23, 40\] px, its frame has \[24, 40\]"):
        against_labels(found, tmp_path / "labels")
    with pytest.raises(UsageError, match="no label map of the run's frames"):
        against_labels(found, tmp_path / "nothing")


def test_boxes_are_those_of_a_coco_file_and_classes_match_by_name(tmp_path: Path) -> None:
    found = records(tmp_path, "found.parquet", kind="detection")
    numbers = {name: 7 * place for place, name in enumerate(reversed(CLASSES))}
    document: dict[str, Any] = {
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "images": [{"id": frame, "file_name": f"b/{frame:06d}.jpg"} for frame in range(3)],
        "annotations": [
            {"image_id": frame, "category_id": numbers[CLASSES[place]], "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for frame in range(3)
            for (x1, y1, x2, y2), place in zip(
                detections(frame).boxes.tolist(), detections(frame).classes.tolist(), strict=True
            )
        ],
    }  # fmt: skip
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(document))
    scores = against_boxes(found, path)
    assert (scores.frames, scores.scores["map50"]) == (3, 1.0)
    for annotation in document["annotations"]:
        annotation["bbox"][0] += 100
    path.write_text(json.dumps(document))
    assert against_boxes(found, path).scores["map50"] == 0
    with pytest.raises(UsageError, match="labels, or boxes"):
        against_boxes(records(tmp_path, "labels.parquet"), path)
    path.write_text("{}")
    with pytest.raises(UsageError, match="no COCO file of boxes"):
        against_boxes(found, path)


def test_scores_are_shown_and_written(tmp_path: Path) -> None:
    found = records(tmp_path, "found.parquet")
    scores = against_run(found, found)
    assert "12 frames, 33.3 % of them key frames, 1.00 GFLOP a frame" in table(scores)
    write_json(tmp_path / "scores.json", scores)
    document = json.loads((tmp_path / "scores.json").read_text())
    assert document["scores"] == {"miou": 1.0, "pixel_accuracy": 1.0}
    assert document["by_class"]["person"] is None
