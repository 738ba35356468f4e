"""MEMFOF's training: AdamW on one cycle, the sequence loss (specs 12), BatchNorm trained or frozen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models import weights
from models.memfof import MEMFOF
from pipeline.training.flow_loss import training_loss
from pipeline.training.flow_recipe import FlowRecipe
from pipeline.training.flow_sampling import FlowBatch
from pipeline.training.flow_start import start_calibrated
from pipeline.training.trainer import BaseTrainer, Sampler, uses_bf16

EXTRA_STEPS = 100  # of the cycle beyond the run: the rate never reaches zero


class FlowTrainer(BaseTrainer[MEMFOF, FlowBatch]):
    """sampler: gives the batch that calibrates the start, where the recipe asks for it; None keeps random weights."""

    def __init__(
        self, recipe: FlowRecipe, device: torch.device | None = None, sampler: Sampler[FlowBatch] | None = None
    ) -> None:
        device = device or torch.device("cpu")
        torch.manual_seed(recipe.seed)
        super().__init__(
            build(recipe, sampler), steps=recipe.schedule.steps, average_decay=recipe.average_decay, device=device,
            bf16=uses_bf16(recipe.precision, device),
        )  # fmt: skip
        self.recipe = recipe
        optimiser = recipe.optimiser
        self.optimiser = torch.optim.AdamW(
            [{"params": list(self.network.parameters()), "factor": 1.0}],
            lr=optimiser.learning_rate, betas=optimiser.betas, eps=optimiser.eps, weight_decay=optimiser.weight_decay,
        )  # fmt: skip

    def learning_rate(self) -> float:
        """One cycle: up on the first share of the steps, then down to almost nothing, linearly."""
        schedule, top = self.recipe.schedule, self.recipe.optimiser.learning_rate
        rising, whole = schedule.rise * schedule.steps, schedule.steps + EXTRA_STEPS
        if self.step_count < rising:
            return top * (self.step_count + 1) / (rising + 1)
        return top * (whole - self.step_count) / (whole - rising)

    @property
    def clip_norm(self) -> float:
        return self.recipe.optimiser.clip_norm

    def loss(self, network: MEMFOF, batch: FlowBatch) -> Tensor:
        progress = min(self.progress, 1.0)
        iterations = self.recipe.stage(progress).iterations
        if self.recipe.batch_norm == "frozen":
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()  # its scale and shift are trained all the same
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return training_loss(network, batch, iterations, self.recipe.loss, progress)


def build(recipe: FlowRecipe, sampler: Sampler[FlowBatch] | None = None) -> MEMFOF:
    """The network with which a run starts."""
    network = MEMFOF(recipe.model.sizes)
    if recipe.model.start_calibrated and sampler is not None:
        start_calibrated(network, sampler.batch(0))
    if recipe.initial_weights:
        start = MEMFOF.from_reference(weights.load(recipe.initial_weights).tensors)
        if start.sizes != recipe.model.sizes:
            raise ValueError(
                f"initial_weights {recipe.initial_weights} are of {start.sizes}; the recipe: {recipe.model.sizes}"
            )
        for part in recipe.initial_parts or ("",):
            network.get_submodule(part).load_state_dict(start.get_submodule(part).state_dict())
    return network
