"""How far things move, without a trained network: block matching on small frames.

The SD-finder asks only for the magnitude of motion, averaged over a patch. PWC-Net gives it at 27 GMAC a pair of
frames, half of what the compact CAIN spends on a 720p frame; this takes less than a thousandth of that.

Each cell of 4x4 pixels compares its surroundings (3x3 cells) with those of all cells up to 4 away, and moves by the
mean of the displacements weighted by how well they match: parts of a cell come out of it, and where everything
matches alike, as in a clear sky, the answer is near zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELL = 4  # px
REACH = 4  # cells searched in each direction: 16 px of a frame with 192 px on its short side, 60 px at 720p
SURROUNDINGS = 3  # cells on a side of what is compared
SHARPNESS = 255.0  # a displacement that matches one grey level worse counts exp(-1)
STILLNESS = 0.1 / 255  # what each cell of displacement costs: ties go to the shortest


class BlockMotion(nn.Module):
    """Flow of the first frame to the second, [N,3,h,w] RGB 0..1 twice -> [N,2,h,w] px (x right, y down)."""

    def forward(self, frame0: Tensor, frame1: Tensor) -> Tensor:
        if frame0.shape != frame1.shape or frame0.ndim != 4:
            raise ValueError(
                f"BlockMotion takes two frames of one shape [N,3,H,W]; got {list(frame0.shape)} and "
                f"{list(frame1.shape)}"
            )
        with torch.autocast(frame0.device.type, enabled=False):
            first, second = (
                F.avg_pool2d(x.float().mean(1, keepdim=True), CELL, ceil_mode=True) for x in (frame0, frame1)
            )
            number, _, rows, columns = first.shape
            side = 2 * REACH + 1
            padded = F.pad(second, (REACH,) * 4, mode="replicate")
            moved = padded.unfold(2, rows, 1).unfold(3, columns, 1)  # (N, 1, side, side, rows, columns)
            error = (moved[:, 0] - first[:, :, None]).abs().reshape(number, side * side, rows, columns)
            error = _around(error) / _around(torch.ones_like(error[:, :1]))
            step = torch.arange(-REACH, REACH + 1, device=error.device, dtype=torch.float32)
            dy, dx = torch.meshgrid(step, step, indexing="ij")
            displacements = torch.stack([dx.flatten(), dy.flatten()])  # (2, side²)
            error = error + STILLNESS * displacements.norm(dim=0)[:, None, None]
            weight = torch.softmax(-SHARPNESS * error, 1)
            flow = CELL * (weight[:, None] * displacements[:, :, None, None]).sum(2)  # (N, 2, rows, columns)
            return F.interpolate(flow, size=frame0.shape[-2:], mode="nearest")


def _around(x: Tensor) -> Tensor:
    """Sums over SURROUNDINGS x SURROUNDINGS cells, what lies outside left out: avg_pool2d takes ten times as long."""
    x = F.pad(x, (SURROUNDINGS // 2,) * 4)
    for side in (2, 3):
        length = x.shape[side] - SURROUNDINGS + 1
        total = x.narrow(side, 0, length)
        for start in range(1, SURROUNDINGS):
            total = total + x.narrow(side, start, length)
        x = total
    return x


def macs(height: int, width: int) -> int:
    """Of one direction on frames of (height, width), counting a comparison, and each term of a mean, as one."""
    cells = -(-height // CELL) * -(-width // CELL)
    return (2 * REACH + 1) ** 2 * (1 + SURROUNDINGS**2 + 2) * cells
