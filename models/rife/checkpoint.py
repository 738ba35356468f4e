"""The network's sizes, and how they are read off a checkpoint's tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """The published network by default.

    widths     channels of each block, coarse to fine; even
    convs      residual convolutions in a block
    hidden     channels of the encoder
    features   that it gives the blocks
    """

    widths: tuple[int, ...] = (192, 128, 96, 64)
    convs: int = 8
    hidden: int = 32
    features: int = 8


def infer_sizes(tensors: Mapping[str, Any]) -> Sizes:
    """Raises KeyError where a tensor that tells a size is missing."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            prefix = next((key.removesuffix(name) for key in tensors if key.endswith("." + name)), "")
            hint = f"; its names carry the prefix {prefix!r}: strip it" if prefix else f"; found {sorted(tensors)[:3]}"
            raise KeyError(f"not an IFNet checkpoint: it has no tensor {name!r}{hint}")
        return tuple(tensors[name].shape)

    def count(pattern: str) -> int:
        return 1 + max((int(found[1]) for name in tensors if (found := re.match(pattern, name))), default=-1)

    hidden, features = shape("encode.cnn3.weight")[:2]
    return Sizes(
        widths=tuple(shape(f"block{i}.lastconv.0.weight")[0] for i in range(max(count(r"block(\d+)\."), 1))),
        convs=count(r"block0\.convblock\.(\d+)\."),
        hidden=hidden,
        features=features,
    )
