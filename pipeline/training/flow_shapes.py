"""Outlines of foreground objects, drawn by code: blobs, polygons, rings, and thin things such as a chair's legs.

Each is a map of coverage 0..1 on a square that stands for [-1, 1]², smooth over about a pixel at its edges.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SIDE = 160  # px of a map
Field = npt.NDArray[np.float64]


def draw_shapes(rng: np.random.Generator, count: int) -> Tensor:
    """[count,1,SIDE,SIDE] coverage; no shape touches the border or is empty."""
    axis = (np.arange(SIDE) + 0.5) * 2 / SIDE - 1
    x, y = np.meshgrid(axis, axis)
    rim = 1 - np.maximum(np.abs(x), np.abs(y))  # distance to the border
    shapes: list[Field] = []
    while len(shapes) < count:
        kind = KINDS[rng.choice(len(KINDS), p=WEIGHTS)]
        distance = kind(rng, x, y)
        if rng.random() < 0.2:  # a hole
            cx, cy, radius = *rng.uniform(-0.4, 0.4, 2), rng.uniform(0.08, 0.3)
            distance = np.minimum(distance, np.hypot(x - cx, y - cy) - radius)
        coverage = np.clip(np.minimum(distance, rim - 2 / SIDE) * SIDE / 2 + 0.5, 0, 1)
        if coverage.mean() > 0.02:
            shapes.append(coverage)
    return torch.from_numpy(np.stack(shapes)).float().unsqueeze(1)


# Each kind returns about the signed distance to the outline, positive inside, in units of the square's half side.


def blob(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """A disc whose radius waves around it."""
    angle, radius = np.arctan2(y, x), np.full_like(x, rng.uniform(0.5, 0.8))
    for order in range(1, 6):
        radius += rng.normal(0, 0.22 / order) * np.sin(order * angle + rng.uniform(0, 2 * np.pi))
    return np.clip(radius, 0.08, 0.95) - np.hypot(x, y)


def polygon(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Convex, or a star, of 3 to 9 corners."""
    corners = int(rng.integers(3, 10))
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(0.3 if rng.random() < 0.5 else 0.7, 0.95, corners)
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    inside, distance = np.zeros(x.shape, bool), np.full_like(x, np.inf)
    for i in range(corners):
        ax, ay, bx, by = px[i - 1], py[i - 1], px[i], py[i]
        distance = np.minimum(distance, to_segment(x, y, ax, ay, bx, by))
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return np.where(inside, distance, -distance)


def ring(rng: np.random.Generator, x: Field, y: Field) -> Field:
    stretch, radius, half = rng.uniform(0.4, 1.0), rng.uniform(0.5, 0.8), rng.uniform(0.05, 0.2)
    distance: Field = half - np.abs(np.hypot(x, y / stretch) - radius)
    return distance


def sticks(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """3 to 8 bars, some from a common joint, some parallel: what a 1/16 grid finds hardest."""
    half = rng.uniform(0.025, 0.09)
    joint, lean = rng.uniform(-0.6, 0.6, 2), rng.uniform(-0.3, 0.3)
    parallel = rng.random() < 0.5
    distance = np.full_like(x, -np.inf)
    for place in np.linspace(-0.7, 0.7, int(rng.integers(3, 9))):
        a = (place, -0.85) if parallel else tuple(joint)
        b = (place + lean, rng.uniform(0.2, 0.85)) if parallel else tuple(rng.uniform(-0.9, 0.9, 2))
        distance = np.maximum(distance, half - to_segment(x, y, *a, *b))
    if rng.random() < 0.6:  # a seat
        distance = np.maximum(distance, 0.15 - np.maximum(np.abs(x) - 0.55, np.abs(y - rng.uniform(-0.3, 0.3))))
    return distance


def to_segment(x: Field, y: Field, ax: float, ay: float, bx: float, by: float) -> Field:
    dx, dy = bx - ax, by - ay
    along = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    distance: Field = np.hypot(x - ax - along * dx, y - ay - along * dy)
    return distance


KINDS: tuple[Callable[[np.random.Generator, Field, Field], Field], ...] = (blob, polygon, ring, sticks)
WEIGHTS = (0.4, 0.3, 0.08, 0.22)
