"""How a layer of a made scene moves: an affine and an elastic part, at nearly constant velocity, known exactly.

A point at x in the middle frame is at x + d(x, time) in the frame at `time` (-1 previous, 1 next):

    d(x, time) = time * (translation + linear (x - centre) + elastic(x)) + time² * (bend + curl (x - centre))

So flows of the middle frame are formulas. To draw another frame each of its pixels asks where it was in the middle
frame; the affine part is inverted exactly, the elastic one by a fixed point that contracts (Motion.origin).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.training.flow_recipe import MotionRecipe

ROUNDS = 5  # of the fixed point: its error shrinks by STRAIN at least in each
STRAIN = 0.25  # largest slope of the elastic part: folding starts at 1


@dataclass(frozen=True, eq=False)
class Waves:
    """An elastic field: a sum of plane waves. frequency [K,2] radians/px, phase [K], amplitude [K,2] px."""

    frequency: Tensor
    phase: Tensor
    amplitude: Tensor

    def __call__(self, at: Tensor) -> Tensor:
        """at [2,H,W] px -> displacement [2,H,W] px"""
        x, y = at
        total = torch.zeros_like(at)
        for (fx, fy), phase, (ax, ay) in zip(
            self.frequency.tolist(), self.phase.tolist(), self.amplitude.tolist(), strict=True
        ):
            wave = torch.sin(fx * x + (fy * y + phase))
            total[0] += ax * wave
            total[1] += ay * wave
        return total


@dataclass(frozen=True, eq=False)
class Motion:
    """Vectors are (x, y) in px, y down; times are frames from the middle one."""

    centre: Tensor  # [2]
    translation: Tensor  # [2] px a frame
    linear: Tensor  # [2,2]
    bend: Tensor  # [2] px a frame²
    curl: Tensor  # [2,2]
    elastic: Waves | None = None

    def displacement(self, at: Tensor, time: float) -> Tensor:
        """From the middle frame to `time`, for points [2,H,W] of the middle frame."""
        matrix = time * self.linear + time * time * self.curl
        shift = time * self.translation + time * time * self.bend
        out = affine(matrix, at, shift - matrix @ self.centre)
        if self.elastic is not None:
            out += time * self.elastic(at)
        return out

    def origin(self, at: Tensor, time: float) -> Tensor:
        """Where points [2,H,W] of the frame at `time` are in the middle frame: the inverse of x + displacement(x)."""
        if time == 0:
            return at
        matrix = time * self.linear + time * time * self.curl
        shift = time * self.translation + time * time * self.bend - matrix @ self.centre
        inverse = torch.linalg.inv(torch.eye(2) + matrix)
        start = affine(inverse, at, -(inverse @ shift))
        if self.elastic is None:
            return start
        found = start
        for _ in range(ROUNDS):
            found = start - affine(time * inverse, self.elastic(found))
        return found

    def disc(self, radius: float, time: float) -> tuple[float, float, float]:
        """(x, y, radius) of a disc that holds, at `time`, all points at most `radius` from the centre in the middle."""
        x, y = (self.centre + time * self.translation + time * time * self.bend).tolist()
        stretch = float((time * self.linear + time * time * self.curl).norm())
        bent = 0.0 if self.elastic is None else abs(time) * float(self.elastic.amplitude.norm(dim=1).sum())
        return x, y, radius * (1 + stretch) + bent


def affine(matrix: Tensor, at: Tensor, shift: Tensor | None = None) -> Tensor:
    """matrix @ at + shift for points [2,H,W]"""
    (a, b), (c, d) = matrix.tolist()
    e, f = (0.0, 0.0) if shift is None else shift.tolist()
    x, y = at
    return torch.stack([a * x + (b * y + e), c * x + (d * y + f)])


def combined(first: Motion, second: Motion) -> Motion:
    """The sum of both displacements: an object moves with the camera and on its own. Elastic parts: the second's."""
    offset = first.centre - second.centre
    return Motion(
        second.centre,
        first.translation + second.translation - first.linear @ offset,
        first.linear + second.linear,
        first.bend + second.bend - first.curl @ offset,
        first.curl + second.curl,
        second.elastic,
    )


def draw(rng: np.random.Generator, recipe: MotionRecipe, reach: float, size: tuple[int, int]) -> Motion:
    """A random motion whose translation is at most `reach` px a frame, in a frame of size (height, width)."""
    height, width = size
    length = 0.0 if rng.random() < recipe.still else float(np.exp(rng.uniform(np.log(0.2), np.log(max(reach, 0.3)))))
    # Turning, growing and bending are stronger where translation is: a slow scene is slow everywhere.
    vigour = float(np.exp(rng.uniform(np.log(0.02), 0.0))) * min(1.0, reach / 16)
    linear = vigour * random_linear(rng, recipe.turn, recipe.growth, recipe.shear)
    bend = recipe.bend * length * float(rng.random()) * direction(rng)
    curl = recipe.bend * float(rng.random()) * vigour * random_linear(rng, recipe.turn, recipe.growth, recipe.shear)
    elastic = None
    if rng.random() < recipe.elastic:
        elastic = random_waves(rng, vigour * recipe.elastic_reach, max(size))
    centre = torch.from_numpy(rng.uniform(0.1, 0.9, 2) * (width, height)).float()
    return Motion(centre, length * direction(rng), linear, bend, curl, elastic)


def direction(rng: np.random.Generator) -> Tensor:
    angle = rng.uniform(0, 2 * np.pi)
    return torch.tensor([np.cos(angle), np.sin(angle)], dtype=torch.float32)


def random_linear(rng: np.random.Generator, turn: float, growth: float, shear: float) -> Tensor:
    """A rotation of `turn` radians, growth and shear at most, less the identity: [2,2]."""
    angle, grown, sheared = turn * rng.uniform(-1, 1), 1 + growth * rng.uniform(-1, 1), shear * rng.uniform(-1, 1, 2)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = grown * np.array([[cos, -sin], [sin, cos]]) + np.array(
        [[sheared[0], sheared[1]], [sheared[1], -sheared[0]]]
    )
    return torch.from_numpy(matrix - np.eye(2)).float()


def random_waves(rng: np.random.Generator, reach: float, side: int, count: int = 2) -> Waves:
    """Waves of `reach` px at most and a slope of STRAIN at most, from a quarter of the frame to twice its side long."""
    length = side * np.exp(rng.uniform(np.log(0.25), np.log(2.0), count))
    angle = rng.uniform(0, 2 * np.pi, count)
    frequency = (2 * np.pi / length)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    limit = np.minimum(reach, STRAIN * length / (2 * np.pi)) / count
    heading = rng.uniform(0, 2 * np.pi, count)
    amplitude = limit[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
    phase = rng.uniform(0, 2 * np.pi, count)
    return Waves(*(torch.from_numpy(a).float() for a in (frequency, phase, amplitude)))
