"""Any moment between two frames, from a network that knows the middle only.

    frame(t) = (1 - t) frame0(t) + t frame1(t) + 4 t (1 - t) (network(frame0(t), frame1(t)) - their average)

frame0(t) and frame1(t) are both frames as they look at t. What the network makes of them is no more than the average
and what is wrong with it; the average gets the weights that t gives it, and the correction fades towards both ends,
where the frames are right by themselves. (At t = 1/4 and 3/4 in 21 windows of training clips, frames four apart,
factors of 0.5 to 0.875 in place of 4 t (1 - t) = 0.75 are within 0.05 dB of the best one; 0 is 0.25 to 0.37 dB off, and
1 is 0.06 to 0.11 dB off.)

`models.alignment.match` knows the motion as the middle sees it. Here that motion is itself splatted along its own way
to the moment, the better matched pixels over the worse ones, and what it leaves open is filled from around. Then both
frames are sampled along it: once each, so nothing is blurred twice.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from models.alignment import align, match
from models.rife.warp import grid_of, warp
from models.synthesis.splatting import softmax_splat

SHARPNESS = 30.0
"""A pixel whose ends match one grey level worse is exp(-30 / 255) as important."""
ENOUGH = 0.25
"""Bilinear weights that must have arrived at a cell for its motion to be its own."""


class Between:
    """Two frames [N,3,H,W] RGB 0..1 and the motion between them, found once for all moments."""

    def __init__(self, frame0: Tensor, frame1: Tensor, motion: Tensor | None = None) -> None:
        """motion: as the middle sees it, [N,2,H,W] px; None: `match`'s."""
        self.frame0, self.frame1 = frame0, frame1
        self.motion = match(frame0, frame1) if motion is None else motion

    @torch.no_grad()
    def at(self, t: float) -> tuple[Tensor, Tensor]:
        """Both frames as they look at t in 0..1."""
        with torch.autocast(self.frame0.device.type, enabled=False):
            return align(self.frame0, self.frame1, self.motion if t == 0.5 else self.splatted(t), t)

    @torch.no_grad()
    def splatted(self, t: float) -> Tensor:
        """The motion [N,2,H,W] px from the first frame to the second as the moment t sees it."""
        height, width = self.frame0.shape[-2:]
        flow, importance = self._small
        moved = softmax_splat(flow, (t - 0.5) * flow, importance)
        whole = 2 * _filled(moved.value, (moved.arrived >= ENOUGH).to(flow))
        return _twice(whole)[..., :height, :width]

    @cached_property
    def _small(self) -> tuple[Tensor, Tensor]:
        """The motion at half the sides, as finely as `match` knows it, in their px; and how well its ends match."""
        first, second, flow = (_half(x) for x in (self.frame0, self.frame1, self.motion))
        flow = flow / 2
        height, width = flow.shape[-2:]
        grid = grid_of(height, width, flow.device)
        apart = (warp(first, -flow / 2, grid) - warp(second, flow / 2, grid)).abs().mean(1, keepdim=True)
        return flow, -SHARPNESS * apart


def compose(frame0: Tensor, frame1: Tensor, middle: Tensor, t: float) -> Tensor:
    """The frame at t, unclamped, from both as they look there and what a network for the middle makes of them."""
    if t == 0.5:
        return middle
    return torch.lerp(frame0, frame1, t) + 4 * t * (1 - t) * (middle - (frame0 + frame1) / 2)


def _filled(x: Tensor, known: Tensor) -> Tensor:
    """`x` [N,C,H,W] where `known` [N,1,H,W] is 1; elsewhere the mean of what is known around, the nearer the better."""
    if min(x.shape[-2:]) < 2 or bool(known.all()):
        return x
    height, width = x.shape[-2:]
    share = _half(known)
    less = _filled(_half(x * known) / share.clamp_min(1e-6), (share > 0).to(x))
    return torch.where(known > 0, x, _twice(less)[..., :height, :width])


def _half(x: Tensor) -> Tensor:
    """Means of 2x2 cells; beyond an odd edge the border goes on."""
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")
    x = x[..., ::2, :] + x[..., 1::2, :]
    return (x[..., ::2] + x[..., 1::2]) / 4


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
