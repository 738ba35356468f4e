"""What a run will cost, from headers alone: passes of the model, and their arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import islice, pairwise

from pipeline.plan.grid import Grid
from pipeline.plan.midpoints import nearest_node, passes

SAMPLED = 2000
"""Intervals that are looked at; longer videos are taken to go on like this."""


def cain_macs(height: int, width: int, channels: int, rcabs: int, shuffle: int, exit_depth: int, multiple: int) -> int:
    """Multiply-accumulates of CAIN's convolutions for one midpoint of (height, width), padded to `multiple`.

    The paper counts two FLOPs for each, on frames padded to 128 (specs: 3.13 T for 2048x1080 at full depth).
    """
    cells = (-(-height // multiple) * multiple) * (-(-width // multiple) * multiple) // shuffle**2
    folded = 3 * shuffle**2
    ends = 9 * channels * (2 * folded) + 9 * channels * folded
    group = (2 * rcabs + 1) * 9 * channels**2
    return cells * (ends + exit_depth * group)


def midpoint_passes(pts: Sequence[int], grid: Grid, max_error: Fraction, max_depth: int) -> int:
    """Midpoints that a video with these frame times needs at most (cuts and identical frames need none)."""

    def needed(left: int, right: int) -> int:
        return len(passes({nearest_node(out.t, max_error, max_depth) for out in grid.between(left, right)}))

    return _summed(pts, needed)


def inner_frames(pts: Sequence[int], grid: Grid) -> int:
    """Output frames strictly between two of a video's, at most: the passes of a model that knows any time."""
    return _summed(pts, lambda left, right: sum(0 < out.t < 1 for out in grid.between(left, right)))


def _summed(pts: Sequence[int], needed: Callable[[int, int], int]) -> int:
    counts = [needed(left, right) for left, right in islice(pairwise(pts), SAMPLED)]
    return sum(counts) * (len(pts) - 1) // len(counts) if counts else 0
