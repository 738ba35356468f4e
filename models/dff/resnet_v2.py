"""ResNet-50 v2 up to its third stage: 1024 channels at stride 16, an alternative feature network to start from.

Identity mappings in deep residual networks (He et al., ECCV 2016) as GluonCV and the ONNX model zoo have it: batch norm
and ReLU come before each convolution, the stride is in the 3x3, and the projection sees the pre-activated input. It
ends where stage 3 does, on the residual stream: no batch norm or ReLU follows, so features have both signs.

It has 8.5 million parameters and a third of the cost of the paper's ResNet-50, whose conv5 and dilated reduction it
lacks, and can be fine-tuned on a few cores. On the ImageNet weights its features' standard deviation is about 0.13.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dff.batch import one_by_one
from models.dff.checkpoint import adopt
from models.dff.fold import ConvNorm, StoredNorm, fold, require_unfolded
from models.dff.packed import PackedConv2d

STRIDE = 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB 0..1, as the ONNX model zoo normalises
BLOCKS = (3, 4, 6)


class PreBottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 on the pre-activated input, beside the identity or a projection of the same."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.pre = StoredNorm(channels_in)
        self.first = ConvNorm(channels_in, width, 1)
        self.second = ConvNorm(width, width, 3, stride, padding=1)
        self.third = PackedConv2d(width, 4 * width, 1, bias=False)
        projects = stride > 1 or channels_in != 4 * width
        self.down = PackedConv2d(channels_in, 4 * width, 1, stride, bias=False) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.pre(x), inplace=True)
        shortcut = x if self.down is None else self.down(active)
        y = F.relu(self.first(active), inplace=True)
        y = F.relu(self.second(y), inplace=True)
        residual: Tensor = self.third(y)
        residual += shortcut
        return residual


class ResNetV2(nn.Module):
    """Frames -> features. width: channels of conv0 and of the first stage's bottlenecks (64 is published)."""

    stride = STRIDE
    takes_frames = True  # normalisation is inside

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.sizes = {"width": width}
        self.channels = 16 * width
        self.bn0 = StoredNorm(3)
        self.stem = ConvNorm(3, width, 7, stride=2, padding=3)
        self.stages = nn.ModuleList()
        flowing = width
        for stage, count in enumerate(BLOCKS):
            blocks = nn.ModuleList()
            for index in range(count):
                blocks.append(PreBottleneck(flowing, width << stage, 2 if stage and not index else 1))
                flowing = 4 * (width << stage)
            self.stages.append(blocks)

    def forward(self, frames: Tensor) -> Tensor:
        """RGB frames 0..255 [N,3,H,W], uint8 or float -> [N,16*width,ceil(H/16),ceil(W/16)], both signs.

        Raises ValueError for other shapes. On the CPU in evaluation frames are computed one by one.
        """
        if frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape:
            raise ValueError(f"ResNetV2 takes frames [N,3,H,W]; got {list(frames.shape)}")
        if one_by_one(self, frames):
            return torch.cat([self(frame) for frame in torch.split(frames, 1)])
        mean, std = (torch.tensor(values, device=frames.device)[:, None, None] for values in (MEAN, STD))
        x: Tensor = self.bn0((frames.float() / 255 - mean) / std)
        x = F.relu(self.stem(x), inplace=True)  # (N, 64, H/2, W/2)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for blocks in self.stages:
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x)  # (N, 256, H/4, W/4), (N, 512, H/8, W/8), (N, 1024, H/16, W/16)
        return x

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any], *, folded: bool = True) -> ResNetV2:
        """The network of the converted ONNX weights' tensors (bn0, conv0, bn1, stage1.0.bn1, …), in any precision.

        `folded`: batch norms that follow a convolution are folded into it, for evaluation; False keeps them, for
        training. Raises KeyError for missing or unknown names, ValueError for shapes.
        """
        given = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
        if "conv0.weight" not in given:
            raise KeyError(f"not a ResNet-50 v2 checkpoint: it has no tensor 'conv0.weight'; found {sorted(given)[:3]}")
        with torch.device("meta"):
            network = cls(given["conv0.weight"].shape[0])
        expected = network.state_dict()
        names = {published_name(ours): ours for ours in expected}
        missing, unknown = sorted(names.keys() - given.keys()), sorted(given.keys() - names.keys())
        if missing or unknown:
            raise KeyError(
                f"not a ResNet-50 v2 checkpoint up to stage 3: {len(missing)} tensors missing {missing[:3]}, "
                f"{len(unknown)} unknown {unknown[:3]}"
            )
        state = {}
        for name, ours in names.items():
            value = torch.as_tensor(given[name])
            if value.shape != expected[ours].shape:
                raise ValueError(f"{name} has shape {list(value.shape)}; needed is {list(expected[ours].shape)}")
            state[ours] = value.detach().to(dtype=torch.float32, copy=True)
        adopt(network, state)
        if folded:
            fold(network)
        return network.eval()

    def to_reference(self) -> dict[str, Tensor]:
        """The tensors under their published names: the inverse of from_reference. Raises ValueError once folded."""
        require_unfolded(self)
        return {published_name(name): value for name, value in self.state_dict().items()}


PUBLISHED = {
    "stem.conv.": "conv0.", "stem.norm.": "bn1.", "pre.": "bn1.", "first.conv.": "conv1.", "first.norm.": "bn2.",
    "second.conv.": "conv2.", "second.norm.": "bn3.", "third.": "conv3.",
}  # fmt: skip


def published_name(name: str) -> str:
    """stages.0.2.first.norm.weight -> stage1.2.bn2.weight."""
    if name.startswith("stages."):
        _, stage, block, rest = name.split(".", 3)
        return f"stage{int(stage) + 1}.{block}.{renamed(rest)}"
    return renamed(name)


def renamed(name: str) -> str:
    for ours, theirs in PUBLISHED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
