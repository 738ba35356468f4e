"""When the output's frames are shown: pure arithmetic on integer pts.

A grid answers one question for an interval [left, right) between neighbouring source frames: which output frames fall
into it, at which exact place `t` = (time - left) / (right - left) in [0, 1). It depends on nothing else, so a video may
be cut into clips anywhere. The last source frame's interval reaches to the end of its display time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from pipeline.config import MAX_TIMESCALE, TargetConfig


@dataclass(frozen=True, slots=True)
class OutputTime:
    pts: int
    """In the grid's time_base."""
    t: Fraction
    """Place in the source interval: 0 is the left frame itself."""


@dataclass(frozen=True, slots=True)
class FactorGrid:
    """`factor` frames for each source frame, at exact fractions of each interval: variable frame rate is kept."""

    factor: int
    source_time_base: Fraction

    @property
    def time_base(self) -> Fraction:
        # One over a whole number, as containers and encoders want it (AVI's time bases are like 1001/30000).
        return Fraction(1, (self.source_time_base / self.factor).denominator)

    def between(self, left: int, right: int) -> Iterator[OutputTime]:
        ticks = (self.source_time_base / self.factor).numerator
        for step in range(self.factor):
            pts = (left * self.factor + step * (right - left)) * ticks
            yield OutputTime(pts, Fraction(step, self.factor))

    def end(self, source_end: int, last: int) -> int:
        """Tick at which the last output frame (at tick `last`) of source times up to `source_end` stops showing."""
        return source_end * self.factor * (self.source_time_base / self.factor).numerator


@dataclass(frozen=True, slots=True)
class RateGrid:
    """A constant rate: frame n is shown at origin + n / fps, exactly, whatever the source's times."""

    fps: Fraction
    source_time_base: Fraction
    origin: int
    """pts of the video's first frame, in source_time_base."""

    @property
    def time_base(self) -> Fraction:
        # Fine enough for one frame and for the origin; for the frames alone when no MP4 timescale holds both.
        period = 1 / self.fps
        origin = self.origin * self.source_time_base
        ticks = math.lcm(period.denominator, origin.denominator)
        return Fraction(1, ticks) if ticks <= MAX_TIMESCALE else Fraction(1, period.denominator)

    @property
    def shift(self) -> Fraction:
        """Seconds by which every frame is later than it should be: not 0 where no time base holds the origin."""
        return self._tick(0) * self.time_base - self.origin * self.source_time_base

    def between(self, left: int, right: int) -> Iterator[OutputTime]:
        base, start = self.source_time_base, left * self.source_time_base
        length = (right - left) * base
        origin = self.origin * base
        number = math.ceil((start - origin) * self.fps)
        while (time := origin + number / self.fps) < start + length:
            yield OutputTime(self._tick(number), (time - start) / length)
            number += 1

    def _tick(self, number: int) -> int:
        # The origin is rounded to a tick only where no time base holds it exactly; steps between frames never are.
        step = 1 / self.fps / self.time_base
        return round(self.origin * self.source_time_base / self.time_base) + number * int(step)

    def end(self, source_end: int, last: int) -> int:
        return last + int(1 / self.fps / self.time_base)


Grid = FactorGrid | RateGrid


def make_grid(target: TargetConfig, source_time_base: Fraction, origin: int) -> Grid:
    """The output grid that `target` asks for, for a video whose first frame is at `origin` (in source_time_base)."""
    if target.fps is not None:
        return RateGrid(target.fps, source_time_base, origin)
    assert target.factor is not None
    return FactorGrid(target.factor, source_time_base)


def note(grid: Grid) -> str | None:
    """What the grid could not keep, for the video's record; None where all is exact."""
    if isinstance(grid, FactorGrid) or not grid.shift:
        return None
    return (
        f"all frames are {float(abs(grid.shift)) * 1e6:.3g} µs {'late' if grid.shift > 0 else 'early'}: no time base "
        f"holds both target.fps={grid.fps} and the first frame's time"
    )


def frames_before(grid: Grid, pts: int, source_frames: int) -> int:
    """How many output frames come before source time `pts`, which `source_frames` source frames come before."""
    if isinstance(grid, FactorGrid):
        return grid.factor * source_frames
    return math.ceil((pts - grid.origin) * grid.source_time_base * grid.fps)
