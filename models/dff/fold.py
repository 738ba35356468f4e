"""Convolution and batch norm with stored statistics, and folding the second into the first.

Batch norms of the method use stored statistics everywhere, in training too (specs/dff.md, sections 2 and 7); gamma and
beta are trained. In evaluation the pair is one convolution with a bias: folded once, when weights are loaded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dff.packed import PackedConv2d

EPS = 1e-5


class StoredNorm(nn.Module):
    """Batch norm that never looks at its batch: (x - running_mean) / sqrt(running_var + eps) * weight + bias."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, EPS)

    def affine(self) -> tuple[Tensor, Tensor]:
        """(scale, shift) of each channel, fp64."""
        scale = self.weight.double() * torch.rsqrt(self.running_var.double() + EPS)
        return scale, self.bias.double() - self.running_mean.double() * scale


class ConvNorm(nn.Module):
    """A convolution without bias, then StoredNorm; after `fold`, one convolution with a bias."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = PackedConv2d(channels_in, channels, kernel, stride, padding, dilation, bias=False)
        self.norm: nn.Module = StoredNorm(channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y

    @torch.no_grad()
    def fold(self) -> None:
        """In place; a second call does nothing."""
        if not isinstance(self.norm, StoredNorm):
            return
        scale, shift = self.norm.affine()
        self.conv.weight = nn.Parameter((self.conv.weight.double() * scale[:, None, None, None]).float())
        self.conv.bias = nn.Parameter(shift.float())
        self.norm = nn.Identity()


def fold(network: nn.Module) -> None:
    """Fold every ConvNorm of a network in place. It computes the same up to rounding, and is for evaluation only."""
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module.fold()


def is_folded(network: nn.Module) -> bool:
    return any(isinstance(module, ConvNorm) and isinstance(module.norm, nn.Identity) for module in network.modules())


def require_unfolded(network: nn.Module) -> None:
    """Raises ValueError where batch norms are gone: such tensors have no published names."""
    if is_folded(network):
        raise ValueError(
            f"this {type(network).__name__}'s batch norms are folded into its convolutions, so that its tensors have "
            "no published names; build it with from_reference(tensors, folded=False)"
        )
