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


def ps_roi_vote(maps: Tensor, rois: Tensor, bins: int, stride: int) -> Tensor:
    """Each region's votes: the mean over its bins of their means. Differentiable by the maps.

    maps   [N, D * bins², h, w]; channel (d * bins + row) * bins + column is what bin (row, column) averages for d
    rois   [N,R,4] px, inclusive ends
    Returns [N,R,D] in the maps' type. An empty bin is zero. Sums come from an integral image in fp64: each bin is
    four reads, however large, and the differences of large sums keep fp32's precision.
    """
    samples, channels, height, width = maps.shape
    if channels % bins**2:
        raise ValueError(f"{channels} maps do not divide into {bins}x{bins} bins")
    votes = channels // bins**2
    rows, columns = height + 1, width + 1
    grouped = maps.reshape(samples, votes, bins**2, height, width).permute(0, 3, 4, 2, 1)  # (N, h, w, bins², D)
    integral = maps.new_zeros(samples, rows, columns, bins**2, votes, dtype=torch.float64)
    integral[:, 1:, 1:] = grouped.double().cumsum(1).cumsum(2)
    table = integral.flatten(0, 3)  # (N * rows * columns * bins², D)

    top, bottom = bin_ranges(rois[..., 1], rois[..., 3], bins, height, stride)  # (N, R, bins)
    left, right = bin_ranges(rois[..., 0], rois[..., 2], bins, width, stride)
    cells = (bottom - top)[..., :, None] * (right - left)[..., None, :]  # (N, R, bins, bins)
    sample = torch.arange(samples, device=maps.device)[:, None, None, None]
    group = torch.arange(bins**2, device=maps.device).reshape(bins, bins)

    def at(y: Tensor, x: Tensor) -> Tensor:
        """Indices into the table of each bin's corner (y [N,R,bins], x [N,R,bins]): [N,R,bins²]."""
        return (((sample * rows + y[..., :, None]) * columns + x[..., None, :]) * bins**2 + group).flatten(2)

    index = torch.stack([at(bottom, right), at(top, right), at(bottom, left), at(top, left)], -1)  # (N, R, bins², 4)
    share = (1 / cells.clamp(min=1).double() / bins**2).flatten(2)[..., None]
    weight = share * torch.tensor([1.0, -1.0, -1.0, 1.0], device=maps.device, dtype=torch.float64)
    summed: Tensor = F.embedding_bag(
        index.flatten(0, 1).flatten(1), table, per_sample_weights=weight.flatten(0, 1).flatten(1), mode="sum"
    )  # (N * R, D): one fused read of the four corners of all bins
    return summed.reshape(samples, -1, votes).to(maps.dtype)
