"""Losses on frames [N,3,H,W] in 0..1. Each takes the output, the true middle and the frame average."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
LEVEL = 1 / 255


def l1(output: Tensor, middle: Tensor, average: Tensor) -> Tensor:
    return (output - middle).abs().mean()


def mse(output: Tensor, middle: Tensor, average: Tensor) -> Tensor:
    return (output - middle).square().mean()


def charbonnier(output: Tensor, middle: Tensor, average: Tensor) -> Tensor:
    """L1 with a rounded foot: for errors below two levels it asks for the mean, as PSNR does, else for the median."""
    return _charbonnier_each(output, middle).mean()


def relative(output: Tensor, middle: Tensor, average: Tensor) -> Tensor:
    """Charbonnier over that of the frame average, for each sample: wild motion does not drown small motion.

    The added 1.5 levels keep near-still samples, where only coding noise is left, from counting as much as others.
    """
    return (_charbonnier_each(output, middle) / (_charbonnier_each(average, middle) + 1.5 * LEVEL)).mean()


def log_mse(output: Tensor, middle: Tensor, average: Tensor) -> Tensor:
    """PSNR itself, up to sign and factor, with a floor of 1.5 levels: what the evaluation averages over frames."""
    each = (output - middle).square().mean((1, 2, 3))
    return 0.25 * torch.log(each + (1.5 * LEVEL) ** 2).mean()


def _charbonnier_each(output: Tensor, middle: Tensor) -> Tensor:
    return ((output - middle).square() + (2 * LEVEL) ** 2).sqrt().mean((1, 2, 3))


LOSSES: dict[str, Loss] = {
    "l1": l1,
    "mse": mse,
    "charbonnier": charbonnier,
    "relative": relative,
    "log_mse": log_mse,
}
