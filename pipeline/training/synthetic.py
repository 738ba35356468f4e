"""Triplets made from two stills: one slides over the other at constant velocity, so the middle is known exactly.

Real clips move little in most places and are blurred by compression where they move most. Here every pixel moves, every
edge is sharp, and covering and uncovering is exact: the network learns early what motion is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.training.clips import Clip, Frames

OVERSAMPLING = 2  # stills are moved by whole pixels of a finer grid, then averaged down: exact half-pixel motion


def make_triplet(clips: list[Clip], crop: int, reach: float, rng: np.random.Generator) -> Frames:
    """[3,crop,crop,3] uint8; a layer moves at most `reach` px from an end to the middle."""
    fine = crop * OVERSAMPLING
    limit = int(reach * OVERSAMPLING)
    behind, before = (_still(clips, fine + 2 * limit, rng) for _ in range(2))
    slow, fast = (_velocity(limit, rng) for _ in range(2))
    mask = _blob(fine + 2 * limit, rng)
    frames = []
    for time in (-1, 0, 1):
        back = _shifted(behind, slow, time, limit, fine)
        front, cover = (_shifted(layer, fast, time, limit, fine) for layer in (before, mask))
        composed = np.where(cover[..., None], front, back)
        blocks = composed.reshape(crop, OVERSAMPLING, crop, OVERSAMPLING, 3).astype(np.uint16)
        frames.append(((blocks.sum((1, 3)) + OVERSAMPLING**2 // 2) // OVERSAMPLING**2).astype(np.uint8))
    return np.stack(frames)


def _still(clips: list[Clip], side: int, rng: np.random.Generator) -> Frames:
    clip = clips[rng.integers(len(clips))]
    frame = clip.frames[rng.integers(len(clip.frames))]
    top, left = (int(rng.integers(max(1, extent - side + 1))) for extent in frame.shape[:2])
    window = frame[top : top + side, left : left + side]
    short = [(0, side - extent) for extent in window.shape[:2]]
    return np.pad(window, [*short, (0, 0)], mode="symmetric")


def _velocity(limit: int, rng: np.random.Generator) -> tuple[int, int]:
    """Small motion is more frequent than large, as it is in life."""
    length, angle = limit * rng.random(), rng.random() * 2 * np.pi
    return round(length * np.sin(angle)), round(length * np.cos(angle))


def _blob(side: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """A random region with a smooth outline: a few random waves above a threshold, drawn on every fourth pixel."""
    axis = np.linspace(0, 2 * np.pi, -(-side // 4), dtype=np.float32)
    fy, fx = rng.uniform(-2.5, 2.5, (2, 4, 1, 1)).astype(np.float32)
    field = np.sin(fy * axis[:, None] + fx * axis + rng.uniform(0, 2 * np.pi, (4, 1, 1))).sum(0)
    region: npt.NDArray[np.bool_] = field > np.quantile(field, rng.uniform(0.3, 1.0))
    return region.repeat(4, 0).repeat(4, 1)


def _shifted(
    a: npt.NDArray[np.generic], velocity: tuple[int, int], time: int, limit: int, side: int
) -> npt.NDArray[np.generic]:
    top, left = limit + time * velocity[0], limit + time * velocity[1]
    return a[top : top + side, left : left + side]
