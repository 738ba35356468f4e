"""How a run went over time: totals so far at up to 500 moments, for charts. Bounded, however long the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

POINTS = 500
FIRST_STEP_S = 1.0


class Timeline:
    """Points {"t": seconds since the start, "frames", "clips", "seconds": {stage: busy seconds}}, all of them totals.

    Points are `step` seconds apart at least; when the list is full, the step doubles until half of it, or less, is
    left. The last point always has the totals.
    """

    def __init__(self) -> None:
        self.step = FIRST_STEP_S
        self._points: list[dict[str, Any]] = [{"t": 0.0, "frames": 0, "clips": 0, "seconds": {}}]
        self._settled = 0.0
        """Time of the last point that stays; a later one is replaced until it is `step` away."""

    def add(self, t: float, frames: int, clips: int, seconds: Mapping[str, float]) -> None:
        """Totals at `t` seconds, in the order of time."""
        t = round(t, 3)
        point = {
            "t": t,
            "frames": frames,
            "clips": clips,
            "seconds": {stage: round(value, 3) for stage, value in sorted(seconds.items())},
        }
        if self._points[-1]["t"] > self._settled:
            self._points[-1] = point
        else:
            self._points.append(point)
        if t - self._settled >= self.step:
            self._settled = t
        if len(self._points) >= POINTS:
            self._thin()

    def _thin(self) -> None:
        """The step doubles from what it is, however far apart points have come: early ones would be thinned alone."""
        while len(self._points) > POINTS // 2:
            self.step *= 2
            kept = self._points[:1]
            for point in self._points[1:-1]:
                if point["t"] - kept[-1]["t"] >= self.step:
                    kept.append(point)
            self._points = [*kept, self._points[-1]]

    def points(self) -> list[dict[str, Any]]:
        return list(self._points)
