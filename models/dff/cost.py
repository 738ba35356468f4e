"""Multiply-adds of the networks, as the paper's Table 2 counts them (specs/dff.md, section 8).

Convolutions' weights alone; transposed convolutions by their input positions. Normalisation, activations, warping and
upsampling are not counted: see `jobs/benchmark.py recognize` for what they take.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(network: nn.Module, *inputs: tuple[int, ...]) -> int:
    """Of one forward with inputs of these shapes. Nothing is computed and no weight copied: tensors are shapes."""
    state: dict[str, Tensor] = {name: value.to("meta") for name, value in network.state_dict().items()}
    images = tuple(torch.empty(shape, device="meta") for shape in inputs)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        functional_call(network, state, images)
    return int(counter.get_total_flops()) // 2


def feature_cost(network: nn.Module, height: int, width: int) -> int:
    """Multiply-adds of the feature network on one frame."""
    return multiply_adds(network, (1, 3, height, width))


def flow_cost(network: nn.Module, height: int, width: int) -> int:
    """Multiply-adds of the flow network on one pair; it sees half the size (inside its forward)."""
    return multiply_adds(network, (1, 3, height, width), (1, 3, height, width))


def ratio(features: nn.Module, flow: nn.Module, height: int, width: int) -> float:
    """1/r of the paper: how often the flow network's cost goes into the feature network's."""
    return feature_cost(features, height, width) / flow_cost(flow, height, width)


def predicted_speedup(interval: float, r: float) -> float:
    """Eq. 7: with a key frame every `interval` frames, and the other frames at r of a key frame's cost."""
    return interval / (1 + (interval - 1) * r)
