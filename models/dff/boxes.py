"""Boxes as R-FCN's official code counts them: inclusive ends, so that a box is x2 - x1 + 1 wide (specs/dff.md, 5).

A box is (x1, y1, x2, y2) in pixels. Everything works on batches and on the device of its tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BASE = 16  # pixels a side of the reference box, which is also the features' stride
RATIOS = (0.5, 1.0, 2.0)  # height to width
BLOCK = 512  # boxes that nms compares at a time


def reference_anchors(scales: tuple[int, ...], base: int = BASE) -> Tensor:
    """[len(RATIOS) * len(scales), 4] of cell (0, 0): ratios outside, scales inside. Sides are rounded as published."""
    centre = (base - 1) / 2
    anchors = []
    for ratio in RATIOS:
        width = math.floor(math.sqrt(math.floor(base * base / ratio)) + 0.5)
        height = math.floor(width * ratio + 0.5)
        for scale in scales:
            half_width, half_height = (width * scale - 1) / 2, (height * scale - 1) / 2
            anchors.append((centre - half_width, centre - half_height, centre + half_width, centre + half_height))
    return torch.tensor(anchors, dtype=torch.float32)


def anchor_grid(anchors: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Reference anchors [A,4] at each cell -> [height * width * A, 4]: rows, columns, anchors."""
    x = torch.arange(width, device=anchors.device, dtype=anchors.dtype) * stride
    y = torch.arange(height, device=anchors.device, dtype=anchors.dtype) * stride
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    shift = torch.stack([columns, rows, columns, rows], -1)  # (h, w, 4)
    return (shift[:, :, None] + anchors).reshape(-1, 4)


def decode(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes [...,4] moved by deltas [...,4]: centre by fractions of the size, size by a factor's logarithm."""
    size = boxes[..., 2:] - boxes[..., :2] + 1
    centre = boxes[..., :2] + 0.5 * (size - 1) + deltas[..., :2] * size
    half = 0.5 * (torch.exp(deltas[..., 2:]) * size - 1)
    return torch.cat([centre - half, centre + half], -1)


def encode(boxes: Tensor, targets: Tensor) -> Tensor:
    """The deltas that decode(boxes, deltas) needs to reach the targets: training's regression targets."""
    size, wanted = boxes[..., 2:] - boxes[..., :2] + 1, targets[..., 2:] - targets[..., :2] + 1
    centre, aim = boxes[..., :2] + 0.5 * (size - 1), targets[..., :2] + 0.5 * (wanted - 1)
    return torch.cat([(aim - centre) / size, torch.log(wanted / size)], -1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [...,4] within a frame of (H, W) px."""
    last = boxes.new_tensor([size[1] - 1, size[0] - 1, size[1] - 1, size[0] - 1])
    return torch.minimum(boxes.clamp(min=0), last)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every box of a [...,M,4] with every box of b [...,N,4] -> [...,M,N]."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    inside = (high - low + 1).clamp(min=0).prod(-1)
    return inside / (area(a)[..., :, None] + area(b)[..., None, :] - inside)


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2] + 1).prod(-1)


def greedy(suppresses: Tensor) -> Tensor:
    """Which boxes survive greedy suppression: bool [...,n].

    suppresses   bool [...,n,n]: box i, if it survives, suppresses box j; boxes are in the order of their scores, and
                 only pairs i < j count
    Whoever nothing earlier suppresses survives; what that decides is applied again until nothing changes. The first
    t boxes are right after t rounds, and a chain of suppressions as long as three is rare: no loop over boxes.
    """
    earlier = suppresses.triu(1).to(torch.float32)
    alive = torch.ones(suppresses.shape[:-1], dtype=torch.bool, device=suppresses.device)
    while True:
        after = (alive[..., None, :].to(torch.float32) @ earlier)[..., 0, :] == 0
        if torch.equal(after, alive):
            return alive
        alive = after


def nms(boxes: Tensor, threshold: float, limit: int) -> Tensor:
    """Indices [K] of the first `limit` boxes that no better one overlaps by more than the threshold.

    boxes [n,4], best first. In blocks, because most of thousands of boxes need not be looked at.
    """
    kept: list[Tensor] = []
    survivors, count = boxes[:0], 0
    for start in range(0, len(boxes), BLOCK):
        block = boxes[start : start + BLOCK]
        index = torch.arange(start, start + len(block), device=boxes.device)
        free = ~(overlaps(survivors, block) > threshold).any(0)
        block, index = block[free], index[free]
        alive = greedy(overlaps(block, block) > threshold)
        kept.append(index[alive])
        survivors = torch.cat([survivors, block[alive]])
        count = len(survivors)
        if count >= limit:
            break
    return torch.cat(kept)[:limit] if kept else boxes.new_zeros(0, dtype=torch.int64)
