"""The SD-finder for IFNet: what stopping early would lose in each patch, from what the early blocks computed anyway.

CAIN-SD (Lee et al., ICCV 2021, section 3) steers a network by small nets that look at the motion. IFNet's first blocks
find the motion themselves, so this finder reads their residue: how well both warped frames agree, how far and how
unevenly things move, how much the last block still changed. Three convolutions give the logarithm of the mean squared
error that each patch would have at each exit.

Decisions follow from these errors and a price alone (`continues`, `exits_of`), so they are a function of the two
frames and the time. The price is in dB of the frame's PSNR, to first order, for the whole network's arithmetic: 0.8
stops a block in a patch that would win less than 0.8 dB for the frame if all of the network's arithmetic bought at
that rate. A patch never gets deeper when the price rises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoint import checked

CELL = 8
"""Pixels to a cell of the evidence."""
PATCH = 64
"""Pixels to a patch's side: eight cells."""
EVIDENCE = 9
STAGES = (1, 2)
"""After these blocks the finder looks: whether to go on to the second, and where to go on beyond it."""
EXITS = 4
DECIBEL = 10 / log(10)  # dB lost for each share of the error that is added, to first order
FLOOR = 1e-5
"""Mean squared error (50 dB) below which a frame is not worth more arithmetic."""
WIDTHS = (16, 32)
PRICE = 0.8
"""dB for all of the network's arithmetic, at quality 0.5."""


class ErrorNet(nn.Module):
    """Three convolutions, and the mean over each patch."""

    def __init__(self, exits: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(EVIDENCE, WIDTHS[0], 3, 2, 1)
        self.conv2 = nn.Conv2d(WIDTHS[0], WIDTHS[1], 3, 2, 1)
        self.conv3 = nn.Conv2d(WIDTHS[1], exits, 3, 1, 1)

    def forward(self, evidence: Tensor) -> Tensor:
        """[N,9,H/8,W/8] -> ln of the mean squared error at each exit, [N,exits,ceil(H/64),ceil(W/64)]."""
        x = F.relu(self.conv1(evidence))  # (N, 16, H/16, W/16)
        x = F.relu(self.conv2(x))  # (N, 32, H/32, W/32)
        x = F.avg_pool2d(self.conv3(x), 2, ceil_mode=True)
        # The last exit's level, and what the others add to it: levels vary by far more than what is asked for.
        return torch.cat([x[:, -1:] + x[:, :-1], x[:, -1:]], 1)


class Finder(nn.Module):
    """One net for each stage, whose exits are the stage's own and all later ones."""

    def __init__(self) -> None:
        super().__init__()
        for stage in STAGES:
            setattr(self, f"stage{stage}", ErrorNet(EXITS + 1 - stage))

    def forward(self, evidence: Tensor, stage: int) -> Tensor:
        """ln of the mean squared errors of exits `stage`..4, [N,5 - stage,rows,columns]."""
        net: ErrorNet = getattr(self, f"stage{stage}")
        errors: Tensor = net(evidence)
        return errors

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any]) -> Finder:
        """Raises KeyError for missing or unknown names, ValueError for shapes."""
        finder = cls()
        finder.load_state_dict(checked(tensors, finder.state_dict(), "RIFE's finder"))
        return finder.eval()

    def to_reference(self) -> dict[str, Tensor]:
        return dict(self.state_dict())


def finder_macs(stage: int) -> float:
    """Multiply-accumulates of one stage's net, for each pixel of the padded frame."""
    first, second = WIDTHS
    exits = EXITS + 1 - stage
    return 9 * (EVIDENCE * first / (2 * CELL) ** 2 + (first * second + second * exits) / (4 * CELL) ** 2)


def evidence(
    warped: tuple[Tensor, Tensor],
    frames: tuple[Tensor, Tensor],
    flow: Tensor,
    before: Tensor,
    mask: Tensor,
    t: float,
) -> Tensor:
    """What the finder reads, [N,9,H/8,W/8], from samples of every other pixel pair (`models.rife.adaptive.sampled`).

    warped   both frames as the flows bring them, [N,3,H/2,W/2]
    frames   both frames unmoved
    flow     [N,4,H/2,W/2] px; before: the flow before the last block, 0 after the first
    mask     [N,1,H/2,W/2] logit
    """
    cell = CELL // 2
    residual = (warped[0] - warped[1]).abs().mean(1, keepdim=True)
    unmoved = (frames[0] - frames[1]).abs().mean(1, keepdim=True)
    grey = (warped[0] + warped[1]).mean(1, keepdim=True)
    small = F.avg_pool2d(flow, 2)  # (N, 4, H/4, W/4)
    length = (_length(small[:, :2]) + _length(small[:, 2:])) / 2
    # Even motion takes the first frame by -t and the second by 1 - t of the way.
    uneven = _length((1 - t) * small[:, :2] + t * small[:, 2:])
    change = _length(small - F.avg_pool2d(before, 2))
    values = torch.cat(
        [
            _grey_levels(F.avg_pool2d(residual, cell)),
            _grey_levels(F.max_pool2d(residual, cell)),
            _grey_levels(F.avg_pool2d(unmoved, cell)),
            _grey_levels(F.avg_pool2d(_steps(grey), cell)),
            *(_pixels(F.avg_pool2d(x, cell // 2)) for x in (length, uneven, change, _steps(small))),
            F.avg_pool2d(torch.sigmoid(mask), cell) - (1 - t),
        ],
        1,
    )
    return values


def price_of(quality: float) -> float:
    """The price for `quality` in 0..1: PRICE at 0.5, none near 1, and -inf, full depth, at 1 itself; inf at 0."""
    if not 0 <= quality <= 1:
        raise ValueError(f"quality={quality}: give 0 to 1")
    if quality in (0, 1):
        return -inf if quality else inf
    return PRICE * (1 - quality) / quality


def continues(errors: Tensor, costs: Sequence[float], price: float) -> bool:
    """Whether the frame goes on to the second block, which works on all of it or not at all.

    errors   ln, of exits 1..4 [1,4,rows,columns]; costs: of the network stopped at each exit, as shares of all of it
    """
    losses = _losses(errors, costs, price)
    stop, go = losses[:, 0].mean(), losses[:, 1:].amin(1).mean()
    return bool(go < stop)


def exits_of(errors: Tensor, costs: Sequence[float], price: float) -> Tensor:
    """The exit of each patch, 2..4, int64 [N,rows,columns]; errors and costs of exits 2..4."""
    return _losses(errors, costs, price).argmin(1) + STAGES[1]


def _losses(errors: Tensor, costs: Sequence[float], price: float) -> Tensor:
    """dB of the frame lost at each exit, and what its arithmetic is charged."""
    mse = errors.double().clamp(-20, 3).exp()
    frame = mse[:, -1:].mean((2, 3), keepdim=True).clamp_min(FLOOR)
    return DECIBEL * mse / frame + price * torch.tensor(costs).to(mse)[None, :, None, None]


def _length(x: Tensor) -> Tensor:
    """Of vectors [N,C,h,w], [N,1,h,w]."""
    return x.square().sum(1, keepdim=True).sqrt()


def _steps(x: Tensor) -> Tensor:
    """Mean size of the differences to the right and lower neighbours, [N,1,h,w]; the last row and column repeat."""
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    inner = x[..., :-1, :-1]
    return ((x[..., :-1, 1:] - inner).abs() + (x[..., 1:, :-1] - inner).abs()).mean(1, keepdim=True)


def _grey_levels(x: Tensor) -> Tensor:
    """Differences of 0.001 to 1 to about -2..2."""
    return (torch.log(x + 1e-3) + 4) / 1.5


def _pixels(x: Tensor) -> Tensor:
    """Lengths of 0.05 to 50 px to about -1.5..2."""
    return torch.log(x + 0.05) / 2
