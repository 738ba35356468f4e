"""Recognition models as the task uses them: which weights, at which size of frame, and what a frame costs.

Imports torch.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from models import weights
from models.dff import DeepFeatureFlow, FlowNet, FrameNetwork, PaperNetwork, cells_from_pixels
from models.dff.bundle import Bundle, Kind, unpack
from models.dff.cost import feature_cost, flow_cost
from models.dff.preprocess import working_size
from models.memfof import MEMFOF
from pipeline.config_recognize import RecognizeConfig
from pipeline.errors import WeightsUnusable
from pipeline.tasks import flow_model

PLUGGED = "python:"


@dataclass(frozen=True)
class Facts:
    """What is known of a model without keeping it."""

    name: str
    sha256: str
    kind: Kind
    classes: tuple[str, ...]
    short: int | None
    long: int | None


class MemfofFlow(nn.Module):
    """MEMFOF as a source of flow between two frames; it sees the key frame on both sides of the current one."""

    def __init__(self, network: MEMFOF, stride: int, iterations: int) -> None:
        super().__init__()
        self.network, self.stride, self.iterations = network, stride, iterations

    def forward(self, current: Tensor, key: Tensor) -> tuple[Tensor, None]:
        """Frames [N,3,H,W], RGB 0..255 -> (flow in cells [N,2,h,w], no scale)."""
        triplet = torch.stack((key, current, key), 1).float()  # (N, 3, 3, H, W)
        return cells_from_pixels(self.network(triplet, self.iterations).flow[:, 0], self.stride), None


def load_bundle(config: RecognizeConfig) -> tuple[Bundle, Facts]:
    """The model that the configuration names, its features carried by the flow that it names.

    Raises WeightsUnusable when weights are missing, damaged, not the ones declared, or no recognition model's.
    """
    try:
        if config.model.startswith(PLUGGED):
            bundle, name, digest = _plugged(config.model)
            if config.classes is not None:
                bundle = replace(bundle, classes=config.classes)
        else:
            loaded = weights.load(config.model)
            bundle, name, digest = unpack(loaded.tensors, loaded.metadata, config.classes), loaded.name, loaded.sha256
    except weights.WeightsError as error:
        raise WeightsUnusable(str(error)) from error
    except (KeyError, ValueError) as error:
        raise WeightsUnusable(f"model={config.model}: {error.args[0]}") from error
    if config.task not in ("auto", bundle.kind):
        raise WeightsUnusable(f"model={config.model}: is for {bundle.kind}, task is {config.task}; change either")
    if config.flow == "memfof":
        memfof, facts = flow_model.load_network(config.memfof.model)
        network = bundle.model.network
        flow = MemfofFlow(memfof, network.stride, config.memfof.iterations)
        bundle = replace(bundle, model=DeepFeatureFlow(network, flow).eval())
        digest = hashlib.sha256(f"{digest} {facts.sha256}".encode()).hexdigest()
    bundle.model.requires_grad_(False)
    bundle.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    network = bundle.model.network
    if isinstance(network, PaperNetwork):
        network.mode = config.argmax
    return bundle, Facts(name, digest, bundle.kind, bundle.classes, bundle.short, bundle.long)


def _plugged(model: str) -> tuple[Bundle, str, str]:
    """(what the function returns, its name, a digest of its module and of its tensors)."""
    place, _, function = model.removeprefix(PLUGGED).partition(":")
    try:
        module = importlib.import_module(place)
        make = cast("Callable[[], Bundle]", getattr(module, function))
    except (ImportError, AttributeError) as error:
        raise WeightsUnusable(f"model={model}: {error}; write python:package.module:function") from error
    bundle = make()
    if not isinstance(bundle, Bundle):
        raise WeightsUnusable(f"model={model}: gives {type(bundle).__name__}; a models.dff.bundle.Bundle is wanted")
    digest = hashlib.sha256(Path(module.__file__).read_bytes() if module.__file__ else b"")
    for name, tensor in bundle.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return bundle, f"{place}:{function}", digest.hexdigest()


@lru_cache(maxsize=8)
def _structure(config: RecognizeConfig) -> tuple[Bundle, Facts]:
    """The model without its weights, for the driver, which computes nothing with it."""
    bundle, found = load_bundle(config)
    if not config.model.startswith(PLUGGED):  # such a function may hand out the same model again
        bundle.model.to("meta")
    return bundle, found


def facts(config: RecognizeConfig) -> Facts:
    return _structure(config)[1]


def frame_size(config: RecognizeConfig, found: Facts, height: int, width: int) -> tuple[tuple[int, int], float]:
    """((H, W) px at which the networks see a frame, its scale). Frames are never enlarged for segmentation."""
    short = found.short if config.short_side == "auto" else config.short_side
    long = found.long if config.long_side == "auto" else config.long_side
    if found.kind == "segmentation" and short and short > min(height, width):
        short = 0
    if not short and (not long or long >= max(height, width)):
        return (height, width), 1.0
    return working_size(height, width, short or min(height, width), long or max(height, width) * 64)


@dataclass(frozen=True)
class Costs:
    """Floating-point operations (two a multiply-accumulate) at one size of frame."""

    features: int
    flow: int
    """Of carrying the features of one key frame to one frame."""
    head: int

    def of(self, is_key: bool, carried: int) -> int:
        """Of one frame, to which the features of `carried` key frames are carried."""
        return self.head + (self.features if is_key else self.flow * carried)


@lru_cache(maxsize=256)
def costs(config: RecognizeConfig, height: int, width: int) -> Costs:
    """What frames of a video of this size cost the model that the configuration names."""
    bundle, found = _structure(config)
    return costs_of(bundle.model, config, *frame_size(config, found, height, width)[0])


def costs_of(model: DeepFeatureFlow, config: RecognizeConfig, high: int, wide: int) -> Costs:
    """What frames cost that the networks see at `high` x `wide` px; flow that is read from records costs nothing.

    Counted on tensors without memory: convolutions and matrix products, as the papers count.
    """
    network, flow = model.network, model.flow
    features = feature_cost(_features(network), high, wide)
    if config.flow == "records":
        each = 0
    elif isinstance(flow, FlowNet):
        each = flow_cost(flow, high, wide)
    elif isinstance(flow, MemfofFlow):
        each = flow_model.macs_of(flow.network.sizes, high, wide, config.memfof.iterations)[0]
    else:
        each = flow_cost(flow, high, wide) if isinstance(flow, nn.Module) else 0
    cells = -(-high // network.stride) * -(-wide // network.stride)
    head = network.task if isinstance(network, PaperNetwork) else None
    # Both heads are 1x1 convolutions; what networks of one's own have is not known.
    layers = [] if head is None else [module for module in head.modules() if isinstance(module, nn.Conv2d)]
    return Costs(2 * features, 2 * each, 2 * cells * sum(layer.weight.numel() for layer in layers))


def _features(network: FrameNetwork) -> nn.Module:
    return network.backbone if isinstance(network, PaperNetwork) else _FeaturesOf(network)


class _FeaturesOf(nn.Module):
    """A network's features as its forward, to be counted."""

    def __init__(self, network: FrameNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        return self.network.features(frames)


def decide_precision(config: RecognizeConfig, device: str) -> tuple[str, str]:
    """("fp32" or "bf16", why). Decided before a run, so that no clip differs from another."""
    if config.precision != "auto":
        return config.precision, "as configured"
    if device != "cpu":
        return "bf16", f"the default on {device}; coordinates, scores and boxes stay fp32"
    return "fp32", "the default on the CPU"
