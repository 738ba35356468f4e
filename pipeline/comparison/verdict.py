"""Two whole runs compared, and judged: differences by video and over all, against thresholds.

Where frames or videos are missing on one side, or lie at other times, there is no good figure: that alone is too much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from pipeline.comparison import flow, pictures, recognition
from pipeline.comparison.frames import Pairing
from pipeline.comparison.runs import Run, check_comparable, read_run
from pipeline.errors import ConfigError, UsageError
from pipeline.storage import Storage, redact

MAIN = {"flow": "epe", "recognize": "difference", "interpolate": "rms"}
"""The measure that a bare threshold is about: 0 for identical runs, larger for less alike."""
MEASURES = {
    "flow": (*flow.FlowDifference().measures(),),
    "recognize": ("difference", "miou", "pixel_accuracy", "map50", "map50_95"),
    "interpolate": (*pictures.PictureDifference().measures(),),
}

Measures = Mapping[str, float | None]


class Difference(Protocol):
    def merge(self, other: Self) -> None: ...
    def measures(self) -> dict[str, float | None]: ...
    def detail(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Threshold:
    """A measure that must not be above (or below) a value."""

    measure: str
    limit: float
    above: bool
    """Whether it is too much above the limit; False: below."""

    def crossed(self, measures: Measures) -> bool:
        """A measure that nothing was there to take of crosses nothing."""
        value = measures.get(self.measure)
        return value is not None and (value > self.limit if self.above else value < self.limit)

    def __str__(self) -> str:
        return f"{self.measure or 'the main measure'} {'above' if self.above else 'below'} {self.limit:g}"


def threshold(text: str, above: bool) -> Threshold:
    """ "epe=0.5", or "0.5" for the task's main measure (a name of ""). ConfigError for anything else."""
    name, separator, value = text.rpartition("=")
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    if math.isnan(limit) or (separator and not name):
        option = "--fail-above" if above else "--fail-below"
        raise ConfigError(f"{option} {text!r}: give a number, or MEASURE=NUMBER, like epe=0.5")
    return Threshold(name, limit, above)


@dataclass(frozen=True, slots=True)
class Video:
    """One video that both runs have finished."""

    name: str
    pairing: Pairing
    measures: Measures
    detail: Mapping[str, Any]


@dataclass(slots=True)
class Comparison:
    """Everything that differs between two runs. Grows with the number of videos, not of frames."""

    first: Run
    second: Run
    videos: list[Video] = field(default_factory=list)
    only_a: list[str] = field(default_factory=list)
    """Videos that only the first run has finished, or has at all."""
    only_b: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """In quarantine on both sides: nothing to compare."""
    other_versions: list[str] = field(default_factory=list)
    """Videos whose input has changed in between."""
    pairing: Pairing = field(default_factory=Pairing)
    measures: Measures = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> str:
        return MAIN[self.first.task]

    @property
    def whole(self) -> bool:
        """Whether both runs have the same frames of the same videos."""
        return not (self.only_a or self.only_b or self.pairing.differs)


def compare(
    first: str,
    second: str,
    thresholds: Sequence[Threshold] = (),
    *,
    ssim_every: int = 10,
    storage: Storage | None = None,
) -> Comparison:
    """Compares all videos of two runs, one after the other, in memory bounded by a few frames of each.

    thresholds: those that `judge` will be asked for; their names are checked before anything is read.
    Raises InputNotFound where there is no run, UsageError for runs of different tasks, kinds or classes, RecordDamaged
    for what cannot be read.
    """
    storage = storage or Storage()
    a, b = read_run(first, storage), read_run(second, storage)
    check_comparable(a, b)
    if a.task not in MAIN:
        raise UsageError(f"{redact(a.output)}: a run of the task {a.task!r}; comparable are {', '.join(MAIN)}")
    for one in thresholds:
        if one.measure not in ("", *MEASURES[a.task]):
            raise ConfigError(f"{one.measure!r} is no measure of {a.task!r}; it has {', '.join(MEASURES[a.task])}")
    found = Comparison(a, b)
    total = _difference(a.task)
    for name in sorted({*a.videos, *b.videos}):
        ours, theirs = a.videos.get(name), b.videos.get(name)
        good = ours is not None and ours.good, theirs is not None and theirs.good
        if good == (False, False):
            found.failed.append(name)
        elif good != (True, True):
            (found.only_a if good[0] else found.only_b).append(name)
        else:
            assert ours is not None
            assert theirs is not None
            if ours.version != theirs.version:
                found.other_versions.append(name)
            pairing, difference = _compare_video(a, b, name, storage, ssim_every)
            found.videos.append(Video(name, pairing, difference.measures(), difference.detail()))
            found.pairing.add(pairing)
            total.merge(difference)
    found.measures, found.detail = total.measures(), total.detail()
    return found


def _difference(task: str) -> Any:
    kinds: dict[str, Callable[[], Difference]] = {
        "flow": flow.FlowDifference,
        "recognize": recognition.RecognitionDifference,
        "interpolate": pictures.PictureDifference,
    }
    return kinds[task]()


def _compare_video(a: Run, b: Run, name: str, storage: Storage, ssim_every: int) -> tuple[Pairing, Difference]:
    if a.task == "flow":
        return flow.compare_video(a, b, name, storage)
    if a.task == "recognize":
        return recognition.compare_video(a, b, name, storage)
    return pictures.compare_video(a, b, name, storage, ssim_every)


# ---- judging


def judge(found: Comparison, thresholds: Sequence[Threshold], *, each: bool = False) -> list[str]:
    """What is too much, in words; [] if nothing is. ConfigError for a measure that these runs do not have.

    each: thresholds hold for every video too, not only for all together.
    """
    known = list(found.measures)
    wanted = []
    for one in thresholds:
        name = one.measure or found.main
        if name not in known:
            raise ConfigError(f"{one.measure!r} is no measure of these runs; they have {', '.join(known)}")
        wanted.append(Threshold(name, one.limit, one.above))
    reasons = []
    missing = found.pairing.only_a + found.pairing.only_b
    for count, what in (
        (len(found.only_a), "videos only A has"),
        (len(found.only_b), "videos only B has"),
        (missing, "frames only one side has"),
        (found.pairing.other_times, "frames at other times"),
        (found.pairing.incomparable, "frames of other sizes, or with other fields"),
    ):
        if count:
            reasons.append(f"{count} {what}")
    for one in wanted:
        if one.crossed(found.measures):
            reasons.append(f"{one}: {found.measures[one.measure]:.6g}")
        if each:
            crossed = [video.name for video in found.videos if one.crossed(video.measures)]
            if crossed:
                more = f", and {len(crossed) - 3} more" if len(crossed) > 3 else ""
                reasons.append(f"{one} in {', '.join(crossed[:3])}{more}")
    return reasons
