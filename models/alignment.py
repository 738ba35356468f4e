"""Two frames brought to the moment between them, without a trained network.

A network that knows small motion only, as a compact CAIN does, is given frames in which most of the motion is gone:
each pixel of the wanted moment t takes what lies t of its motion back in the first frame and 1 - t of it on in the
second. The motion is found once for a pair, from coarse to fine, by comparing the surroundings of both ends of each
candidate (bilateral matching: as many pixels back as on, so that the field belongs to the picture in the middle and has
no holes). Surroundings are compared without their means: light that changes does not move.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.rife.warp import grid_of, warp

LEVELS = ((16, 3), (8, 1), (4, 1), (2, 1))
"""(what the frame's sides are divided by, cells searched in each direction at each end): 124 px between two frames."""
LARGEST = 1 << 21
"""Pixels of a frame searched at LEVELS; of larger ones every level is coarser, by the power of two that fits."""
AROUND = 4
"""Cells in each direction that are compared: 9x9."""
FLAT = 3
"""Cells in each direction whose mean is taken off."""
SHARPNESS = 255.0
"""A candidate that matches one grey level worse counts exp(-1)."""
EQUAL = 1.2 / 255
"""Largest difference of pixels that count as equal."""
STILLNESS = 0.6 / 255
"""What each cell of displacement costs: where everything matches alike, nothing moves."""


@torch.no_grad()
def match(frame0: Tensor, frame1: Tensor) -> Tensor:
    """Motion from the first frame to the second, seen from the middle: [N,3,H,W] RGB 0..1 twice -> [N,2,H,W] px (x, y).

    What the middle shows at p lies at p - flow / 2 in the first frame and at p + flow / 2 in the second.
    """
    if frame0.shape != frame1.shape or frame0.ndim != 4:
        raise ValueError(
            f"match takes two frames of one shape [N,3,H,W]; got {list(frame0.shape)} and {list(frame1.shape)}"
        )
    height, width = frame0.shape[-2:]
    coarser = 1
    while height * width > LARGEST * coarser**2:
        coarser *= 2
    with torch.autocast(frame0.device.type, enabled=False):
        smaller = [_smaller(frame.float(), [cell * coarser for cell, _ in LEVELS]) for frame in (frame0, frame1)]
        flow: Tensor | None = None
        for first, second, (_, reach) in zip(*smaller, LEVELS, strict=True):
            flow = _level(first, second, flow, reach)
        assert flow is not None
        flow = _kept(first, second, flow)
        scale = LEVELS[-1][0] * coarser
        large = F.interpolate(flow * scale, scale_factor=float(scale), mode="bilinear", align_corners=False)
        return large[..., :height, :width]


@torch.no_grad()
def align(frame0: Tensor, frame1: Tensor, flow: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Both frames [N,3,H,W] as they look at t (0..1) by `match`'s flow; beyond their edges the border goes on.

    Where both are equal around a pixel they stay as they are: captions and logos do not move with what is behind them.
    """
    differs = (frame0 - frame1).abs().amax(1, keepdim=True) > EQUAL
    for side in (-2, -1):  # or a neighbour differs
        near = F.pad(differs, (1, 1, 0, 0) if side == -1 else (0, 0, 1, 1))
        length = differs.shape[side]
        differs = near.narrow(side, 0, length) | differs | near.narrow(side, 2, length)
    warped0, warped1 = _warped(frame0, frame1, flow, t)
    return torch.where(differs, warped0, frame0), torch.where(differs, warped1, frame1)


def to_middle(frame0: Tensor, frame1: Tensor) -> tuple[Tensor, Tensor]:
    """Both frames [N,3,H,W] as they look halfway between them."""
    return align(frame0, frame1, match(frame0, frame1), 0.5)


def _warped(frame0: Tensor, frame1: Tensor, flow: Tensor, t: float) -> tuple[Tensor, Tensor]:
    height, width = frame0.shape[-2:]
    grid = grid_of(height, width, frame0.device)
    return warp(frame0, -t * flow, grid), warp(frame1, (1 - t) * flow, grid)


def _smaller(frame: Tensor, cells: Sequence[int]) -> list[Tensor]:
    """Means over squares of the given sides, powers of two, falling; beyond the edges the border goes on."""
    height, width = frame.shape[-2:]
    frame = F.pad(frame, (0, -width % cells[0], 0, -height % cells[0]), mode="replicate")
    found: list[Tensor] = []
    side = 1
    for cell in reversed(cells):
        while side < cell:  # avg_pool2d would take ten times as long on a CPU
            frame = frame[..., ::2, :] + frame[..., 1::2, :]
            frame = (frame[..., ::2] + frame[..., 1::2]) / 4
            side *= 2
        found.append(frame)
    return found[::-1]


def _level(first: Tensor, second: Tensor, flow: Tensor | None, reach: int) -> Tensor:
    """The flow [N,2,h,w] in cells, corrected by what matches best within reach; frames [N,3,h,w]."""
    first, second = (x - _mean_around(x, FLAT) for x in (first, second))
    rows, columns = first.shape[-2:]
    if flow is None:
        flow = first.new_zeros(len(first), 2, rows, columns)
    else:
        flow = 2 * F.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False)[..., :rows, :columns]
        first, second = _warped(first, second, flow, 0.5)
    first, second = (F.pad(x, (reach,) * 4, mode="replicate") for x in (first, second))
    steps = [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    errors = [
        (_cut(first, reach - dy, reach - dx, rows, columns) - _cut(second, reach + dy, reach + dx, rows, columns))
        .abs()
        .mean(1)
        for dy, dx in steps
    ]
    back_and_on = 2 * torch.tensor([(dx, dy) for dy, dx in steps], dtype=torch.float32, device=first.device)
    error = _mean_around(torch.stack(errors, 1), AROUND) + STILLNESS / 2 * back_and_on.norm(dim=1)[:, None, None]
    weight = torch.softmax(-SHARPNESS * error, 1)  # (N, candidates, rows, columns)
    moves = [sum(weight[:, k] * float(back_and_on[k, axis]) for k in range(len(steps))) for axis in (0, 1)]
    return _mean_around(flow + torch.stack([torch.as_tensor(x) for x in moves], 1), 1)


def _kept(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """The flow [N,2,h,w] in cells, and none where frames that stay are more alike than frames that follow it."""
    stays, follows = (
        _mean_around((x - y).abs().mean(1, keepdim=True), AROUND)
        for x, y in ((first, second), _warped(first, second, flow, 0.5))
    )
    return flow * _mean_around((follows < stays).to(flow), 2)


def _cut(x: Tensor, top: int, left: int, rows: int, columns: int) -> Tensor:
    return x[..., top : top + rows, left : left + columns]


def _mean_around(x: Tensor, reach: int) -> Tensor:
    """The mean over (2 reach + 1)² cells; the border goes on. As sums of shifted planes: avg_pool2d is slow on CPUs."""
    x = F.pad(x, (reach,) * 4, mode="replicate")
    for side in (-2, -1):
        length = x.shape[side] - 2 * reach
        total = x.narrow(side, 0, length).clone()
        for start in range(1, 2 * reach + 1):
            total += x.narrow(side, start, length)
        x = total
    return x / (2 * reach + 1) ** 2
