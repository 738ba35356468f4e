"""How good a run's records are: against label maps, against boxes, or against another run's records.

Against a run with `key_frames.budget=1`, it says what carrying features costs, on any video, without labels.

    LABELS/<video without suffix>/<frame index, six digits>.png    a label map: values are places in the run's classes
    BOXES.json                                                     COCO; images are called <video>/<frame index>.…

Videos are told apart by the last part of their address. Frames without a label map, or without an image in the COCO
file, do not count; categories are matched with classes by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UsageError
from pipeline.metrics_recognition import Confusion, average_precision, surer_than
from pipeline.records.png import decode_png
from pipeline.records.recognition_schema import Detections, RecognitionRecord, enlarged

SURE = 0.3
"""Score from which another run's detection counts as true."""


@dataclass(frozen=True, slots=True)
class RecognitionScores:
    """What a run's frames score. Shares are in 0..1."""

    frames: int
    key_share: float
    """Share of them that ran the whole network."""
    gflops: float
    """Spent on a frame, mean."""
    scores: dict[str, float]
    """Segmentation: miou, pixel_accuracy. Detection: map50, map50_95."""
    by_class: dict[str, float]
    """IoU, or average precision at an IoU of 0.5."""


def against_run(found: Iterable[RecognitionRecord], other: Iterable[RecognitionRecord]) -> RecognitionScores:
    """Another run's records of the same videos as the truth. UsageError where frames or classes are not the same."""

    def pairs() -> Iterator[tuple[RecognitionRecord, RecognitionRecord]]:
        theirs = {}
        rest = iter(other)
        for record in found:
            place = (record.video_uri, record.frame_index)
            # Both come by video and frame; where the videos' order differs, those that came too early wait.
            while place not in theirs:
                one = next(rest, None)
                if one is None:
                    raise UsageError(f"the reference has no record of frame {place[1]} of {place[0]}; run it on all")
                theirs[one.video_uri, one.frame_index] = one
            truth = theirs.pop(place)
            if (truth.kind, truth.classes) != (record.kind, record.classes):
                raise UsageError(
                    f"{truth.kind} of {len(truth.classes)} classes is no reference for {record.kind} of "
                    f"{len(record.classes)}: compare runs of one model"
                )
            yield record, truth

    return _scored((record, _truth_of(truth)) for record, truth in pairs())


def against_labels(found: Iterable[RecognitionRecord], folder: Path) -> RecognitionScores:
    """Label maps as the truth. UsageError where none is found, or sizes differ."""

    def pairs() -> Iterator[tuple[RecognitionRecord, Any]]:
        for record in found:
            path = folder / f"{_place(record)}.png"
            if path.is_file():
                truth = decode_png(path.read_bytes())
                if truth.shape != (record.height, record.width):
                    raise UsageError(f"{path}: {list(truth.shape)} px, its frame has {[record.height, record.width]}")
                yield record, truth

    return _scored(pairs(), f"no label map of the run's frames in {folder}: they are called like video/000000.png")


def against_boxes(found: Iterable[RecognitionRecord], path: Path) -> RecognitionScores:
    """A COCO file's boxes as the truth. UsageError where it is none, or has none of the run's frames."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in document["categories"]}
        places = {image["id"]: image["file_name"].rpartition(".")[0] for image in document["images"]}
        boxes: dict[str, list[tuple[str, list[float]]]] = {place: [] for place in places.values()}
        for one in document["annotations"]:
            x, y, width, height = one["bbox"]
            boxes[places[one["image_id"]]].append((names[one["category_id"]], [x, y, x + width, y + height]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: no COCO file of boxes ({type(error).__name__}: {error})") from None

    def pairs() -> Iterator[tuple[RecognitionRecord, Any]]:
        for record in found:
            place = _place(record)
            if place in boxes:
                own = [(box, record.classes.index(name)) for name, box in boxes[place] if name in record.classes]
                yield record, _detections([box for box, _ in own], [number for _, number in own])

    return _scored(pairs(), f"{path} has no image of the run's frames: they are called like video/000000.png")


def _place(record: RecognitionRecord) -> str:
    name = record.video_uri.rpartition("/")[2]
    if record.member:
        name = record.member.rpartition("/")[2]
    return f"{name.rpartition('.')[0] or name}/{record.frame_index:06d}"


def _truth_of(record: RecognitionRecord) -> Any:
    return record.full_labels() if record.detections is None else surer_than(record.detections, SURE)


def _detections(boxes: list[list[float]], classes: list[int]) -> Detections:
    shaped = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(shaped, np.ones(len(classes), np.float32), np.array(classes, np.int32))


def _scored(
    pairs: Iterable[tuple[RecognitionRecord, Any]], nothing: str = "the run has no records"
) -> RecognitionScores:
    classes: tuple[str, ...] = ()
    confusion: Confusion | None = None
    detected: list[tuple[Detections, Detections]] = []
    frames = keys = flops = 0
    for record, truth in pairs:
        frames, keys, flops = frames + 1, keys + record.is_key, flops + record.flops
        classes = record.classes
        if (record.detections is None) == isinstance(truth, Detections):
            raise UsageError(f"records of {record.kind} were given the other kind's truth: labels, or boxes")
        if record.detections is not None:
            detected.append((record.detections, truth))
        else:
            confusion = confusion or Confusion(len(classes))
            assert record.labels is not None
            confusion.add(enlarged(record.labels, *truth.shape), truth)
    if not frames:
        raise UsageError(nothing)
    if confusion is not None:
        scores = {"miou": confusion.miou, "pixel_accuracy": confusion.pixel_accuracy}
        by_class = dict(zip(classes, confusion.iou.tolist(), strict=True))
    else:
        precision = average_precision(detected, classes)
        scores, by_class = {"map50": precision.map50, "map50_95": precision.map50_95}, precision.ap50
    return RecognitionScores(frames, keys / frames, flops / frames / 1e9, scores, by_class)


def table(scores: RecognitionScores) -> str:
    lines = [
        f"{scores.frames} frames, {100 * scores.key_share:.1f} % of them key frames, {scores.gflops:.2f} GFLOP a frame",
        "  ".join(f"{name} {value:.4f}" for name, value in scores.scores.items()),
    ]
    return "\n".join(lines + [f"  {name:<20} {value:.4f}" for name, value in scores.by_class.items()])


def write_json(path: Path, scores: RecognitionScores) -> None:
    """Classes that are nowhere score null."""
    document = asdict(scores)
    for key in ("scores", "by_class"):
        document[key] = {name: None if value != value else value for name, value in document[key].items()}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
