"""CARN-M: fast and light super-resolution with a cascading residual network (Ahn et al., ECCV 2018).

CAIN-SD makes patches with fast or blurred motion at a half or a quarter of their size and brings them back with this
network. One trunk, shared by the scales; only the last convolutions are each scale's own.

The sizes are arguments, so that a cheaper variant is the same code: at the paper's sizes, super-resolution costs as
much as everything else that CAIN-SD does to such a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoint import checked

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, in the published weights


@dataclass(frozen=True)
class Sizes:
    """The published network by default.

    width    channels of the trunk
    groups   of its 3x3 convolutions and of the upsampling ones
    scales   2, 3 and 4 in one network; a single one has other names in the checkpoint
    """

    width: int = 64
    groups: int = 4
    scales: tuple[int, ...] = (2, 3, 4)

    def __post_init__(self) -> None:
        if not self.scales or not {*self.scales} <= {2, 3, 4}:
            raise ValueError(f"scales are {self.scales}; CARN enlarges by 2, 3 or 4")
        if self.width < 1 or self.width % self.groups:
            raise ValueError(f"width {self.width} is no multiple of groups {self.groups}")


class MeanShift(nn.Module):
    """Takes away, or adds, the training images' mean: a fixed 1x1 convolution, as the checkpoints have it."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.shifter = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.shifter.weight.copy_(torch.eye(3)[:, :, None, None])
            self.shifter.bias.copy_(sign * torch.tensor(RGB_MEAN))  # type: ignore[union-attr]
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        shifted: Tensor = self.shifter(x)
        return shifted


class EfficientResidual(nn.Module):
    """Two grouped 3x3 convolutions and one 1x1 that mixes the groups again."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, groups=groups), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, groups=groups), nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x)


class Fusion(nn.Module):
    """1x1 convolution over everything so far."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        fused: Tensor = self.body(x)
        return fused


class Cascade(nn.Module):
    """Three units, each fed with the fusion of all before: the pattern inside a block and between blocks (section 3.2).

    What is concatenated are the units' own outputs, not the fused ones.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        for index in (1, 2, 3):
            setattr(self, f"c{index}", Fusion((index + 1) * width, width))

    def units(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        raise NotImplementedError

    def cascade(self, x: Tensor) -> Tensor:
        together = fused = x
        for index, unit in enumerate(self.units(), 1):
            together = torch.cat([together, unit(fused)], 1)  # (N, (index + 1) * width, H, W)
            fused = getattr(self, f"c{index}")(together)
        return fused


class Block(Cascade):
    """The three positions share one unit's weights: the M, for mobile, of CARN-M (section 3.3)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__(width)
        self.b1 = EfficientResidual(width, groups)

    def units(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.b1, self.b1, self.b1

    def forward(self, x: Tensor) -> Tensor:
        return self.cascade(x)


class Upsample(nn.Module):
    def __init__(self, width: int, groups: int, scale: int) -> None:
        super().__init__()
        steps = (2, 2) if scale == 4 else (scale,)
        layers: list[nn.Module] = []
        for step in steps:
            convolution = nn.Conv2d(width, step * step * width, 3, 1, 1, groups=groups)
            layers += [convolution, nn.ReLU(), nn.PixelShuffle(step)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        enlarged: Tensor = self.body(x)
        return enlarged


class CARNM(Cascade):
    """Super-resolution by 2, 3 or 4."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        sizes = sizes or Sizes()
        super().__init__(sizes.width)
        self.sizes = sizes
        self.sub_mean = MeanShift(-1)
        self.add_mean = MeanShift(1)
        self.entry = nn.Conv2d(3, sizes.width, 3, 1, 1)
        self.b1 = Block(sizes.width, sizes.groups)
        self.b2 = Block(sizes.width, sizes.groups)
        self.b3 = Block(sizes.width, sizes.groups)
        names = {scale: f"up{scale}" for scale in sizes.scales} if len(sizes.scales) > 1 else {sizes.scales[0]: "up"}
        self._heads = names
        self.upsample = nn.ModuleDict({name: Upsample(sizes.width, sizes.groups, n) for n, name in names.items()})
        self.exit = nn.Conv2d(sizes.width, 3, 3, 1, 1)

    def units(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.b1, self.b2, self.b3

    def forward(self, image: Tensor, scale: int) -> Tensor:
        """image [N,3,H,W] RGB 0..1, any size -> [N,3,scale*H,scale*W], unclamped.

        Raises ValueError for a scale that the network has no head for.
        """
        if scale not in self._heads:
            raise ValueError(f"scale is {scale}; this network enlarges by {', '.join(map(str, self._heads))}")
        x = self.cascade(self.entry(self.sub_mean(image)))
        x = self.upsample[self._heads[scale]](x)  # (N, width, scale * H, scale * W)
        result: Tensor = self.add_mean(self.exit(x))
        return result

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any]) -> CARNM:
        """The network of a published checkpoint's tensors (or a variant's), under their published names.

        Sizes are read off the tensors. Raises KeyError for missing or unknown names, ValueError for shapes.
        """
        network = cls(infer_sizes(tensors))
        network.load_state_dict(checked(tensors, network.state_dict(), f"CARN-M of {network.sizes}"))
        return network.eval()

    def to_reference(self) -> dict[str, Tensor]:
        """The tensors under their published names: the inverse of from_reference."""
        return dict(self.state_dict())


def infer_sizes(tensors: Mapping[str, Any]) -> Sizes:
    """CARN-M's sizes, read off a checkpoint's names and shapes.

    Raises KeyError where a tensor that tells a size is missing, ValueError where the shapes contradict.
    """
    try:
        width = int(tensors["entry.weight"].shape[0])
        fan_in = int(tensors["b1.b1.body.0.weight"].shape[1])
    except KeyError as error:
        raise KeyError(f"not a CARN-M checkpoint: it has no tensor {error}; found {sorted(tensors)[:3]}") from None
    if not fan_in or width % fan_in:
        raise ValueError(f"not a CARN-M checkpoint: {width} channels cannot be in groups of {fan_in}")
    scales = tuple(n for n in (2, 3, 4) if f"upsample.up{n}.body.0.weight" in tensors)
    if not scales and "upsample.up.body.0.weight" in tensors:
        step = round((int(tensors["upsample.up.body.0.weight"].shape[0]) / width) ** 0.5)
        scales = (4 if "upsample.up.body.3.weight" in tensors else step,)
    if not scales:
        raise KeyError(f"not a CARN-M checkpoint: it has no tensor 'upsample.up*.body.0.weight' among {len(tensors)}")
    return Sizes(width, width // fan_in, scales)
