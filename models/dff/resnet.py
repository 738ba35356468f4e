"""The feature network: caffe-style ResNet-50 or -101 with stride 16, and a dilated reduction to 1024 channels.

Deep residual learning (He et al., CVPR 2016) as Deep Feature Flow uses it (specs/dff.md, section 2): stride 2 sits in
the first 1x1 convolutions, conv5 keeps its stride and dilates all three 3x3 convolutions by 2, and a 3x3 convolution
of dilation 6 makes the features that are propagated. It differs from torchvision's network, whose weights do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dff.batch import one_by_one
from models.dff.checkpoint import fill, own_part, reference, shape_of
from models.dff.fold import ConvNorm, fold, require_unfolded
from models.dff.packed import PackedConv2d

STRIDE = 16  # pixels a cell
MEAN = (123.15, 115.90, 103.06)  # of RGB 0..255, subtracted from every image; there is no division
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # residual blocks of conv2 to conv5
PART = "feature network"


def subtract_mean(frames: Tensor) -> Tensor:
    """RGB frames 0..255 [N,3,H,W], uint8 or float -> the float32 images that both networks take."""
    return frames.float() - torch.tensor(MEAN, device=frames.device)[:, None, None]


def block_names(stage: int, count: int) -> list[str]:
    """3a, 3b, 3c, … or, where letters would not do (ResNet-101's conv3 and conv4), 4a, 4b1, 4b2, …, as in caffe."""
    return [f"{stage}{ascii_lowercase[i]}" for i in range(count)]


def deep_block_names(stage: int, count: int) -> list[str]:
    return [f"{stage}a", *(f"{stage}b{i}" for i in range(1, count))]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside the identity or a projection; the stride is in the 1x1s."""

    def __init__(self, channels_in: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.branch2a = ConvNorm(channels_in, width, 1, stride)
        self.branch2b = ConvNorm(width, width, 3, padding=dilation, dilation=dilation)
        self.branch2c = ConvNorm(width, 4 * width, 1)
        projects = stride > 1 or channels_in != 4 * width
        self.branch1 = ConvNorm(channels_in, 4 * width, 1, stride) if projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.branch2a(x), inplace=True)
        y = F.relu(self.branch2b(y), inplace=True)
        y = self.branch2c(y)
        y += self.branch1(x)
        return F.relu(y, inplace=True)


class FeatureNet(nn.Module):
    """Images -> the features that Deep Feature Flow propagates.

    depth      50 or 101
    width      channels of conv1 and of conv2's bottlenecks; 64 is the paper's
    channels   of the features; 1024 is the paper's
    """

    def __init__(self, depth: int = 101, width: int = 64, channels: int = 1024) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth is {depth}; the feature networks are ResNet-{' and -'.join(map(str, BLOCKS))}")
        self.sizes = {"depth": depth, "width": width, "channels": channels}
        self.channels = channels
        self.conv1 = ConvNorm(3, width, 7, stride=2, padding=3)
        self.blocks = nn.ModuleDict()
        flowing = width
        for stage, count in enumerate(BLOCKS[depth], start=2):
            inner = width << (stage - 2)
            # conv2 follows the max-pooling's stride; conv5 dilates in place of its own.
            strides = [2 if stage in (3, 4) else 1] + [1] * (count - 1)
            named = deep_block_names if depth == 101 and stage in (3, 4) else block_names
            for name, stride in zip(named(stage, count), strides, strict=True):
                self.blocks[name] = Bottleneck(flowing, inner, stride, dilation=2 if stage == 5 else 1)
                flowing = 4 * inner
        self.feat_conv_3x3 = PackedConv2d(flowing, channels, 3, padding=6, dilation=6)
        nn.init.normal_(self.feat_conv_3x3.weight, std=0.01)
        nn.init.zeros_(self.feat_conv_3x3.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Images [N,3,H,W] (RGB 0..255 less MEAN, see subtract_mean) -> [N,channels,ceil(H/16),ceil(W/16)], >= 0.

        Any size. Raises ValueError for other shapes. On the CPU in evaluation images are computed one by one: an
        image's bits do not depend on its batch.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"FeatureNet takes images [N,3,H,W]; got {list(images.shape)}")
        if one_by_one(self, images):
            return torch.cat([self(image) for image in torch.split(images, 1)])
        x = F.relu(self.conv1(images), inplace=True)  # (N, 64, H/2, W/2)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for block in self.blocks.values():
            x = block(x)  # (N, 256, H/4, W/4), (N, 512, H/8, W/8), then (N, 1024 and 2048, H/16, W/16)
        return F.relu(self.feat_conv_3x3(x), inplace=True)

    def freeze_stem(self) -> None:
        """conv1 and conv2 keep their ImageNet weights in training, as published (specs/dff.md, section 7)."""
        stem = [self.conv1, *(block for name, block in self.blocks.items() if name.startswith("2"))]
        for module in stem:
            module.requires_grad_(False)

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any], *, folded: bool = True) -> FeatureNet:
        """The network of a published checkpoint's tensors, under their published names (checkpoint.py).

        Depth and widths are read off the tensors. `folded`: batch norms are folded into the convolutions, for
        evaluation; False keeps them, for training. Raises KeyError for names, ValueError for shapes.
        """
        own = own_part(PART, tensors)
        blocks = len({found[0] for name in own if (found := re.match(r"res4[a-z]\d*_", name))})
        depth = next((depth for depth, counts in BLOCKS.items() if counts[2] == blocks), None)
        if depth is None:
            raise ValueError(f"the checkpoint's feature network has {blocks} blocks in conv4; ResNet-50 has 6, -101 23")
        with torch.device("meta"):  # 60 million random numbers less
            network = cls(depth, shape_of(own, "conv1_weight", PART)[0], shape_of(own, "feat_conv_3x3_bias", PART)[0])
        fill(network, own, published_name, PART)
        if folded:
            fold(network)
        return network.eval()

    def to_reference(self) -> dict[str, Tensor]:
        """The tensors under their published names: the inverse of from_reference. Raises ValueError once folded."""
        require_unfolded(self)
        return reference(self, published_name)


NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}


def published_name(name: str) -> str:
    """blocks.4b1.branch2a.conv.weight -> res4b1_branch2a_weight, blocks.4b1.branch2a.norm.weight -> bn4b1_…_gamma."""
    *path, kind, which = name.removeprefix("blocks.").split(".")
    if kind == "feat_conv_3x3":
        return f"feat_conv_3x3_{which}"
    place = "_".join(path)  # conv1, or 4b1_branch2a
    if kind == "norm":
        return f"bn{'_' * (place == 'conv1')}{place}_{NORM[which]}"
    return f"{place if place == 'conv1' else 'res' + place}_{which}"
