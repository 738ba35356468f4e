"""Convex upsampling by 16: each pixel is a learned mean of its cell's 3x3 neighbourhood (RAFT, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.memfof.encoder import STRIDE
from models.memfof.precision import full_precision

NEIGHBOURS = 9
PIXELS = STRIDE * STRIDE  # of a cell
DIRECTIONS = 2  # backward, forward


class UpsampleWeight(nn.Sequential):
    """The mask head: hidden state [N,dim,h,w] -> logits of both directions [N, 2 * 9 * 256, h, w]."""

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.Conv2d(dim, 2 * dim, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * dim, DIRECTIONS * NEIGHBOURS * PIXELS, 1),
        )

    def upsample(self, net: Tensor, fields: Tensor, rows: int | None = None) -> Tensor:
        """fields [N,2,C,h,w] -> [N,2,C,16 h,16 w] by the mask of net [N,dim,h,w], `rows` grid rows at a time.

        The first layer sees the whole grid; the second, and its 4608 channels, only the rows in work.
        """
        hidden = self[1](self[0](net))
        with full_precision(net):
            hidden, fields = hidden.float(), fields.float()
            around = neighbourhoods(fields)  # (N, 2, C, 9, h, w)
            height = fields.shape[-2]
            strips = []
            for start in range(0, height, rows or height):
                some = slice(start, start + (rows or height))
                mask = 0.25 * self[2](hidden[..., some, :])
                strips.append(convex(mask, around[..., some, :]))
        return torch.cat(strips, -2) if len(strips) > 1 else strips[0]


def neighbourhoods(fields: Tensor) -> Tensor:
    """The 3x3 cells around each, zero outside: [N,2,C,h,w] -> [N,2,C,9,h,w], row by row."""
    height, width = fields.shape[-2:]
    padded = F.pad(fields, (1, 1, 1, 1))
    return torch.stack([padded[..., y : y + height, x : x + width] for y in range(3) for x in range(3)], 3)


def convex(mask: Tensor, around: Tensor) -> Tensor:
    """mask [N, 2*9*256, h, w] and neighbourhoods [N,2,C,9,h,w] -> [N,2,C,16 h,16 w]."""
    samples, _, channels, _, height, width = around.shape
    weights = mask.view(samples, DIRECTIONS, NEIGHBOURS, PIXELS, height, width).softmax(2)
    total = torch.zeros((), device=mask.device)
    for k in range(NEIGHBOURS):  # one neighbour at a time: nine at once would take nine times the output
        total = total + weights[:, :, k].unsqueeze(2) * around[:, :, :, k].unsqueeze(3)  # (N, 2, C, 256, h, w)
    pixels = total.view(samples, DIRECTIONS, channels, STRIDE, STRIDE, height, width)
    return pixels.permute(0, 1, 2, 5, 3, 6, 4).reshape(samples, DIRECTIONS, channels, STRIDE * height, STRIDE * width)
