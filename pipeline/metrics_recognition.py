"""How good an annotation is: IoU of label maps, mAP of boxes as COCO counts it, and agreement with another network.

Agreement with the per-frame network is the same measure with that network's results in the place of the truth: it says
what carrying features costs, on any video, without labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from pipeline.records.recognition_schema import Detections
from pipeline.records.rle import Labels


class Confusion:
    """Pixels by true and found class, summed over frames; add two of them for the sum of their frames."""

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes + 1), np.int64)
        """[true class, found class]; the last column holds pixels that no class was found for."""

    @property
    def classes(self) -> int:
        return len(self.counts)

    def add(self, found: Labels, truth: Labels) -> None:
        """Counts one frame, two label maps of one size [H,W]; pixels whose true value is no class are left out."""
        if found.shape != truth.shape:
            raise ValueError(f"label maps of {list(found.shape)} and {list(truth.shape)}; bring them to one size")
        known = truth < self.classes
        columns = np.minimum(found[known], self.classes).astype(np.int64)
        pairs = truth[known].astype(np.int64) * (self.classes + 1) + columns
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)

    def __add__(self, other: Confusion) -> Confusion:
        total = Confusion(self.classes)
        total.counts = self.counts + other.counts
        return total

    @property
    def iou(self) -> NDArray[np.float64]:
        """[classes] intersection over union of each class over all frames; NaN for one that is nowhere."""
        common = np.diagonal(self.counts)
        union = self.counts.sum(axis=1) + self.counts[:, :-1].sum(axis=0) - common
        return np.where(union > 0, common / np.maximum(union, 1), np.nan)

    @property
    def miou(self) -> float:
        """Mean over the classes that are there or were found; NaN before any pixel was counted."""
        there = self.iou[~np.isnan(self.iou)]
        return float(there.mean()) if there.size else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """Share of the counted pixels that have their true class; NaN before any was counted."""
        total = int(self.counts.sum())
        return float(np.diagonal(self.counts).sum()) / total if total else float("nan")


@dataclass(frozen=True, slots=True)
class DetectionScore:
    """COCO's average precision, in 0..1; NaN for classes that have no true box."""

    map50: float
    """Mean over classes at an IoU of 0.5."""
    map50_95: float
    """Mean over classes and IoUs of 0.5, 0.55, … 0.95."""
    ap50: dict[str, float]
    """By class name, at an IoU of 0.5."""
    boxes: int
    """True boxes."""


def average_precision(
    frames: Iterable[tuple[Detections, Detections]], classes: Sequence[str], most: int = 100
) -> DetectionScore:
    """mAP over frames of (found, true) detections; the surest `most` of each class count in a frame."""
    images: list[dict[str, int]] = []
    truth: list[dict[str, object]] = []
    found: list[dict[str, object]] = []
    for image, (ours, theirs) in enumerate(frames, start=1):
        images.append({"id": image})
        truth += _annotations(theirs, image, len(truth))
        found += _annotations(ours, image, len(found))
    if not truth:
        nowhere = dict.fromkeys(classes, float("nan"))
        return DetectionScore(float("nan"), float("nan"), nowhere, 0)
    categories = [{"id": place, "name": name} for place, name in enumerate(classes)]
    tables = [
        COCO({"images": images, "categories": categories, "annotations": annotations}) for annotations in (truth, found)
    ]
    evaluation = COCOeval_faster(*tables, iouType="bbox", print_function=lambda *_: None)
    evaluation.params.maxDets = [most]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # [IoU, recall, class], all areas; -1: no box
    by_class = np.where(precision[0].max(axis=0) < 0, np.nan, precision[0].mean(axis=0))
    there = ~np.isnan(by_class)
    return DetectionScore(
        map50=float(by_class[there].mean()),
        map50_95=float(precision[:, :, there].mean()),
        ap50={name: float(value) for name, value in zip(classes, by_class, strict=True)},
        boxes=len(truth),
    )


def surer_than(detections: Detections, score: float) -> Detections:
    """Those with at least that score: of a network's results, what to take for true."""
    kept = detections.scores >= score
    return Detections(detections.boxes[kept], detections.scores[kept], detections.classes[kept])


def relative_l1(carried: NDArray[np.floating], own: NDArray[np.floating]) -> float:
    """Feature error: sum of |carried - own| over sum of |own|, of two feature maps of one shape."""
    if carried.shape != own.shape:
        raise ValueError(f"features of {list(carried.shape)} and {list(own.shape)}; compare like with like")
    return float(np.abs(carried.astype(np.float64) - own).sum() / max(np.abs(own.astype(np.float64)).sum(), 1e-12))


def _annotations(detections: Detections, image: int, before: int) -> list[dict[str, object]]:
    rows = zip(detections.boxes.tolist(), detections.scores.tolist(), detections.classes.tolist(), strict=True)
    return [
        {
            "id": before + place,
            "image_id": image,
            "category_id": class_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "score": score,
        }
        for place, ((x1, y1, x2, y2), score, class_id) in enumerate(rows, start=1)
    ]
