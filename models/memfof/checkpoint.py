"""The network's sizes, and how they are read off a checkpoint's tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """The published network by default; a compact variant has the same structure and smaller numbers.

    dim             channels of hidden state, context and motion; feature maps have 2 dim. Even, 8 at least
    widths          of the encoders' three stages
    blocks          residual blocks in each stage
    refine_blocks   ConvNeXt blocks in an iteration
    corr_levels     of the correlation pyramid
    corr_radius     of its window, in cells of a level
    """

    dim: int = 512
    widths: tuple[int, int, int] = (64, 128, 256)
    blocks: tuple[int, int, int] = (3, 4, 6)
    refine_blocks: int = 2
    corr_levels: int = 4
    corr_radius: int = 4

    def __post_init__(self) -> None:
        if self.dim < 8 or self.dim % 2:
            raise ValueError(f"dim is {self.dim}; it must be even and 8 at least (4 of its channels carry the flows)")
        for name in ("widths", "blocks"):
            if len(getattr(self, name)) != 3 or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be three positive numbers, one a stage")
        for name in ("refine_blocks", "corr_levels", "corr_radius"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")

    @property
    def corr_channels(self) -> int:
        """Of both directions: 648 in the published network."""
        return 2 * self.corr_levels * (2 * self.corr_radius + 1) ** 2


def infer_sizes(tensors: Mapping[str, Any]) -> Sizes:
    """Raises KeyError where a tensor that tells a size is missing, ValueError where the shapes contradict.

    Levels and radius share one number, channels = levels * (2 radius + 1)²: the largest radius that divides it is
    taken, which is right for fewer than nine levels.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            prefix = next((key.removesuffix(name) for key in tensors if key.endswith("." + name)), "")
            hint = f"; its names carry the prefix {prefix!r}: strip it" if prefix else f"; found {sorted(tensors)[:3]}"
            raise KeyError(f"not a MEMFOF checkpoint: it has no tensor {name!r}{hint}")
        return tuple(tensors[name].shape)

    def count(pattern: str) -> int:
        return 1 + max((int(found[1]) for name in tensors if (found := re.match(pattern, name))), default=-1)

    window = shape("update_block.encoder.convc1.weight")[1] // 2
    radius = next((r for r in range(15, 0, -1) if window % (2 * r + 1) ** 2 == 0), 0)
    if not radius or shape("update_block.encoder.convc1.weight")[1] % 2:
        raise ValueError(
            f"not a MEMFOF checkpoint: its motion encoder takes {shape('update_block.encoder.convc1.weight')[1]} "
            "correlations; 2 * levels * (2 radius + 1)² expected"
        )
    first, second, third = (shape(f"fnet.resnet.layer{stage}.0.conv1.weight")[0] for stage in (1, 2, 3))
    return Sizes(
        dim=shape("att.to_qk.weight")[1],
        widths=(first, second, third),
        blocks=(
            count(r"fnet\.resnet\.layer1\.(\d+)\."),
            count(r"fnet\.resnet\.layer2\.(\d+)\."),
            count(r"fnet\.resnet\.layer3\.(\d+)\."),
        ),
        refine_blocks=count(r"update_block\.refine\.(\d+)\."),
        corr_levels=window // (2 * radius + 1) ** 2,
        corr_radius=radius,
    )


def checked(tensors: Mapping[str, Any], expected: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """Copies of the tensors in the types of `expected`. Raises KeyError for names and ValueError for shapes."""
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise KeyError(
            f"not a MEMFOF checkpoint of {sizes}: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )
    state = {}
    for name, wanted in expected.items():
        value = torch.as_tensor(tensors[name])
        if value.shape != wanted.shape:
            raise ValueError(f"{name} has shape {list(value.shape)}; {sizes} needs {list(wanted.shape)}")
        state[name] = value.detach().to(dtype=wanted.dtype, copy=True)
    return state
