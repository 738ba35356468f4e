"""MEMFOF as the flow task uses it: which weights, in which precision, and what a frame costs. Imports torch."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models import weights
from models.memfof import MEMFOF, Sizes, stream
from pipeline.config_flow import FlowConfig
from pipeline.errors import WeightsUnusable


@dataclass(frozen=True)
class Facts:
    """What is known of weights without keeping them."""

    name: str
    sha256: str
    sizes: Sizes


def load_network(model: str) -> tuple[MEMFOF, Facts]:
    """The network that `model` names: a name in the weights table, a path or a URI.

    Raises WeightsUnusable when its weights are missing, damaged, not the ones declared, or no MEMFOF's.
    """
    try:
        loaded = weights.load(model)
        network = MEMFOF.from_reference(loaded.tensors)
    except weights.WeightsError as error:
        raise WeightsUnusable(str(error)) from error
    except (KeyError, ValueError) as error:
        raise WeightsUnusable(f"model={model}: {error.args[0]}") from error
    network.requires_grad_(False)
    return network, Facts(loaded.name, loaded.sha256, network.sizes)


@lru_cache(maxsize=8)
def facts(model: str) -> Facts:
    return load_network(model)[1]


def macs(model: str, height: int, width: int, iterations: int) -> tuple[int, int]:
    """Multiply-accumulates of a clip's first triplet of frames of this size, and of each one after it."""
    return macs_of(facts(model).sizes, height, width, iterations)


@lru_cache(maxsize=4096)
def macs_of(sizes: Sizes, height: int, width: int, iterations: int) -> tuple[int, int]:
    """The same of a network of these sizes.

    Counted on tensors without memory: convolutions and matrix products, as the papers count.
    """
    with torch.device("meta"):
        network = MEMFOF(sizes).eval().requires_grad_(False)
        frames = (torch.empty(3, height, width, dtype=torch.uint8) for _ in range(4))
    flows = stream(network, frames, iterations, validity=False)
    counted = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            next(flows)
        counted.append(counter.get_total_flops() // 2)
    return counted[0], counted[1]


PATTERN = (3, 256, 320)
"""Frames, height and width of the pattern that precisions are compared on."""


def decide_precision(config: FlowConfig, device: str) -> tuple[str, str]:
    """("fp32" or "bf16", why). Decided before a run, so that no clip differs from another.

    On the CPU, auto takes bf16 only where it is measured to keep the record's declared error: flows of a moving pattern
    are computed in both precisions. Usually they differ by more, and the run is fp32.
    """
    if config.precision != "auto":
        return config.precision, "as configured"
    if device != "cpu":
        return "bf16", f"the default on {device}; correlation, coordinates and upsampling stay fp32"
    if config.codec == "none":
        return "fp32", "codec none declares no error that bf16 could keep"
    if not has_bf16():
        return "fp32", "this processor has no bf16 arithmetic"
    error = bf16_error(load_network(config.model)[0], config.iterations)
    bound = f"the declared max_error_px={config.max_error_px}"
    if error <= config.max_error_px:
        return "bf16", f"differs from fp32 by at most {error:.3g} px on a test pattern, within {bound}"
    return "fp32", f"bf16 would differ from it by up to {error:.3g} px on a test pattern, more than {bound}"


def has_bf16() -> bool:
    """Whether the processor computes in bf16, rather than emulating it."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call]


@torch.no_grad()
def bf16_error(network: MEMFOF, iterations: int) -> float:
    """Largest difference of a flow component between bf16 and fp32, px, over the pattern: NaN counts as infinite."""
    frames = _pattern()
    exact = network(frames, iterations).flow
    with autocast("cpu", "bf16"):
        rounded = network(frames, iterations).flow
    error = float((exact - rounded).abs().max())
    return error if error == error else float("inf")


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[object]:
    """Model layers in `precision`; what must stay fp32 (models/memfof/precision.py) stays so."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def _pattern() -> Tensor:
    """[1,3,3,H,W] RGB 0..255: a texture with detail at two scales that moves by (5, -3) px a frame."""
    count, height, width = PATTERN
    generator = torch.Generator().manual_seed(0)
    noise = [
        torch.nn.functional.interpolate(
            torch.rand(1, 3, (height + 64) // cell, (width + 64) // cell, generator=generator),
            scale_factor=float(cell), mode="bilinear",
        )
        for cell in (4, 32)
    ]  # fmt: skip
    texture = 255 * (noise[0] + 2 * noise[1]) / 3
    moved = [texture[..., 20 + 3 * i : 20 + 3 * i + height, 20 - 5 * i : 20 - 5 * i + width] for i in range(count)]
    return torch.stack(moved, 1)
