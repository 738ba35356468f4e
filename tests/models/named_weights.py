"""Test weights that depend on a parameter's name and shape only: the golden files' recipe for CAIN-SD and RIFE."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"


def named_value(name: str, shape: Sequence[int], gain: float = 0.6) -> Tensor:
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith(".beta"):
        return torch.from_numpy((0.5 + 0.15 * noise).astype(np.float32))
    scale = gain / np.sqrt(np.prod(shape[1:])) if len(shape) >= 2 else 0.05
    return torch.from_numpy((noise * scale).astype(np.float32))


def named_like(state: Mapping[str, Tensor], gain: float = 0.6) -> dict[str, Tensor]:
    """Weights for every tensor of a network's own state."""
    return {name: named_value(name, value.shape, gain) for name, value in state.items()}


def published_shapes(file: str) -> dict[str, list[int]]:
    document = json.loads((GOLDEN / file).read_text())
    shapes: dict[str, list[int]] = document.get("keys", document)
    return shapes


def picture(values: np.ndarray) -> Tensor:
    """uint8 [H,W,3] -> [1,3,H,W] in 0..1."""
    return torch.from_numpy(values).permute(2, 0, 1)[None].float() / 255
