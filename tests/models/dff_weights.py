"""Deep Feature Flow's test weights, rebuilt from the official parameter names, and the expected outputs.

The recipe is the golden files' (name and shape to values): every branch of the networks matters to their outputs.
"""

from __future__ import annotations

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.dff import FeatureNet, FlowNet, RFCNHead, SegHead, subtract_mean, warp

GOLDEN = Path(__file__).parent.parent / "golden"
SIZES = ("192x256", "150x201")
KEY, CURRENT = 0, 2  # of a golden file's three frames

FACTORS = {  # of convolutions' variance-preserving weights
    "conv1_weight": 0.02,
    "rpn_cls_score_weight": 0.15,
    "rfcn_cls_weight": 0.15,
    "rpn_bbox_pred_weight": 0.3,
    "rfcn_bbox_weight": 0.3,
    "Convolution5_scale_weight": 0.1,
    "Convolution5_weight": 6.0,
}


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """name: as in the .params file, without its mark."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if name.endswith("_moving_var"):
        return (1.0 + 0.2 * generator.random(shape)).astype(np.float32)
    noise = generator.standard_normal(shape)
    if name.endswith("_gamma"):
        noise = (0.3 if name.endswith("branch2c_gamma") else 1.0) * (1 + 0.1 * noise)
    elif name.endswith(("_beta", "_moving_mean")):
        noise *= 0.1
    elif name.endswith("_bias"):
        noise = 0.05 * noise + name.startswith("Convolution5_scale")
    else:
        transposed = name.startswith(("deconv", "upsample_flow"))  # (in, out, 4, 4): 4 taps reach each output
        noise *= FACTORS.get(name, 1.0) * np.sqrt(2.0 / (shape[0] * 4 if transposed else np.prod(shape[1:])))
    return noise.astype(np.float32)


def shapes(part: str) -> dict[str, tuple[int, ...]]:
    """The published checkpoint's names and shapes."""
    listed = json.loads((GOLDEN / f"dff_{part}.state_dict.json").read_text())
    return {entry["mxnet"]: tuple(entry["shape"]) for entry in listed.values() if entry["mxnet"]}


@functools.cache
def published(part: str) -> dict[str, np.ndarray]:
    """A checkpoint's tensors under the names of its .params file."""
    return {name: value(name.partition(":")[2], shape) for name, shape in shapes(part).items()}


def resized(own: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Weights by the same recipe for a smaller network's tensors (its to_reference())."""
    return {name: value(name.partition(":")[2], tuple(tensor.shape)) for name, tensor in own.items()}


@functools.cache
def golden(size: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"dff_{size}_seed0.npz") as file:
        return dict(file)


def frames(size: str) -> Tensor:
    """uint8 [3,3,H,W] RGB."""
    return torch.from_numpy(golden(size)["frames"]).permute(0, 3, 1, 2)


def images(size: str) -> Tensor:
    return subtract_mean(frames(size))


@functools.cache
def features(size: str) -> dict[str, Tensor]:
    """ResNet-101's of the key frame, and those that FlowNet carries to the current frame."""
    image = images(size)
    with torch.inference_mode():
        key = FeatureNet.from_reference(published("resnet101_feat"))(image[KEY : KEY + 1])
        flow = FlowNet.from_reference(published("flownet"))(image[CURRENT : CURRENT + 1], image[KEY : KEY + 1])
        return {"key": key, "cur": warp(key, *flow)}


def rfcn_head() -> RFCNHead:
    return RFCNHead.from_reference(published("rfcn_head"))


def seg_head() -> SegHead:
    return SegHead.from_reference(published("seg_head_interp"))


def relative(ours: Tensor, expected: np.ndarray) -> float:
    """The largest difference, by the largest value."""
    assert tuple(ours.shape) == expected.shape
    return float(np.abs(ours.numpy() - expected).max() / np.abs(expected).max())
