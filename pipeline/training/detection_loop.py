"""Deep Feature Flow's training for detection: key frame, frames near it and the boxes of all, end to end.

As for segmentation (segmentation_loop.py): gradients go from the current frames' boxes through the head, the warp and
the scale into the flow network, and through the key frame's features into the feature network.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models import weights
from models.dff import DeepFeatureFlow, DenseHead, FlowNet, PaperNetwork, ResNetV2, subtract_mean, warp
from models.dff.bundle import Bundle, pack
from pipeline.training.detection_loss import detection_loss
from pipeline.training.detection_recipe import DetectionRecipe
from pipeline.training.detection_sampling import DetectionBatch, DetectionSampler
from pipeline.training.segmentation_loop import (
    CALIBRATION,
    choose_trained,
    collected,
    flow_loss,
    load_whole,
    optimiser_of,
    rate_of,
)
from pipeline.training.trainer import BaseTrainer, uses_bf16

FAINT = 0.1  # factor on the weights of neighbourhoods that a start lacks


class DetectionNetwork(nn.Module):
    """The whole model, trainable: batch norms not folded."""

    def __init__(self, recipe: DetectionRecipe, classes: tuple[str, ...]) -> None:
        super().__init__()
        sizes = recipe.model
        self.classes, self.sides = classes, (recipe.short_side, recipe.long_side)
        self.features = ResNetV2(sizes.width)
        channels = self.features.channels
        self.head = DenseHead(len(classes), channels, sizes.head_width, sizes.head_contexts)
        self.flow = FlowNet(sizes.flow_width, channels if sizes.scale else None)

    def forward(self, batch: DetectionBatch) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(logits, boxes) of key frames and current frames, [N*(1+K),.,h,w], each key frame before its followers; and
        FlowNet's flows [N*K,2,.,.]."""
        pairs, followers = batch.views.flatten(0, 1), batch.views.shape[1]
        features = self.features(batch.keys).float()
        keys = batch.keys.repeat_interleave(followers, 0)
        with collected(self.flow) as flows:
            flow, scale = self.flow(subtract_mean(pairs), subtract_mean(keys))
        scale = None if scale is None else scale.float()
        carried = warp(features.repeat_interleave(followers, 0), flow, scale)
        all_features = torch.cat([features[:, None], carried.reshape(-1, followers, *carried.shape[1:])], 1)
        logits, boxes = self.head.raw(all_features.flatten(0, 1))
        return logits, boxes, flows

    def bundle(self) -> Bundle:
        model = DeepFeatureFlow(PaperNetwork(self.features, self.head), self.flow)
        return Bundle(model, "detection", self.classes, *self.sides)

    def to_reference(self) -> dict[str, Tensor]:
        return pack(self.bundle())[0]

    def metadata(self) -> dict[str, str]:
        return pack(self.bundle())[1]


class DetectionTrainer(BaseTrainer[DetectionNetwork, DetectionBatch]):
    """sampler: calibrates the head's norm; None: weights will be loaded."""

    def __init__(
        self,
        recipe: DetectionRecipe,
        classes: tuple[str, ...],
        device: torch.device | None = None,
        sampler: DetectionSampler | None = None,
    ) -> None:
        device = device or torch.device("cpu")
        torch.manual_seed(recipe.seed)
        super().__init__(
            build(recipe, classes, sampler), steps=recipe.schedule.steps, average_decay=recipe.average_decay,
            device=device, bf16=uses_bf16(recipe.precision, device),
        )  # fmt: skip
        self.recipe = recipe
        choose_trained(self.network, recipe)
        self.optimiser = optimiser_of(self.network, recipe.optimiser)

    def learning_rate(self) -> float:
        return rate_of(self.recipe.optimiser, self.step_count, self.progress)

    @property
    def clip_norm(self) -> float:
        return self.recipe.optimiser.clip_norm

    def loss(self, network: DetectionNetwork, batch: DetectionBatch) -> Tensor:
        """Of all frames alike, and the flow's distance to made scenes' motion."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits, boxes, flows = network(batch)
        recipe = self.recipe
        loss = detection_loss(
            logits, boxes, batch.objects.flatten(0, 1), recipe.data.sure, recipe.loss.boxes, recipe.loss.places
        )
        if recipe.loss.flow:
            loss = loss + recipe.loss.flow * flow_loss(flows, batch.flow.flatten(0, 1))
        return loss


def build(
    recipe: DetectionRecipe, classes: tuple[str, ...], sampler: DetectionSampler | None = None
) -> DetectionNetwork:
    """The network with which a run starts."""
    network = DetectionNetwork(recipe, classes)
    if sampler is None:
        return network
    if recipe.initial_weights:
        load_start(network, recipe.initial_weights)
    else:
        if recipe.initial_features:
            tensors = weights.load(recipe.initial_features).tensors
            network.features = ResNetV2.from_reference(tensors, folded=False)
        calibrate(network, (sampler.batch(step) for step in range(CALIBRATION)))
    return network


@torch.no_grad()
def load_start(network: DetectionNetwork, name: str) -> None:
    """A whole model to go on from, whose head may see fewer neighbourhoods: the others start with little effect.

    Raises KeyError or RuntimeError where the file's model is another.
    """
    given = weights.load(name).tensors
    own = {key.removeprefix("head."): given[key] for key in given if key.startswith("head.")}
    ours, network.head = network.head, DenseHead.from_reference(own)
    load_whole(network, name)
    known = network.head.state_dict()
    added = {key: FAINT * value for key, value in ours.state_dict().items() if key not in known}
    ours.load_state_dict({**added, **known})
    network.head = ours


@torch.no_grad()
def calibrate(network: DetectionNetwork, batches: Iterator[DetectionBatch]) -> None:
    """The statistics that the head's norm keeps: of the starting features."""
    features = torch.cat(
        [network.eval().features(batch.keys).flatten(2).transpose(0, 1).flatten(1) for batch in batches], 1
    )
    norm = network.head.norm
    norm.running_mean.copy_(features.mean(1))
    norm.running_var.copy_(features.var(1))
