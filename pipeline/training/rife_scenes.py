"""Scenes made of stills for a compact IFNet: layers that slide over each other, with their exact flows.

Most of what real clips show hardly moves, and a network that is taught by them alone settles for the frame average: its
coarse blocks never learn to search. Here everything moves, far and near alike, and where each pixel went is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.training.clips import Clip, Frames
from pipeline.training.synthetic import _blob, _still

STEPS = (2, 3, 4)
"""Into how many equal steps the interval may be cut; the wanted frame lies on one between."""
LAYERS = 3
"""At most, the background among them."""
FINE = 0.3
"""Share of scenes that are moved on a grid of half pixels, then averaged down."""


class Scene(NamedTuple):
    """frames [3,S,S,3]: before, wanted, after; flows [5,S/2,S/2] px and an even mask's logit."""

    frames: Frames
    t: float
    flows: npt.NDArray[np.float16]


def make_scene(stills: Sequence[Clip], crop: int, reach: float, rng: np.random.Generator) -> Scene:
    """A layer moves at most `reach` px from the frame before to the frame after; short ways are more frequent."""
    grid = 2 if rng.random() < FINE else 1  # to the pixel
    count = int(rng.choice(STEPS))
    wanted = int(rng.integers(1, count))
    side = crop * grid
    velocities = [_velocity(reach * grid, count, rng) for _ in range(int(rng.integers(1, LAYERS + 1)))]
    limit = max(max(abs(row), abs(column)) for row, column in velocities) * count
    moved = np.zeros((5, side, side), np.float16)
    shown = np.zeros((3, side, side, 3), np.uint8)
    for index, (row, column) in enumerate(velocities):
        still = _still(list(stills), side + limit, rng)
        region = _blob(side + limit, rng)[: side + limit, : side + limit] if index else None
        for place, step in enumerate((0, wanted, count)):
            # At `step` the layer lies step * velocity further than at the start.
            top, left = (limit * (v > 0) - v * step for v in (row, column))
            area = (slice(top, top + side), slice(left, left + side))
            if region is None:
                shown[place] = still[area]
            else:
                cover = region[area]
                shown[place][cover] = still[area][cover]
            if step == wanted:
                flow = np.array([-column * wanted, -row * wanted, column * (count - wanted), row * (count - wanted)])
                here = slice(None) if region is None else region[area]
                moved[:4, here] = flow[:, None, None] if region is None else flow[:, None]
    if grid == 2:
        blocks = shown.reshape(3, crop, 2, crop, 2, 3).astype(np.uint16).sum((2, 4))
        shown = ((blocks + 2) // 4).astype(np.uint8)
    return Scene(shown, wanted / count, moved[:, :: 2 * grid, :: 2 * grid] / np.float16(grid))


def _velocity(reach: float, count: int, rng: np.random.Generator) -> tuple[int, int]:
    """(rows, columns) a step, whole pixels."""
    length, angle = reach * rng.random() ** 1.5 / count, rng.random() * 2 * np.pi
    return round(length * np.sin(angle)), round(length * np.cos(angle))
