"""A flow from a frame to its key frame, made of flows between neighbours: what flow records hold.

Fields lie on a grid of a few pixels a place and are followed from place to place, bilinearly. Where a neighbour's flow
is not valid (it leaves the frame, or what it shows is hidden there), neither is what is followed through it; a feature
cell takes the mean of its valid places, and of all where none is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Field:
    """flow [2,h,w] float32 in places (x right, y down), to where each place's content is; valid [h,w] bool."""

    flow: Tensor
    valid: Tensor


def places_a_cell(stride: int) -> int:
    """Places on a feature cell's side: four, or as many as there are pixels."""
    return 4 if stride % 4 == 0 else stride


def field_of(flow: Tensor, valid: Tensor | None, frame: tuple[int, int], size: tuple[int, int], step: int) -> Field:
    """A stored flow on the grid of the images that the networks see.

    flow    [2,·,·] in px of a frame of `frame` (H, W) px, at any resolution
    valid   bool, of the same resolution; None: everywhere
    size    (H, W) px of the networks' images; a place of the grid is step x step of their pixels
    """
    mask = torch.ones_like(flow[:1]) if valid is None else valid[None].float()
    weighted = torch.cat([flow * mask, mask, flow])[None]
    shrinks = flow.shape[-2] > size[0] or flow.shape[-1] > size[1]
    if tuple(flow.shape[-2:]) != size:
        weighted = (
            F.interpolate(weighted, size, mode="area")
            if shrinks
            else F.interpolate(weighted, size, mode="bilinear", align_corners=False)
        )
    x, y, share, all_x, all_y = F.avg_pool2d(weighted, step, ceil_mode=True)[0]
    known = share > 0.5
    weight = share.clamp(min=1e-6)
    unit = torch.tensor([size[1] / frame[1], size[0] / frame[0]])[:, None, None] / step
    mean = torch.where(known, torch.stack([x / weight, y / weight]), torch.stack([all_x, all_y]))
    return Field(mean * unit.to(flow.device), known)


def followed(steps: Sequence[Field]) -> Field:
    """The first field's places, followed through all fields: from a frame to its neighbour, to the next one, …"""
    total = steps[0]
    height, width = total.valid.shape
    x = torch.arange(width, device=total.flow.device, dtype=torch.float32)
    y = torch.arange(height, device=total.flow.device, dtype=torch.float32)[:, None]
    for step in steps[1:]:
        at_x, at_y = x + total.flow[0], y + total.flow[1]
        inside = (at_x >= -0.5) & (at_x <= width - 0.5) & (at_y >= -0.5) & (at_y <= height - 0.5)
        grid = torch.stack([(2 * at_x + 1) / width - 1, (2 * at_y + 1) / height - 1], -1)[None]
        read = F.grid_sample(
            torch.cat([step.flow, step.valid[None].float()])[None], grid, padding_mode="border", align_corners=False
        )[0]
        total = Field(total.flow + read[:2], total.valid & inside & (read[2] > 0.5))
    return total


def cells_of(field: Field, places: int) -> Tensor:
    """[1,2,h,w] in feature cells of places x places: the mean of a cell's valid places; of all where none is."""
    mask = field.valid[None].float()
    x, y, share, all_x, all_y = F.avg_pool2d(torch.cat([field.flow * mask, mask, field.flow])[None], places,
                                             ceil_mode=True)[0]  # fmt: skip
    weight = share.clamp(min=1e-6)
    mean = torch.where(share > 0, torch.stack([x / weight, y / weight]), torch.stack([all_x, all_y]))
    return mean[None] / places
