"""Transposed convolution written as an ordinary one.

On CPUs the library's own transposed kernels round differently with other numbers of threads, and RIFE's pictures then
differ by up to three grey levels (480x272 of noise). Ordinary convolutions do not, and take no longer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Enlarge(nn.ConvTranspose2d):
    """Kernel 4, stride 2, padding 1: [N,C,H,W] -> [N,O,2H,2W]. Same parameters and, up to rounding, same result."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs, 4, 2, 1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        height, width = x.shape[-2:]
        # An output row 2y + p sees the input rows y - 1 + p and y + p, through the kernel's rows 3 - p and 1 - p:
        # a 2x2 kernel for each of the four phases, all of them evaluated at every corner between four cells.
        kernels = [self.weight[:, :, [3 - p, 1 - p]][..., [3 - q, 1 - q]] for p in (0, 1) for q in (0, 1)]
        corners = F.conv2d(F.pad(x, (1, 1, 1, 1)), torch.cat(kernels, 1).transpose(0, 1))  # (N, 4 O, H+1, W+1)
        phases = [
            part[..., p : p + height, q : q + width]
            for part, (p, q) in zip(corners.chunk(4, 1), ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True)
        ]
        enlarged = F.pixel_shuffle(torch.stack(phases, 2).flatten(1, 2), 2)
        return enlarged if self.bias is None else enlarged + self.bias[:, None, None]
