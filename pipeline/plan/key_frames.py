"""Which frames of a window run the whole network, and from which of these each other frame takes its features.

`fixed` is Deep Feature Flow's schedule: every l-th frame is a key frame and its features are carried forward.
`lookahead` knows the frames that come. Between neighbouring key frames a < b, frame i takes its features from the one
that explains it better: min(E[a, i], E[b, i]), where E is the residual of carrying low-resolution frames (see
key_residuals.py). The key frames that make the sum over all frames smallest are found by dynamic programming:
D[q, b] = min over a of D[q - 1, a] + sum of min(E[a, i], E[b, i]) for a < i < b. Features always come directly from a
key frame, never by way of another frame, and never across a cut.

Costs are integers, so that sums do not depend on their order and equal schedules compare as equal; among equals the
one with fewer key frames wins, then the one with earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config_recognize import KeyFramesConfig
from pipeline.plan.key_windows import allowance

Costs = NDArray[np.int64]

STEPS = 1 << 16
"""Cost units of a residual of 1."""
LARGEST = 1 << 10
"""Residuals above this count as this."""
IMPOSSIBLE = 1 << 44
"""Cost of carrying what must not be carried; thousands of them still fit into 64 bits."""


@dataclass(frozen=True, slots=True)
class ResidualTable:
    """How badly each frame of a window is explained by carrying another to it."""

    values: NDArray[np.float32]
    """[frames, 2 * reach + 1]: [k, reach + i - k] is the residual of frame i carried from frame k. Infinite: never."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] % 2 == 0 or self.values.shape[1] < 3:
            raise ValueError(
                f"residuals of shape {self.values.shape}, expected (frames, 2 * reach + 1), reach 1 or more"
            )
        if np.isnan(self.values).any() or (self.values < 0).any():
            raise ValueError("residuals must be 0 or more, infinite where frames cannot be carried; found others")

    @property
    def frames(self) -> int:
        return int(self.values.shape[0])

    @property
    def reach(self) -> int:
        """Frames that features may be carried over."""
        return int(self.values.shape[1]) // 2

    def of(self, key: int, frame: int) -> float:
        """Residual of `frame` carried from `key`, both 0-based in the window; infinite beyond `reach`."""
        distance = frame - key
        return float(self.values[key, self.reach + distance]) if abs(distance) <= self.reach else float("inf")


@dataclass(frozen=True, slots=True)
class Carried:
    """Where one frame's features come from. Frames are counted from the video's first."""

    frame: int
    key: int
    """The key frame whose features it takes: itself if it is one."""
    residual: float | None
    """Of carrying from `key`: 0 for a key frame, None where it was not measured (fixed schedule)."""
    other: int | None = None
    """With blending, the key frame on the other side whose features are mixed in."""
    share: float = 1.0
    """Weight of `key`'s features, 0.5 to 1; the rest is `other`'s."""
    promoted: bool = False
    """A key frame beyond the budget, because nothing explained it well enough."""

    @property
    def is_key(self) -> bool:
        return self.frame == self.key

    @property
    def gap(self) -> int:
        """Frames between it and its key frame, 0 for a key frame."""
        return abs(self.frame - self.key)

    @property
    def side(self) -> str:
        """Where its key frame lies: "key" (itself), "before", "after"; "both" with blending."""
        if self.is_key:
            return "key"
        return "both" if self.other is not None else "before" if self.key < self.frame else "after"


def plan_window(
    window: range, cuts: Sequence[bool], residuals: ResidualTable | None, config: KeyFramesConfig
) -> tuple[Carried, ...]:
    """The schedule of a window's frames, in order. A pure function of what the window holds.

    `cuts[i]` says that a cut lies before the window's frame i (of the first it says nothing). The fixed schedule needs
    no residuals; where given, they are noted. ValueError where lengths differ, or lookahead has no residuals.
    """
    if len(cuts) != len(window) or (residuals is not None and residuals.frames != len(window)):
        found = "no" if residuals is None else residuals.frames
        raise ValueError(f"window of {len(window)} frames with {len(cuts)} cut flags and {found} rows of residuals")
    if config.schedule == "fixed":
        return _fixed(window, cuts, residuals, config.interval)
    if residuals is None:
        raise ValueError("schedule=lookahead needs residuals; measure them, or use schedule=fixed")
    table = _within_shots(residuals, cuts, config.max_gap)
    if config.max_residual is None:
        keys = best_keys(_costs(table, None), allowance(window, config.budget))
    else:
        keys = best_keys(_costs(table, config.max_residual), 0)
    keys, promoted = _promote(keys, table, config.promote_above)
    return tuple(
        _carry(frame, keys, table, config.blend, frame in promoted, window.start) for frame in range(len(window))
    )


def key_indices(schedule: Sequence[Carried]) -> list[int]:
    """The key frames of a schedule, in order."""
    return [carried.frame for carried in schedule if carried.is_key]


# ---- the paper's schedule


def _fixed(window: range, cuts: Sequence[bool], residuals: ResidualTable | None, interval: int) -> tuple[Carried, ...]:
    if window.start % interval:
        raise ValueError(f"window from frame {window.start}: fixed windows begin at multiples of interval={interval}")
    schedule = []
    key = 0
    for index, frame in enumerate(window):
        if frame % interval == 0 or cuts[index]:
            key = index
        residual = None if residuals is None else 0.0 if key == index else residuals.of(key, index)
        if residual == float("inf"):
            residual = None
        schedule.append(Carried(frame, window.start + key, residual))
    return tuple(schedule)


# ---- looking ahead


def _within_shots(residuals: ResidualTable, cuts: Sequence[bool], max_gap: int) -> ResidualTable:
    """The table up to `max_gap` frames, with everything across a cut or the window's ends made infinite."""
    reach = min(max_gap, residuals.reach)
    values = residuals.values[:, residuals.reach - reach : residuals.reach + reach + 1].copy()
    shots = np.cumsum(np.concatenate(([0], np.asarray(cuts[1:], np.int64))))
    keys = np.arange(len(shots))[:, None]
    frames = keys + np.arange(-reach, reach + 1)[None, :]
    inside = (frames >= 0) & (frames < len(shots))
    same = inside & (shots[frames.clip(0, len(shots) - 1)] == shots[:, None])
    values[~same] = np.inf
    values[:, reach] = 0  # a frame carried from itself
    return ResidualTable(values)


def _costs(table: ResidualTable, max_residual: float | None) -> Costs:
    values = table.values.astype(np.float64)
    allowed = np.isfinite(values) if max_residual is None else values <= max_residual
    steps = np.rint(np.minimum(values, LARGEST) * STEPS)
    return np.where(allowed, steps, IMPOSSIBLE).astype(np.int64)


def best_keys(costs: Costs, budget: int) -> list[int]:
    """The key frames with the least total cost, at most `budget`; if that many cannot serve all, as few as can.

    `costs`: as a ResidualTable's values, in whole units, IMPOSSIBLE where features must not be carried.
    """
    count, reach = costs.shape[0], costs.shape[1] // 2
    span = min(2 * reach + 1, max(1, count - 1))  # frames from a key frame to the next, at most
    between, head, tail = _gap_costs(costs, span)
    state = head
    best, keys = IMPOSSIBLE, [0]
    earlier: list[NDArray[np.int64]] = []
    for number in range(1, count + 1):
        total = state + tail
        last = int(np.argmin(total))
        if total[last] < best:
            best, keys = int(total[last]), _trace(earlier, last)
        if number >= budget and best < IMPOSSIBLE:
            break
        # choices[b, g - 1]: the last key frame is b, the one before it b - g
        choices = np.full((count, span), IMPOSSIBLE, np.int64)
        for gap in range(1, span + 1):
            choices[gap:, gap - 1] = state[: count - gap] + between[gap - 1, : count - gap]
        gaps = span - 1 - np.argmin(choices[:, ::-1], axis=1)  # of equals the widest: the earlier key frame
        earlier.append(np.arange(count) - gaps - 1)
        state = np.minimum(choices[np.arange(count), gaps], IMPOSSIBLE)
    return keys


def _trace(earlier: Sequence[NDArray[np.int64]], last: int) -> list[int]:
    keys = [last]
    for before in reversed(earlier):
        keys.append(int(before[keys[-1]]))
    return keys[::-1]


def _gap_costs(costs: Costs, span: int) -> tuple[Costs, Costs, Costs]:
    """Total costs of the frames between key frames a and a + g ([g - 1, a]), before a first one and after a last."""
    count, reach = costs.shape[0], costs.shape[1] // 2
    wide = np.full((count, 2 * count + 1), IMPOSSIBLE, np.int64)  # [k, count + i - k]
    near = min(reach, count)
    wide[:, count - near : count + near + 1] = costs[:, reach - near : reach + near + 1]
    between = np.full((span, count), IMPOSSIBLE, np.int64)
    for gap in range(1, span + 1):
        from_left = wide[: count - gap, count + 1 : count + gap]
        from_right = wide[gap:, count - gap + 1 : count]
        between[gap - 1, : count - gap] = np.minimum(from_left, from_right).sum(axis=1)
    head = np.array([wide[key, count - key : count].sum() for key in range(count)])
    tail = np.array([wide[key, count + 1 : 2 * count - key].sum() for key in range(count)])
    return (*(np.minimum(part, IMPOSSIBLE) for part in (between, head, tail)),)  # type: ignore[return-value]


def _promote(keys: list[int], table: ResidualTable, above: float | None) -> tuple[list[int], set[int]]:
    """Makes the worst frame a key frame, from which others may then take their features, until none exceeds `above`."""
    promoted: set[int] = set()
    while above is not None:
        residuals = [_sides(frame, keys, table)[0][0] for frame in range(table.frames)]
        worst = int(np.argmax(residuals))
        if residuals[worst] <= above:
            break
        keys = sorted([*keys, worst])
        promoted.add(worst)
    return keys, promoted


def _sides(frame: int, keys: Sequence[int], table: ResidualTable) -> list[tuple[float, int]]:
    """(residual, key) of the key frames on either side, the better first; of equals the nearer, then the earlier."""
    place = int(np.searchsorted(keys, frame))
    if place < len(keys) and keys[place] == frame:
        return [(0.0, frame)]
    around = [keys[side] for side in (place - 1, place) if 0 <= side < len(keys)]
    return sorted(((table.of(key, frame), key) for key in around), key=lambda it: (it[0], abs(it[1] - frame), it[1]))


def _carry(frame: int, keys: Sequence[int], table: ResidualTable, blend: bool, promoted: bool, start: int) -> Carried:
    (residual, key), *rest = _sides(frame, keys, table)
    carried = Carried(start + frame, start + key, residual, promoted=promoted)
    if blend and rest and residual > 0 and rest[0][0] < float("inf"):
        other, second = rest[0]
        # As estimates with these errors are combined; on real clips better than by residuals, distances or halves.
        carried = replace(carried, other=start + second, share=other**2 / (residual**2 + other**2))
    return carried
