"""Softmax splatting: pixels go forward along their motion; where several meet, the more important one is seen.

After Niklaus & Liu, "Softmax Splatting for Video Frame Interpolation" (CVPR 2020), equation 8: each pixel is shared out
among the four around its new place by bilinear weights, times exp(importance), and the sums are divided by those of the
weights. On the CPU no result depends on the number of threads: each plane's sums run in the order of its pixels.
A GPU adds in any order: there, where no gradient is wanted, whole numbers are added, whose order does not matter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FAINTEST = -16.0
"""Importance below the frame's highest beyond which less makes no difference: exp() is still 7,700 of FIXED's steps."""
FIXED = 2.0**36
"""Steps to one in whole numbers: 64 bits hold the sum of half a million pixels of value 250."""


class Splat(NamedTuple):
    """What came to each pixel.

    value     [N,C,H,W]: the weighted mean of what arrived; 0 where nothing did
    arrived   [N,1,H,W]: bilinear weights in all, without importance: 0 is a hole, 1 what a still picture has everywhere
    """

    value: Tensor
    arrived: Tensor


def softmax_splat(x: Tensor, flow: Tensor, importance: Tensor | None = None) -> Splat:
    """`x` [N,C,H,W] moved forward by flow [N,2,H,W] px (x right, y down); what leaves the picture is lost.

    importance   [N,1,H,W], of any scale: e to its power is the weight of a pixel; None: all alike
    Raises ValueError for shapes that do not belong together.
    """
    count, channels, height, width = x.shape
    if flow.shape != (count, 2, height, width):
        raise ValueError(f"flow is {list(flow.shape)} for a picture of {list(x.shape)}: [N,2,H,W] of the same size")
    if importance is None:
        importance = flow.new_zeros(count, 1, height, width)
    elif importance.shape != (count, 1, height, width):
        raise ValueError(f"importance is {list(importance.shape)} for a picture of {list(x.shape)}: [N,1,H,W]")
    weight = (importance - importance.detach().amax((1, 2, 3), keepdim=True)).clamp_min(FAINTEST).exp()
    carried = torch.cat([x * weight, weight, torch.ones_like(weight)], 1).flatten(2)  # (N, C + 2, H W)

    rows = torch.arange(height, device=x.device, dtype=flow.dtype)[:, None]
    columns = torch.arange(width, device=x.device, dtype=flow.dtype)
    across, down = (columns + flow[:, 0]).flatten(1), (rows + flow[:, 1]).flatten(1)  # (N, H W): where each goes
    left, top = across.detach().floor(), down.detach().floor()
    whole = _in_whole_numbers(carried)
    total = torch.zeros_like(carried, dtype=torch.int64 if whole else carried.dtype)
    for column in (left, left + 1):
        for row in (top, top + 1):
            share = (1 - (across - column).abs()) * (1 - (down - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            share = torch.where(inside, share, 0)
            place = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            given = carried * share[:, None]
            given = (given * FIXED).round().long() if whole else given
            total = total.scatter_add(2, place[:, None].expand_as(carried), given)
    if whole:
        total = (total.double() / FIXED).to(carried.dtype)
    planes = total.reshape(count, channels + 2, height, width)
    value, weights, arrived = torch.split(planes, [channels, 1, 1], 1)
    # Nothing arrived: 0 / 1. The tiny weights of faint pixels stay as they are, whatever arrived with them.
    return Splat(value / torch.where(weights > 0, weights, 1), arrived)


def _in_whole_numbers(carried: Tensor) -> bool:
    return carried.device.type != "cpu" and not carried.requires_grad
