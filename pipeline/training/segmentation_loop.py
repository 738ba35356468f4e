"""Deep Feature Flow's training: key frame, current frame and its label, end to end (specs/dff.md, section 7).

Gradients go from the labels of current frames through the head, the warp and the scale into the flow network, and
through the key frame's features into the feature network. Batch norms use stored statistics throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import weights
from models.dff import DeepFeatureFlow, FlowNet, PaperNetwork, ResNetV2, SegHead, subtract_mean, warp
from models.dff.bundle import Bundle, pack
from models.dff.fine_head import FineHead
from pipeline.training.segmentation_recipe import (
    Part,
    SegmentationLossRecipe,
    SegmentationOptimiser,
    SegmentationRecipe,
)
from pipeline.training.segmentation_sampling import IGNORED, PairSampler, SegmentationBatch
from pipeline.training.trainer import BaseTrainer, uses_bf16

CALIBRATION = 8  # batches
LEVELS = ("Convolution1", "Convolution2", "Convolution3", "Convolution4", "Convolution5")
FLOW_UNIT = 40.0  # px of the frame that one unit of FlowNet's own flows is: 20 half-size px


class SegmentationNetwork(nn.Module):
    """The whole model, trainable: batch norms not folded."""

    def __init__(self, recipe: SegmentationRecipe) -> None:
        super().__init__()
        sizes = recipe.model
        self.classes, self.sides = recipe.classes, (recipe.short_side, recipe.long_side)
        self.features = ResNetV2(sizes.width)
        channels, count = self.features.channels, len(recipe.classes)
        self.head = (
            FineHead(count, channels, sizes.head_width)
            if sizes.head == "fine"
            else SegHead(count, channels, placement="cells")
        )
        self.flow = FlowNet(sizes.flow_width, channels if sizes.scale else None)

    def forward(self, batch: SegmentationBatch, loss: SegmentationLossRecipe) -> Outcome:
        """What the loss weighs, and nothing else."""
        followers, found = batch.views.shape[1], Outcome()
        if loss.views or loss.flow:
            keys = batch.keys.repeat_interleave(followers, 0)
            with collected(self.flow) as found.flows:
                flow, scale = self.flow(subtract_mean(batch.views.flatten(0, 1)), subtract_mean(keys))
        if not (loss.keys or loss.views):
            return found
        features = self.features(batch.keys).float()
        shown = [features] if loss.keys else []
        if loss.views:
            scale = None if scale is None else scale.float()
            shown.append(warp(features.repeat_interleave(followers, 0), flow, scale))
        scores = torch.split(self.head(torch.cat(shown)), [len(part) for part in shown])
        found.of_keys = scores[0] if loss.keys else None
        found.of_views = scores[-1] if loss.views else None
        return found

    def bundle(self) -> Bundle:
        model = DeepFeatureFlow(PaperNetwork(self.features, self.head), self.flow)
        return Bundle(model, "segmentation", self.classes, *self.sides)

    def to_reference(self) -> dict[str, Tensor]:
        return pack(self.bundle())[0]

    def metadata(self) -> dict[str, str]:
        return pack(self.bundle())[1]


@dataclass
class Outcome:
    of_keys: Tensor | None = None  # scores [N,classes,h,w]
    of_views: Tensor | None = None  # scores [N*K,classes,h,w]
    flows: list[Tensor] = field(default_factory=list)  # FlowNet's, [N*K,2,·,·] each


class collected:  # used like a function
    """Gathers what FlowNet's flow layers give, coarse to fine, while it runs."""

    def __init__(self, flow: FlowNet) -> None:
        self._flow, self._found = flow, list[Tensor]()

    def __enter__(self) -> list[Tensor]:
        self._hooks = [
            getattr(self._flow, level).register_forward_hook(lambda *call: self._found.append(call[2]))
            for level in LEVELS
        ]
        return self._found

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


class SegmentationTrainer(BaseTrainer[SegmentationNetwork, SegmentationBatch]):
    """sampler: tells the classes' frequencies and calibrates the head's norm; None: weights will be loaded."""

    def __init__(
        self, recipe: SegmentationRecipe, device: torch.device | None = None, sampler: PairSampler | None = None
    ) -> None:
        device = device or torch.device("cpu")
        torch.manual_seed(recipe.seed)
        super().__init__(
            build(recipe, sampler), steps=recipe.schedule.steps, average_decay=recipe.average_decay, device=device,
            bf16=uses_bf16(recipe.precision, device),
        )  # fmt: skip
        self.recipe = recipe
        self.balance = torch.ones(len(recipe.classes), device=device)
        if sampler is not None:
            weight = sampler.frequencies().clamp(min=1e-3).pow(-recipe.loss.balance)
            self.balance = (weight / weight.mean()).float().to(device)
        choose_trained(self.network, recipe)
        self.optimiser = optimiser_of(self.network, recipe.optimiser)

    def learning_rate(self) -> float:
        return rate_of(self.recipe.optimiser, self.step_count, self.progress)

    @property
    def clip_norm(self) -> float:
        return self.recipe.optimiser.clip_norm

    def loss(self, network: SegmentationNetwork, batch: SegmentationBatch) -> Tensor:
        """Cross-entropy of key frames and of current frames, and the flow's distance to the made motion."""
        recipe = self.recipe.loss
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            found = network(batch, recipe)
        loss = torch.zeros((), device=self.device)
        if found.of_keys is not None:
            loss = loss + recipe.keys * self.cross_entropy(found.of_keys, batch.key_labels)
        if found.of_views is not None:
            loss = loss + recipe.views * self.cross_entropy(found.of_views, batch.labels.flatten(0, 1))
        if recipe.flow:
            loss = loss + recipe.flow * flow_loss(found.flows, batch.flow.flatten(0, 1))
        return loss

    def cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Of scores [N,C,h,w] with the label near the middle of each of their cells. Labels [N,H,W]."""
        step = labels.shape[-1] // scores.shape[-1]
        # The middle is between pixels: of two rows and two columns, another one each step.
        row, column = (step // 2 - (self.step_count >> bit & 1) for bit in (0, 1))
        labels = labels[:, row::step, column::step].long()
        labels = labels.masked_fill(labels >= scores.shape[1], IGNORED)
        return F.cross_entropy(scores.float(), labels, self.balance, ignore_index=IGNORED)


def flow_loss(flows: list[Tensor], target: Tensor) -> Tensor:
    """Mean distance in cells of 16 px between FlowNet's flows, coarse to fine, and the motion [N,2,H,W] px.

    Only where the motion stays inside the key frame; the last flow counts in full, the others a quarter.
    """
    height, width = target.shape[-2:]
    x = torch.arange(width, device=target.device) + target[:, 0]
    y = torch.arange(height, device=target.device)[:, None] + target[:, 1]
    inside = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).float()[:, None]
    total = target.new_zeros(())
    for level, flow in enumerate(flows):
        size = (flow.shape[-2], flow.shape[-1])
        wanted = F.adaptive_avg_pool2d(target, size)
        weight = F.adaptive_avg_pool2d(inside, size)[:, 0]
        distance = (flow.float() * FLOW_UNIT - wanted).square().sum(1).add(1e-2).sqrt() / 16
        share = 1.0 if level == len(flows) - 1 else 0.25
        total = total + share * (distance * weight).sum() / weight.sum().clamp(min=1)
    return total


def rate_of(optimiser: SegmentationOptimiser, step: int, progress: float) -> float:
    """The learning rate at a step, `progress` of the run's steps done."""
    rate = optimiser.learning_rate * min(1.0, (step + 1) / (optimiser.warmup + 1))
    if optimiser.schedule == "steps":
        return rate if progress < 0.75 else rate / 10
    return rate * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))


def optimiser_of(network: nn.Module, recipe: SegmentationOptimiser) -> torch.optim.Optimizer:
    """Over the parts that learn; a group's `factor` is on the learning rate."""
    groups = [
        {"params": [p for p in getattr(network, part).parameters() if p.requires_grad], "factor": factor}
        for part, factor in (("features", recipe.features_factor), ("flow", 1.0), ("head", 1.0))
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.kind == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(groups, recipe.learning_rate, (recipe.momentum, 0.99), weight_decay=recipe.weight_decay)


class Trainable(Protocol):
    """A recipe that says what learns."""

    @property
    def trained(self) -> tuple[Part, ...]: ...
    @property
    def frozen_stages(self) -> int: ...


class Whole(Protocol):
    """A network of the three parts."""

    features: ResNetV2
    flow: FlowNet
    head: Any


def choose_trained(network: Whole, recipe: Trainable) -> None:
    """Leave parts and stages that do not learn without gradients."""
    for part in ("features", "flow", "head"):
        getattr(network, part).requires_grad_(part in recipe.trained)
    frozen: list[nn.Module] = [network.features.bn0, network.features.stem]
    frozen += list(network.features.stages[: recipe.frozen_stages])
    for module in frozen:
        module.requires_grad_(False)
    if network.flow.Convolution5_scale is not None:
        cast("Tensor", network.flow.Convolution5_scale.bias).requires_grad_(False)  # as published


def build(recipe: SegmentationRecipe, sampler: PairSampler | None = None) -> SegmentationNetwork:
    """The network with which a run starts."""
    network = SegmentationNetwork(recipe)
    if sampler is None:
        return network
    if recipe.initial_weights:
        load_whole(network, recipe.initial_weights)
    else:
        if recipe.initial_features:
            tensors = weights.load(recipe.initial_features).tensors
            network.features = ResNetV2.from_reference(tensors, folded=False)
        if isinstance(network.head, FineHead):
            calibrate(network, (sampler.batch(step) for step in range(CALIBRATION)))
    if recipe.initial_flow:
        load_flow(network.flow, recipe.initial_flow)
    return network


def load_whole(network: Whole, name: str) -> None:
    """Raises KeyError or RuntimeError where the file's model is another."""
    found = weights.load(name)
    given: dict[str, dict[str, Tensor]] = {"features": {}, "flow": {}, "head": {}}
    for tensor, value in found.tensors.items():
        part, _, rest = tensor.partition(".")
        given[part][rest] = value
    network.features = ResNetV2.from_reference(given["features"], folded=False)
    for part, kind in (("flow", FlowNet), ("head", type(network.head))):
        ours: nn.Module = getattr(network, part)
        loaded: nn.Module = kind.from_reference(given[part])
        ours.load_state_dict(loaded.state_dict())


def load_flow(flow: FlowNet, name: str) -> None:
    """All but the scale field, which stays as it starts. Raises KeyError or RuntimeError for a network of other sizes.

    The paper's flow network starts so: it learned on Flying Chairs, where nothing is scaled.
    """
    found = weights.load(name).tensors
    own = {tensor.removeprefix("flow."): value for tensor, value in found.items() if tensor.startswith("flow.")}
    loaded = FlowNet.from_reference(own).state_dict()
    kept = {key: value for key, value in flow.state_dict().items() if key.startswith("Convolution5_scale")}
    flow.load_state_dict({**{key: value for key, value in loaded.items() if "_scale" not in key}, **kept})


@torch.no_grad()
def calibrate(network: SegmentationNetwork, batches: Iterator[SegmentationBatch]) -> None:
    """The statistics that the head's norm keeps: of the starting features."""
    features = torch.cat(
        [network.eval().features(batch.keys).flatten(2).transpose(0, 1).flatten(1) for batch in batches], 1
    )
    norm = cast("FineHead", network.head).norm
    norm.running_mean.copy_(features.mean(1))
    norm.running_var.copy_(features.var(1))
