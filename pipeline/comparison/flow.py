"""How far the flows of two runs are apart: end-point distance in px, its mean and 95th percentile, by motion.

Motion is the first run's. Distances are counted in steps of 2 %, so that any number of frames takes the same memory;
the mean is exact. A value that is not finite is infinitely far from one that is.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.comparison.frames import Paired, Pairing
from pipeline.comparison.runs import Run
from pipeline.evaluation.flow_metrics import MAGNITUDES
from pipeline.records import read_flow
from pipeline.records.flow_codec import Floats
from pipeline.records.flow_schema import FLOW_COLUMNS, FlowRecord
from pipeline.storage import Storage

_SMALLEST, _STEP, _BINS = 1e-4, 1.02, 1200


class Distances:
    """Distances of some pixels: how many, their mean, largest and percentiles."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.largest = 0.0
        self._bins = np.zeros(_BINS, np.int64)

    def add(self, distances: npt.NDArray[np.float64]) -> None:
        if not distances.size:
            return
        self.count += distances.size
        self.total += float(distances.sum())
        self.largest = max(self.largest, float(distances.max()))
        steps = np.log(np.maximum(distances, _SMALLEST) / _SMALLEST) / np.log(_STEP)
        places = np.where(distances < _SMALLEST, 0, 1 + np.minimum(steps, _BINS - 2)).astype(np.int64)
        self._bins += np.bincount(places, minlength=_BINS)

    def merge(self, other: Distances) -> None:
        self.count += other.count
        self.total += other.total
        self.largest = max(self.largest, other.largest)
        self._bins += other._bins

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def percentile(self, share: float) -> float | None:
        """The distance that `share` of the pixels do not exceed, to 2 %; 0 below 1/10000 px."""
        if not self.count:
            return None
        place = int(np.searchsorted(np.cumsum(self._bins), share * self.count))
        return min(_SMALLEST * _STEP**place, self.largest) if place else 0.0


class FlowDifference:
    """Distances of all pixels, and of each class of motion."""

    def __init__(self) -> None:
        self._of = {name: Distances() for name in ("all", *(name for name, _, _ in MAGNITUDES))}

    def add(self, first: Floats, second: Floats) -> None:
        """Two flows [2,H,W] px of one frame and direction."""
        a, b = first.astype(np.float64), second.astype(np.float64)
        with np.errstate(invalid="ignore"):
            distance = np.hypot(*(a - b))
            motion = np.hypot(*a)
        odd = ~np.isfinite(distance)
        if odd.any():
            distance[odd] = np.where(((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=0)[odd], 0.0, np.inf)
        self._of["all"].add(distance.ravel())
        for name, low, high in MAGNITUDES:
            self._of[name].add(distance[(motion >= low) & (motion < high)])

    def merge(self, other: FlowDifference) -> None:
        for name, distances in self._of.items():
            distances.merge(other._of[name])

    def measures(self) -> dict[str, float | None]:
        """px; `epe` and `p95` of all pixels, `epe:s40+` and the like of a class; None where there are none."""
        whole = self._of["all"]
        found: dict[str, float | None] = {"epe": whole.mean, "p95": whole.percentile(0.95)}
        found["max"] = whole.largest if whole.count else None
        for name, _, _ in MAGNITUDES:
            found |= {f"epe:{name}": self._of[name].mean, f"p95:{name}": self._of[name].percentile(0.95)}
        return found

    def detail(self) -> dict[str, Any]:
        return {"pixels": {name: distances.count for name, distances in self._of.items()}}


def compare_video(first: Run, second: Run, name: str, storage: Storage) -> tuple[Pairing, FlowDifference]:
    """Both directions of every frame that both runs have."""
    found = FlowDifference()
    with closing(_records(first, name, storage)) as a, closing(_records(second, name, storage)) as b:
        paired = Paired(a, b, lambda one: Fraction(one.frame_index), lambda one: one.pts * one.time_base)
        for ours, theirs in paired:
            comparable = True
            for column in FLOW_COLUMNS:
                one, other = getattr(ours, column), getattr(theirs, column)
                if one is not None and other is not None and one.shape == other.shape:
                    found.add(one, other)
                elif one is not None or other is not None:
                    comparable = False
            paired.pairing.incomparable += not comparable
    return paired.pairing, found


def _records(run: Run, name: str, storage: Storage) -> Generator[FlowRecord, None, None]:
    yield from read_flow(run.output, run.videos[name].video_id, storage=storage)
