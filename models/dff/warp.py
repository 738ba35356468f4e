"""Propagation: features of the key frame, carried to the current frame by a flow (paper, section 3, eq. 2 and 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.memfof.precision import full_precision


def warp(features: Tensor, flow: Tensor, scale: Tensor | None = None) -> Tensor:
    """scale(p) * features(p + flow(p)), bilinear; what lies outside the map counts as zero.

    features   [N,C,h,w] of the key frames; or [1,C,h,w], one key frame for all flows
    flow       [N,2,h,w] in cells (x right, y down), on the current frame's grid, pointing into the key frame
    scale      [N,C,h,w] or None
    Returns [N,C,h,w] in the features' type; differentiable by all three. Coordinates are fp32 whatever the features'
    type or autocast: in bf16, cell 129 is cell 128. Raises ValueError for shapes that do not fit.
    """
    if flow.ndim != 4 or flow.shape[1] != 2 or flow.shape[-2:] != features.shape[-2:]:
        raise ValueError(f"features are {list(features.shape)}, so flow must be [N,2,h,w]; it is {list(flow.shape)}")
    if len(features) not in (1, len(flow)):
        raise ValueError(f"{len(features)} key frames do not fit {len(flow)} flows: give one, or one for each")
    if scale is not None and (len(scale) != len(flow) or scale.shape[1:] != features.shape[1:]):
        raise ValueError(f"scale is {list(scale.shape)}; it must be {[len(flow), *features.shape[1:]]}")
    height, width = features.shape[-2:]
    with full_precision(features):
        x = torch.arange(width, device=flow.device, dtype=torch.float32) + flow[:, 0].float()
        y = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None] + flow[:, 1].float()
        # With align_corners=False pixel i lies at (2 i + 1) / size - 1: unlike the official (size - 1) form it is the
        # same position, but no division by zero where the map is one cell high or wide.
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)  # (N, h, w, 2)
        source = features.float().expand(len(flow), -1, -1, -1)
        warped = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if scale is not None:
            warped = warped * scale.float()
    return warped.to(features.dtype)


def cells_from_pixels(flow: Tensor, stride: int) -> Tensor:
    """A flow of pixels [N,2,H,W] (MEMFOF's, or a flow record's) -> of cells [N,2,ceil(H/stride),ceil(W/stride)].

    The mean of each cell's pixels, in cells: what `warp` takes. Pixels of edge cells beyond the frame do not count.
    """
    return F.avg_pool2d(flow.float(), stride, ceil_mode=True) / stride
