"""Backward warping and resizing, as RIFE's weights expect them. Always in fp32: half precision misplaces pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_of(height: int, width: int, device: torch.device) -> Tensor:
    """Sampling positions of an unmoved picture, (1, 2, H, W): -1..1 from the first pixel's centre to the last one's."""
    x = torch.linspace(-1, 1, width, device=device).expand(height, width)
    y = torch.linspace(-1, 1, height, device=device)[:, None].expand(height, width)
    return torch.stack([x, y])[None]


def warp(x: Tensor, flow: Tensor, grid: Tensor) -> Tensor:
    """`x` [N,C,H,W] sampled at (column + flow 0, row + flow 1), flow [N,2,H,W] px; outside, the border goes on."""
    with torch.autocast(x.device.type, enabled=False):
        height, width = x.shape[-2:]
        half = flow.new_tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float32)[:, None, None]
        position = (grid + flow.float() / half).permute(0, 2, 3, 1)
        return F.grid_sample(x.float(), position, mode="bilinear", padding_mode="border", align_corners=True)


def resize(x: Tensor, factor: float) -> Tensor:
    """Bilinear, without antialiasing; the sides times `factor` are whole numbers."""
    if factor == 1:
        return x
    height, width = (round(side * factor) for side in x.shape[-2:])
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
