"""The SD-finder of CAIN-SD: the scale and the depth that each patch of a pair of frames gets (Lee et al., ICCV 2021).

ScaleNet reads the motion's magnitude, DepthNet the frames' difference; both look at small frames and give a row of
logits for each patch. Training draws from them by the straight-through Gumbel-softmax, inference takes the largest.

What the paper states: the inputs, three convolutions in each net, separate weights, 3 scales and 5 depths, tau 1, the
loss. What it leaves open, and what was chosen here:

    widths 16 and 32, kernel 3, strides 2, 2, 1   "extremely simple": 5 kMAC a pixel, below 0.1 % of what they steer
    logits averaged over the patch's own area     a decision depends on what its patch holds, not on a grid of cells
                                                  that overlapping and pulled-back patches do not match
    magnitude divided by 20                       PWC-Net's own unit: inputs of the order of one
    frames made small by antialiased bicubic      aliasing would look like motion; frames are never made larger
    optionally, detail as evidence                whether a patch can be made smaller depends less on how far it moves
                                                  than on the detail that it loses: see `lost_detail`
    at inference a price on FLOPs                 the user's knob: pipeline/plan/adaptive.py

Motion comes from any callable (frame0, frame1) RGB 0..1 -> flow [N,2,H,W] px: PWC-Net is the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHORT_SIDE = 192  # of the small frames, pixels
FLOW_UNIT = 20.0
DETAIL_GAIN = 10.0  # brings what is lost, some hundredths, to the order of one
DETAIL_MACS = 15  # for each pixel of the frame, terms of its means included: two greys, three squares, six means
EVIDENCE = 7  # channels: magnitude, difference, three of lost detail

Motion = Callable[[Tensor, Tensor], Tensor]


class Window(NamedTuple):
    """A patch's place in the full frame, pixels."""

    top: int
    left: int
    height: int
    width: int


class Logits(NamedTuple):
    """Of each patch: scale [N,P,3] for SCALES, depth [N,P,5] for exits 1 to 5."""

    scale: Tensor
    depth: Tensor


class DecisionNet(nn.Module):
    """Three convolutions, and the mean over each patch."""

    def __init__(self, channels: int, choices: int, widths: tuple[int, int] = (16, 32)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 2, 1)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 3, 2, 1)
        self.conv3 = nn.Conv2d(widths[1], choices, 3, 1, 1)

    def forward(self, x: Tensor, windows: Sequence[Window], size: tuple[int, int]) -> Tensor:
        """x [N,C,h,w] shows a frame of `size` (H, W); the windows lie in that frame -> logits [N,P,choices]."""
        x = F.relu(self.conv1(x))  # (N, 16, h/2, w/2)
        x = F.relu(self.conv2(x))  # (N, 32, h/4, w/4)
        return mean_over(self.conv3(x), windows, size)


class SDFinder(nn.Module):
    """detail: both nets see motion, difference and `lost_detail`; otherwise each sees what the paper gives it."""

    def __init__(self, scales: int = 3, depths: int = 5, *, detail: bool = False) -> None:
        super().__init__()
        self.detail = detail
        self.scale_net = DecisionNet(EVIDENCE if detail else 1, scales)
        self.depth_net = DecisionNet(EVIDENCE if detail else 3, depths)

    def forward(self, frame0: Tensor, frame1: Tensor, windows: Sequence[Window], motion: Motion) -> Logits:
        """Logits of every window of frames [N,3,H,W] RGB 0..1.

        The flow network is not trained with the finder: no gradient goes into it.
        """
        height, width = frame0.shape[-2:]
        return self.judge(self.seen(frame0, frame1, motion), windows, (height, width))

    def seen(self, frame0: Tensor, frame1: Tensor, motion: Motion, short_side: int = SHORT_SIDE) -> Tensor:
        """What the nets are shown of frames [N,3,H,W], at the small size, [N,4 or 7,h,w].

        Motion's magnitude over FLOW_UNIT, the difference, and with `detail` what `lost_detail` says. short_side: of the
        small frames; crops of a larger frame pass what is their share of it.
        """
        small0, small1 = shrink(frame0, short_side), shrink(frame1, short_side)
        with torch.no_grad():
            magnitude = motion_magnitude(motion(small0, small1), motion(small1, small0)) / FLOW_UNIT
        shown = [magnitude, small0 - small1]
        if self.detail:
            shown.append(lost_detail(frame0, frame1, (small0.shape[-2], small0.shape[-1])))
        return torch.cat(shown, 1)

    def judge(self, seen: Tensor, windows: Sequence[Window], size: tuple[int, int]) -> Logits:
        """Logits of the windows in a frame of `size` (H, W), from what `seen` gave."""
        check_windows(windows, *size)
        of_scale, of_depth = (seen, seen) if self.detail else (seen[:, :1], seen[:, 1:])
        return Logits(self.scale_net(of_scale, windows, size), self.depth_net(of_depth, windows, size))


def shrink(frame: Tensor, short_side: int = SHORT_SIDE) -> Tensor:
    """[N,3,H,W] with its shorter side brought down to `short_side`; smaller frames stay as they are."""
    height, width = frame.shape[-2:]
    ratio = short_side / min(height, width)
    if ratio >= 1:
        return frame
    size = (round(height * ratio), round(width * ratio))
    return F.interpolate(frame, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def lost_detail(frame0: Tensor, frame1: Tensor, size: tuple[int, int]) -> Tensor:
    """How much a patch would lose by being made smaller, [N,3,H,W] twice -> [N,3,*size] by local root mean squares.

    In blocks of 2x2 and of 4x4 pixels, what is left of the frames' difference without each block's mean: detail that
    moves, which neither the small frames nor the neighbours tell; then the same of the frames themselves, 2x2.
    """
    down, across = (-side % 4 for side in frame0.shape[-2:])  # repeated, so that blocks at the border are whole
    grey0, grey1 = ((x[:, :1] + x[:, 1:2] + x[:, 2:]) / 3 for x in (frame0, frame1))
    if down or across:
        grey0, grey1 = (F.pad(x, (0, across, 0, down), mode="replicate") for x in (grey0, grey1))
    change = grey0 - grey1
    fine, fine2 = halved(change), halved(change * change)
    lost = [
        variance(fine, fine2),
        variance(halved(fine), halved(fine2)),
        (variance(halved(grey0), halved(grey0 * grey0)) + variance(halved(grey1), halved(grey1 * grey1))) / 2,
    ]
    return torch.cat([F.adaptive_avg_pool2d(each, size) for each in lost], 1).sqrt() * DETAIL_GAIN


def halved(x: Tensor) -> Tensor:
    """Means over blocks of 2x2, [N,1,H,W] -> [N,1,H/2,W/2]: several times as fast as avg_pool2d on the CPU."""
    rows = x[..., ::2, :] + x[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def variance(mean: Tensor, square: Tensor) -> Tensor:
    return (square - mean * mean).clamp_min(0)


def motion_magnitude(forward: Tensor, backward: Tensor) -> Tensor:
    """The larger of both flows' lengths in each pixel, [N,2,H,W] twice -> [N,1,H,W]. Neither is warped to the other."""
    there, back = (torch.hypot(flow[:, :1], flow[:, 1:]) for flow in (forward, backward))
    return torch.maximum(there, back)


def mean_over(logits: Tensor, windows: Sequence[Window], size: tuple[int, int]) -> Tensor:
    """Mean of a map [N,C,h,w] over each window of the frame of `size` (H, W) that it shows -> [N,P,C].

    Every cell that a window touches counts whole.
    """
    height, width = logits.shape[-2:]
    down, across = height / size[0], width / size[1]
    means = []
    for window in windows:
        top, left = int(window.top * down), int(window.left * across)
        bottom = max(top + 1, ceil((window.top + window.height) * down))
        right = max(left + 1, ceil((window.left + window.width) * across))
        # Rows first: no sum is then split among threads.
        means.append(logits[..., top:bottom, left:right].mean(3).mean(2))
    return torch.stack(means, 1)


def straight_through(
    logits: Tensor, dim: int = -1, tau: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """One-hot draws from softmax(logits) along `dim`, with the gradient of the tempered softmax (section 3.3).

    The same generator state gives the same draws.
    """
    uniform = torch.rand(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)
    surprise = -torch.log(uniform.clamp_min(torch.finfo(logits.dtype).tiny))  # rand may give 0
    noise = -torch.log(surprise.clamp_min(1e-20))
    soft = torch.softmax((torch.log_softmax(logits, dim) + noise) / tau, dim)
    hard = torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)
    return hard - soft.detach() + soft


def resource_loss(
    scale: Tensor,
    depth: Tensor,
    costs: Tensor,
    windows: Sequence[Window],
    size: tuple[int, int],
    scale_weight: float = 5e-9,
    depth_weight: float = 5e-11,
) -> Tensor:
    """R of section 3.4: what the choices cost, for each pixel of the frame; patches that overlap count twice.

    scale [N,P,3], depth [N,P,5]: one-hot rows of `straight_through`; costs [3,5]: FLOPs a pixel (cost.py). Each of the
    two choices is charged at the other one as it was drawn, so that the two gradients stay apart. Returns [N].
    """
    costs = costs.to(scale)
    by_scale = (scale * (depth.detach() @ costs.T)).sum(-1)  # (N, P)
    by_depth = (depth * (scale.detach() @ costs)).sum(-1)
    areas = scale.new_tensor([window.height * window.width for window in windows])
    return ((scale_weight * by_scale + depth_weight * by_depth) * areas).sum(-1) / (size[0] * size[1])


def check_windows(windows: Sequence[Window], height: int, width: int) -> None:
    """Raises ValueError where a window is empty or reaches out of the frame, or there is none."""
    if not windows:
        raise ValueError("no windows given: a frame has at least one patch, itself")
    for window in windows:
        inside = 0 <= window.top <= height - window.height and 0 <= window.left <= width - window.width
        if not inside or window.height < 1 or window.width < 1:
            raise ValueError(f"{window} does not lie in a frame of {height}x{width}")
