"""From pixels to maps at 1/16: the two encoders `fnet` and `cnet` (paper, section 3.1; ResNet-34 to its layer3).

Modules carry the published checkpoints' names, so that a checkpoint loads key for key. ImageNet weights are never
fetched: a checkpoint holds both encoders, and training may load them like any other tensors.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 16  # pixels a cell


def conv_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """norm(conv(x)); in evaluation one convolution, whose output (134 MB for a 1080p stem) exists once, not twice."""
    if norm.training or norm.running_mean is None or norm.running_var is None:
        normed: Tensor = norm(conv(x))
        return normed
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    return F.conv2d(x, weight, bias, conv.stride, conv.padding)


class Downsample(nn.Sequential):
    """The identity's way past a stride."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", tuple(self))
        return conv_norm(conv, norm, x)


class BasicBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Identity() if stride == 1 else Downsample(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(conv_norm(self.conv1, self.bn1, x), inplace=True)
        y = conv_norm(self.conv2, self.bn2, y)
        y += self.downsample(x)
        return F.relu(y, inplace=True)


class Trunk(nn.Module):
    """ResNet without max-pooling and without its last stage: 1/2, 1/2, 1/4, 1/8."""

    def __init__(self, channels_in: int, widths: tuple[int, int, int], blocks: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = self._stage(widths[0], widths[0], blocks[0], stride=1)
        self.layer2 = self._stage(widths[0], widths[1], blocks[1], stride=2)
        self.layer3 = self._stage(widths[1], widths[2], blocks[2], stride=2)

    @staticmethod
    def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        rest = (BasicBlock(channels, channels, 1) for _ in range(blocks - 1))
        return nn.Sequential(BasicBlock(channels_in, channels, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(conv_norm(self.conv1, self.bn1, x), inplace=True)  # (N, 64, H/2, W/2)
        for block in (*self.layer1, *self.layer2, *self.layer3):  # one by one: a stage's input is let go early
            x = block(x)
        return x  # (N, 256, H/8, W/8)


class Encoder(nn.Module):
    """[N, channels_in, H, W] in -1..1 -> [N, channels, H/16, W/16]; neither norm nor activation at the end."""

    def __init__(
        self, channels_in: int, channels: int, widths: tuple[int, int, int], blocks: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.resnet = Trunk(channels_in, widths, blocks)
        self.final_conv = nn.Conv2d(widths[2], channels, 2, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.final_conv(self.resnet(x))
        return out


def normalise(frames: Tensor) -> Tensor:
    """0..255 -> -1..1; uint8 and float give the same bits."""
    return 2 * (frames.float() / 255) - 1


def padding_of(height: int, width: int, smallest: int) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) that bring both sides to a multiple of 16 and to `smallest` at least."""
    down = max(-height % STRIDE, smallest - height)
    across = max(-width % STRIDE, smallest - width)
    return across // 2, across - across // 2, down // 2, down - down // 2


def pad(frames: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Replicates the border of [..., C, H, W]."""
    if not any(padding):
        return frames
    left, right, top, bottom = padding
    *lead, channels, height, width = frames.shape
    padded = F.pad(frames.reshape(-1, channels, height, width), padding, mode="replicate")
    return padded.reshape(*lead, channels, height + top + bottom, width + left + right)


def crop(fields: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    left, right, top, bottom = padding
    return fields[..., top : fields.shape[-2] - bottom, left : fields.shape[-1] - right]
