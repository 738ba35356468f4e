"""How the paper sizes frames before its networks see them (specs/dff.md, section 1)."""

from __future__ import annotations

import torch
from torch import Tensor

SHORT, LONG = 600, 1000  # px, of detection on ImageNet VID


def working_size(height: int, width: int, short: int = SHORT, long: int = LONG) -> tuple[tuple[int, int], float]:
    """((H, W) px, scale): the short side becomes `short`, unless the long one would exceed `long` and becomes that.

    Sides are rounded as OpenCV does, halves to even: 720x1280 becomes 562x1000. Boxes found at this size are
    divided by the scale.
    """
    if min(height, width, short, long) < 1:
        raise ValueError(f"a frame of {height}x{width} px cannot become one of {short} by at most {long} px")
    scale = short / min(height, width)
    if round(scale * max(height, width)) > long:
        scale = long / max(height, width)
    return (max(1, round(height * scale)), max(1, round(width * scale))), scale


def resized(frames: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """Frames [N,3,H,W] at `size`, float32: bilinear as OpenCV's resize by a factor, without antialiasing.

    OpenCV rounds 8-bit images to whole numbers again, we do not: differences are below one grey level.
    """
    frames = frames.float()
    for axis, side in ((2, size[0]), (3, size[1])):
        last = frames.shape[axis] - 1
        place = ((torch.arange(side, device=frames.device) + 0.5) / scale - 0.5).clamp(0, last)
        low = place.floor().long()
        way = (place - low).reshape(-1, *[1] * (3 - axis))
        nearer, farther = frames.index_select(axis, low), frames.index_select(axis, (low + 1).clamp(max=last))
        frames = nearer * (1 - way) + farther * way
    return frames
