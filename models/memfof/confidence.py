"""How far a flow can be trusted: by the network's own mixture, and by whether the other frame agrees."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.memfof.loss import log_scale

RELATIVE, ABSOLUTE = 0.01, 0.5  # of |there|² + |back|², and px²: Sundaram et al., ECCV 2010


def confidence(info: Tensor) -> Tensor:
    """info [...,4,H,W] -> [...,H,W] in 0..1: exp(-expected log-scale of the mixture) (SEA-RAFT's heat map, specs 7).

    The plain component has log-scale 0, an error of about a pixel; 1 says that it alone explains the pixel, and 1/e
    an expected error e times as large.
    """
    weights = info[..., :2, :, :].softmax(-3)
    return torch.exp(-weights[..., 0, :, :] * log_scale(info))


def inside_frame(flow: Tensor) -> Tensor:
    """flow [N,2,H,W] px -> bool [N,H,W]: the pixel it points at lies in the frame (between outermost centres)."""
    height, width = flow.shape[-2:]
    x, y = targets(flow)
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def consistent(there: Tensor, back: Tensor) -> Tensor:
    """Whether going there and back again ends near the start: bool [N,H,W], False where `there` leaves the frame.

    there   [N,2,H,W] px, from this frame to another
    back    [N,2,H,W] px, from the other frame to this one
    |there + back|² <= 0.01 (|there|² + |back|²) + 0.5, `back` read bilinearly where `there` points.
    """
    height, width = there.shape[-2:]
    x, y = targets(there)
    # align_corners=False: pixel i lies at (2 i + 1) / size - 1, also where the size is 1.
    at = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    returned = F.grid_sample(back.float(), at, padding_mode="border", align_corners=False)
    gap = (there + returned).square().sum(1)
    allowed = RELATIVE * (there.square().sum(1) + returned.square().sum(1)) + ABSOLUTE
    return (gap <= allowed) & inside_frame(there)


def targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates (x, y) that flow [N,2,H,W] points at, [N,H,W] each, fp32."""
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=torch.float32) + flow[:, 0].float()
    y = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None] + flow[:, 1].float()
    return x, y
