"""How far two recognition runs agree: mIoU of their label maps, or mAP of their boxes taken in both directions.

Each run's sure boxes serve once as the truth for the other's, so that what only one of them sees always counts. COCO's
mAP is taken over stretches of frames and averaged by their true boxes: memory does not grow with the video.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline.comparison.frames import Paired, Pairing
from pipeline.comparison.runs import Run
from pipeline.errors import UsageError
from pipeline.evaluation.recognition import SURE
from pipeline.metrics_recognition import Confusion, average_precision, surer_than
from pipeline.records import read_recognition
from pipeline.records.recognition_schema import Detections, RecognitionRecord
from pipeline.storage import Storage, redact

STRETCH = 500
"""Frames."""


class RecognitionDifference:
    """Agreement over frames of one kind and one list of classes."""

    def __init__(self) -> None:
        self.classes: tuple[str, ...] = ()
        self.kind = ""
        self._confusion: Confusion | None = None
        self._waiting: list[tuple[Detections, Detections]] = []
        self._precision = np.zeros(2)
        """Sums of mAP at 0.5 and at 0.5 to 0.95, weighted by boxes."""
        self._boxes = 0

    def add(self, first: RecognitionRecord, second: RecognitionRecord) -> None:
        if (first.kind, first.classes) != (second.kind, second.classes):
            raise UsageError(
                f"{redact(first.video_uri)}: {first.kind} of {len(first.classes)} classes against {second.kind} of "
                f"{len(second.classes)}: give two runs that recognise the same"
            )
        self.kind, self.classes = first.kind, first.classes
        if first.labels is not None and second.labels is not None:
            self._confusion = self._confusion or Confusion(len(self.classes))
            same_size = first.labels.shape == second.labels.shape
            ours, theirs = (one.labels if same_size else one.full_labels() for one in (first, second))
            assert ours is not None
            assert theirs is not None
            self._confusion.add(theirs, ours)
        elif first.detections is not None and second.detections is not None:
            self._waiting.append((first.detections, second.detections))
            if len(self._waiting) >= STRETCH:
                self._settle()

    def _settle(self) -> None:
        for found, truth in ((1, 0), (0, 1)):
            pairs = [(pair[found], surer_than(pair[truth], SURE)) for pair in self._waiting]
            score = average_precision(pairs, self.classes)
            if score.boxes:
                self._precision += np.array([score.map50, score.map50_95]) * score.boxes
                self._boxes += score.boxes
        self._waiting.clear()

    def merge(self, other: RecognitionDifference) -> None:
        other._settle()
        if self.classes and other.classes and (self.kind, self.classes) != (other.kind, other.classes):
            raise UsageError("videos of one run have other classes than its others: compare runs of one model")
        self.kind, self.classes = self.kind or other.kind, self.classes or other.classes
        if other._confusion is not None:
            self._confusion = other._confusion + self._confusion if self._confusion else other._confusion
        self._precision += other._precision
        self._boxes += other._boxes

    def measures(self) -> dict[str, float | None]:
        """In 0..1. Segmentation: miou, pixel_accuracy; detection: map50, map50_95; None where there is nothing.

        `difference` is 1 less the first of them.
        """
        self._settle()
        found: dict[str, float | None]
        if self._confusion is not None:
            found = {
                name: None if value != value else value
                for name, value in (
                    ("miou", self._confusion.miou),
                    ("pixel_accuracy", self._confusion.pixel_accuracy),
                )
            }
        else:
            both: Sequence[float | None] = (self._precision / self._boxes).tolist() if self._boxes else (None, None)
            found = dict(zip(("map50", "map50_95"), both, strict=True))
        main = next(iter(found.values()))
        return {"difference": None if main is None else 1 - main, **found}

    def detail(self) -> dict[str, Any]:
        if self._confusion is None:
            return {"boxes": self._boxes}
        iou = self._confusion.iou.tolist()
        return {"iou": {name: None if one != one else one for name, one in zip(self.classes, iou, strict=True)}}


def compare_video(first: Run, second: Run, name: str, storage: Storage) -> tuple[Pairing, RecognitionDifference]:
    found = RecognitionDifference()
    with closing(_records(first, name, storage)) as a, closing(_records(second, name, storage)) as b:
        paired = Paired(a, b, lambda one: Fraction(one.frame_index), lambda one: one.pts * one.time_base)
        for ours, theirs in paired:
            if (ours.height, ours.width) == (theirs.height, theirs.width):
                found.add(ours, theirs)
            else:
                paired.pairing.incomparable += 1
    return paired.pairing, found


def _records(run: Run, name: str, storage: Storage) -> Generator[RecognitionRecord, None, None]:
    yield from read_recognition(run.output, run.videos[name].video_id, storage=storage)
