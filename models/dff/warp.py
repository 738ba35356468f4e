"""Propagation: features of the key frame, carried to the current frame by a flow (paper, section 3, eq. 2 and 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(features: Tensor, flow: Tensor, scale: Tensor | None = None) -> Tensor:
    """scale(p) * features(p + flow(p)), bilinear; what lies outside the map counts as zero.

    features   [N,C,h,w] of the key frames; or [1,C,h,w], one key frame for all flows
    flow       [N,2,h,w] in cells (x right, y down), on the current frame's grid, pointing into the key frame
    scale      [N,C,h,w] or None
    Returns [N,C,h,w] in the features' type, channels last; differentiable by all three. Coordinates are fp32 whatever
    the features' type: in bf16, cell 257 is cell 256. A flow of zero gives the features bit for bit. Raises
    ValueError for shapes that do not fit.
    """
    if flow.ndim != 4 or flow.shape[1] != 2 or flow.shape[-2:] != features.shape[-2:]:
        raise ValueError(f"features are {list(features.shape)}, so flow must be [N,2,h,w]; it is {list(flow.shape)}")
    if len(features) not in (1, len(flow)):
        raise ValueError(f"{len(features)} key frames do not fit {len(flow)} flows: give one, or one for each")
    if scale is not None and (len(scale) != len(flow) or scale.shape[1:] != features.shape[1:]):
        raise ValueError(f"scale is {list(scale.shape)}; it must be {[len(flow), *features.shape[1:]]}")
    height, width = features.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=torch.float32) + flow[:, 0].float()
    y = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None] + flow[:, 1].float()
    left, top = x.floor(), y.floor()  # (N, h, w)
    frame = torch.arange(len(flow), device=flow.device)[:, None, None] * (len(features) > 1)
    reads, weights = [], []
    for row, vertical in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, horizontal in ((left, 1 - (x - left)), (left + 1, x - left)):
            inside = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
            cell = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            reads.append(cell.nan_to_num(0).long() + frame * (height * width))
            weights.append(vertical * horizontal * inside)
    # Four weighted reads of all channels at once. With channels last, this takes a tenth of grid_sample's time.
    table = features.permute(0, 2, 3, 1).flatten(0, 2).contiguous()  # (N h w, C)
    index, weight = (torch.stack(parts, -1).reshape(-1, 4) for parts in (reads, weights))
    carried = F.embedding_bag(index, table, per_sample_weights=weight.to(table.dtype), mode="sum")
    carried = carried.reshape(*flow.shape[:1], height, width, -1).permute(0, 3, 1, 2)  # (N, C, h, w)
    return carried if scale is None else carried * scale.to(carried.dtype)


def cells_from_pixels(flow: Tensor, stride: int) -> Tensor:
    """A flow of pixels [N,2,H,W] (MEMFOF's, or a flow record's) -> of cells [N,2,ceil(H/stride),ceil(W/stride)].

    The mean of each cell's pixels, in cells: what `warp` takes. Pixels of edge cells beyond the frame do not count.
    """
    return F.avg_pool2d(flow.float(), stride, ceil_mode=True) / stride
