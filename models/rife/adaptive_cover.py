"""Which windows a block works on, so that all patches that ask for it lie inside with a margin around them.

A block's convolutions spoil what lies near a window's edge, so every window is computed with a margin that is given up.
Neighbouring patches share one window where that costs less than margins of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Area:
    """Half-open, in pixels of the padded frame."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def pixels(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def grown(self, margin: int, height: int, width: int) -> Area:
        return Area(
            max(0, self.top - margin), max(0, self.left - margin),
            min(height, self.bottom + margin), min(width, self.right + margin),
        )  # fmt: skip


def cover(chosen: Sequence[Sequence[bool]], patch: int, height: int, width: int, margin: int) -> list[Area]:
    """Areas that hold every chosen patch, from the top down; the frame whole where windows would cost no less.

    chosen          rows of the grid of patches
    patch, margin   pixels; height, width: of the padded frame
    """
    frame = Area(0, 0, height, width)
    runs = [
        (row * patch, start * patch, min(height, (row + 1) * patch), min(width, end * patch))
        for row, flags in enumerate(chosen)
        for start, end in _runs(flags)
    ]
    if not runs:
        return []
    areas = torch.tensor(runs)
    while len(areas) > 1:
        union = torch.cat(
            [
                torch.minimum(areas[:, None, :2], areas[None, :, :2]),
                torch.maximum(areas[:, None, 2:], areas[None, :, 2:]),
            ],
            2,
        )
        alone = _cost(areas, margin, height, width)
        saved = alone[:, None] + alone[None] - _cost(union, margin, height, width)
        saved.fill_diagonal_(0)
        best = int(saved.argmax())
        i, j = divmod(best, len(areas))
        if saved[i, j] <= 0:
            break
        keep = [k for k in range(len(areas)) if k not in (i, j)]
        areas = torch.cat([areas[keep], union[i, j][None]])
    if int(_cost(areas, margin, height, width).sum()) >= frame.pixels:
        return [frame]
    return [Area(*area) for area in sorted(areas.tolist())]


def _cost(areas: Tensor, margin: int, height: int, width: int) -> Tensor:
    """Pixels with the margin; areas [..., 4] as (top, left, bottom, right)."""
    low = (areas[..., :2] - margin).clamp_min(0)
    high = torch.minimum(areas[..., 2:] + margin, torch.tensor([height, width]))
    return (high - low).prod(-1)


def _runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """Half-open ranges of neighbouring chosen patches."""
    edges = [False, *flags, False]
    changes = [i for i in range(len(flags) + 1) if edges[i] != edges[i + 1]]
    return list(zip(changes[::2], changes[1::2], strict=True))
