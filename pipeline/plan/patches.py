"""Cutting a large frame into overlapping patches, and the weights that blend them back together: pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Patch:
    top: int
    left: int
    height: int
    width: int


def windows(length: int, size: int, overlap: int, multiple: int = 1) -> list[int]:
    """Starts of windows of `size` over `length` pixels; neighbours share at least `overlap`, spread evenly.

    Starts are multiples of `multiple` where length, size and overlap are.
    """
    if length <= size:
        return [0]
    steps = -(-(length - overlap) // (size - overlap)) - 1
    return [(index * (length - size) // steps) // multiple * multiple for index in range(steps)] + [length - size]


def patch_grid(height: int, width: int, size: int, overlap: int, multiple: int = 1) -> list[Patch]:
    """Patches in row order that cover the frame."""
    return [
        Patch(top, left, min(size, height), min(size, width))
        for top in windows(height, size, overlap, multiple)
        for left in windows(width, size, overlap, multiple)
    ]


def blend_weights(patch: Patch, height: int, width: int, overlap: int) -> NDArray[np.float32]:
    """Weights (patch.height, patch.width) > 0 that fall off linearly towards neighbours; divide by their sum.

    Sides on the frame's border do not fall off.
    """
    rows = _ramp(patch.top, patch.height, height, overlap)
    columns = _ramp(patch.left, patch.width, width, overlap)
    return rows[:, None] * columns[None, :]


def _ramp(start: int, size: int, length: int, overlap: int) -> NDArray[np.float32]:
    weights = np.ones(size, np.float32)
    fall = (np.arange(overlap, dtype=np.float32) + 0.5) / overlap
    if start > 0:
        weights[:overlap] = fall
    if start + size < length:
        weights[size - overlap :] = np.minimum(weights[size - overlap :], fall[::-1])
    return weights
