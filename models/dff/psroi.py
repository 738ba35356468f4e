"""Position-sensitive RoI pooling (R-FCN, Dai et al., NIPS 2016), with the official operator's rounding.

A region is cut into bins x bins; each bin averages its own group of maps. Ends are rounded to pixels before they are
scaled to cells, which torchvision's operator does after (specs/dff.md, section 5): the two differ for most regions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def round_half_away(x: Tensor) -> Tensor:
    """C's round(): torch.round takes halves to the even neighbour."""
    return torch.copysign((x.abs() + 0.5).floor(), x)


def bin_ranges(first: Tensor, last: Tensor, bins: int, cells: int, stride: int) -> tuple[Tensor, Tensor]:
    """Half-open ranges of cells of a region's bins along one axis; first, last px [...] -> two int64 [...,bins].

    In fp32 and in the official order of operations, because floor and ceil of whole numbers depend on it.
    """
    start = round_half_away(first.float()) * (1 / stride)
    end = (round_half_away(last.float()) + 1) * (1 / stride)
    size = (end - start).clamp(min=0.1)[..., None] / bins
    index = torch.arange(bins, device=first.device, dtype=torch.float32)
    low = (index * size + start[..., None]).floor().clamp(0, cells)
    high = ((index + 1) * size + start[..., None]).ceil().clamp(0, cells)
    return low.long(), torch.maximum(high, low).long()


def grouped_weights(convs: list[torch.nn.Conv2d], bins: int) -> tuple[Tensor, Tensor]:
    """1x1 convolutions to D * bins² maps each -> one matrix [bins² * sum(D), C] and bias, bins outermost.

    Published channel (d * bins + row) * bins + column is what bin (row, column) averages for d. With all maps of a
    bin side by side, pooling reads rows of memory instead of single numbers.
    """
    weights = [conv.weight.reshape(-1, bins**2, conv.in_channels) for conv in convs]
    biases = [conv.bias.reshape(-1, bins**2) for conv in convs if conv.bias is not None]
    return torch.cat(weights).transpose(0, 1).flatten(0, 1), torch.cat(biases).t().flatten()


def ps_roi_vote(table: Tensor, rois: Tensor, bins: int, stride: int) -> Tensor:
    """Regions' votes: the mean over a region's bins of the bins' means. Differentiable by the table.

    table   [N,h,w,bins²,D]: at each cell, the D values of each bin's group of maps
    rois    [N,R,4] px, inclusive ends
    Returns [N,R,D]. An empty bin counts as zero.
    """
    return torch.stack([votes_of(one, regions, bins, stride) for one, regions in zip(table, rois, strict=True)])


def votes_of(table: Tensor, rois: Tensor, bins: int, stride: int) -> Tensor:
    """Of one frame: table [h,w,bins²,D], rois [R,4] -> [R,D].

    Every (region, bin, cell) is one read of D values with its weight; embedding_bag adds a region's reads up.
    """
    height, width = table.shape[:2]
    top, bottom = bin_ranges(rois[:, 1], rois[:, 3], bins, height, stride)  # (R, bins)
    left, right = bin_ranges(rois[:, 0], rois[:, 2], bins, width, stride)
    wide = (right - left)[:, None, :].expand(-1, bins, -1).flatten()  # (R * bins²,), rows before columns
    cells = ((bottom - top)[:, :, None] * (right - left)[:, None, :]).flatten()
    first = (top[:, :, None] * width + left[:, None, :]).flatten()

    reads_end = cells.cumsum(0)
    owner = torch.repeat_interleave(torch.arange(len(cells), device=table.device), cells)  # (reads,): the bin
    within = torch.arange(len(owner), device=table.device) - (reads_end - cells)[owner]
    down = torch.div(within, wide[owner], rounding_mode="floor")
    cell = first[owner] + down * width + (within - down * wide[owner])
    weight = (1 / (cells.clamp(min=1) * bins**2).to(table.dtype))[owner]
    starts = torch.cat([reads_end.new_zeros(1), reads_end])[: -1 : bins**2]  # of each region's reads
    votes: Tensor = F.embedding_bag(
        cell * bins**2 + owner % bins**2, table.flatten(0, 2), starts, per_sample_weights=weight, mode="sum"
    )
    return votes
