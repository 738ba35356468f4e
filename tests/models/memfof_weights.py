"""MEMFOF's test weights, rebuilt from parameter names, and what the tests compare with.

The recipe is the golden files' (seed and name to values): GMA's gamma and the layer scales are large enough that a
wrong branch shows, unlike in a network with its own random initialisation.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.memfof import MEMFOF, Sizes

GOLDEN = Path(__file__).parent.parent / "golden"
COMPACT = Sizes(dim=32, widths=(8, 16, 24), blocks=(1, 2, 1))

FIXED = {".running_mean": (0.0, 0.1), "aggregator.gamma": (0.6, 0.0)}  # name's ending: mean, deviation
SCALES = (  # of one-dimensional parameters: part of the name, mean, deviation; the first that matches
    (".gamma", 0.3, 0.1),
    (".norm.weight", 1.0, 0.2),
    (".bn1.weight", 0.7, 0.1),
    ("downsample.1.weight", 0.7, 0.1),
    (".bn2.weight", 0.35, 0.05),
    ("", 0.0, 0.05),
)
GAINS = (  # of weights: part of the name, gain of the variance; the first that matches
    ("upsample_weight.2", 40.0),
    ("flow_head.2", 1.0),
    ("dwconv", 1.0),
    (".final.", 1.0),
    ("to_v", 1.0),
    ("init_conv", 1.0),
    ("final_conv", 1.0),
    ("to_qk", 6.0),
    ("", 2.0),
)


def weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros((), np.int64)
    noise = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + (seed << 32))).standard_normal(shape)
    if name.endswith("running_var"):
        return np.exp(0.2 * noise).astype(np.float32)
    for ending, (mean, deviation) in FIXED.items():
        if name.endswith(ending):
            return (mean + deviation * noise).astype(np.float32)
    if len(shape) == 1:
        _, mean, deviation = next(scale for scale in SCALES if scale[0] in name)
        return (mean + deviation * noise).astype(np.float32)
    gain = next(gain for part, gain in GAINS if part in name)
    value = noise * np.sqrt(gain / np.prod(shape[1:]))
    if name == "flow_head.2.weight":
        value[[0, 1, 6, 7]] *= 0.25
    return value.astype(np.float32)


def published_shapes() -> dict[str, tuple[int, ...]]:
    listed = json.loads((GOLDEN / "memfof.state_dict.json").read_text())["tensors"]
    return {name: tuple(entry["shape"]) for name, entry in listed.items()}


def published(seed: int) -> MEMFOF:
    """The full-size network with the golden files' weights: 300 MB, two seconds."""
    return MEMFOF.from_reference({name: weight(name, shape, seed) for name, shape in published_shapes().items()})


def compact(sizes: Sizes = COMPACT, seed: int = 3) -> MEMFOF:
    """A small network of the same structure: milliseconds."""
    shapes = {name: tuple(value.shape) for name, value in MEMFOF(sizes).state_dict().items()}
    return MEMFOF.from_reference({name: weight(name, shape, seed) for name, shape in shapes.items()})


def clip(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """uint8 frames [count,3,H,W]: a smooth texture that moves by (3, -1) px a frame."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8 + height // 8, 8 + width // 8, generator=generator) * 255
    fine = torch.nn.functional.interpolate(coarse, scale_factor=8.0, mode="bilinear")[0]
    windows = [fine[:, 32 + t : 32 + t + height, 32 - 3 * t : 32 - 3 * t + width] for t in range(count)]
    return torch.stack(windows).to(torch.uint8)


def triplets(frames: Tensor) -> Tensor:
    """[T,3,H,W] -> [T-2,3,3,H,W]."""
    return torch.stack([frames[i : i + 3] for i in range(len(frames) - 2)])
