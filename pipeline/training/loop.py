"""CAIN's training: its optimiser, schedule and loss, and the plateau rule that watches held-out frames."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from models import weights
from models.cain_sd import CAIN
from pipeline.training.losses import LOSSES
from pipeline.training.recipe import Recipe
from pipeline.training.sampling import Batch
from pipeline.training.start import start_as_average
from pipeline.training.trainer import BaseTrainer, Sampler, prefetch, uses_bf16

__all__ = ["Trainer", "build", "prefetch", "uses_bf16"]


class Trainer(BaseTrainer[CAIN, Batch]):
    def __init__(self, recipe: Recipe, device: torch.device | None = None) -> None:
        device = device or torch.device("cpu")
        torch.manual_seed(recipe.seed)
        super().__init__(
            build(recipe), steps=recipe.schedule.steps, average_decay=recipe.average_decay, device=device,
            bf16=uses_bf16(recipe.precision, device),
        )  # fmt: skip
        self.recipe = recipe
        optimiser, tail = recipe.optimiser, set(self.network.tail.parameters())
        body = [p for p in self.network.parameters() if p not in tail]
        self.optimiser = torch.optim.Adam(
            [{"params": body, "factor": 1.0}, {"params": list(tail), "factor": optimiser.tail_factor}],
            lr=optimiser.learning_rate, betas=optimiser.betas,
        )  # fmt: skip
        self.plateau_factor = 1.0
        self.best_loss = math.inf
        self.stale = 0

    def learning_rate(self) -> float:
        schedule = self.recipe.schedule
        rate = self.recipe.optimiser.learning_rate * min(1.0, (self.step_count + 1) / (schedule.warmup + 1))
        if schedule.kind == "cosine":
            return rate * (0.5 + 0.5 * math.cos(math.pi * self.progress))
        return rate * self.plateau_factor

    @property
    def clip_norm(self) -> float:
        return self.recipe.optimiser.clip_norm

    def skips(self, loss: float) -> bool:
        limit, first = self.recipe.optimiser.skip_above, self.first_loss
        if limit is not None and first is not None and first > 0:  # log losses can start below zero: no limit then
            return super().skips(loss) or loss > limit * first
        return super().skips(loss)

    def loss(self, network: CAIN, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            output = network(batch.frame0, batch.frame1, pad_multiple=network.shuffle)
        name = self.recipe.stage(min(self.progress, 1.0)).loss
        return LOSSES[name](output.float(), batch.middle, (batch.frame0 + batch.frame1) / 2)

    def measure(self, held_out: Sampler[Batch]) -> float:
        """Mean loss on held-out triplets, the same ones each time; tells the plateau rule about it."""
        loss = super().measure(held_out)
        schedule = self.recipe.schedule
        if loss < self.best_loss * (1 - 1e-4):
            self.best_loss, self.stale = loss, 0
        else:
            self.stale += 1
            if self.stale > schedule.plateau_patience:
                self.plateau_factor, self.stale = self.plateau_factor * schedule.plateau_factor, 0
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "plateau": (self.plateau_factor, self.best_loss, self.stale)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.plateau_factor, self.best_loss, self.stale = state["plateau"]


def build(recipe: Recipe) -> CAIN:
    """The network with which a run starts."""
    network = CAIN(**recipe.model.model_dump(exclude={"start_as_average"}))
    if recipe.model.start_as_average:
        start_as_average(network)
    if recipe.initial_weights:
        network = CAIN.from_reference(weights.load(recipe.initial_weights).tensors)
        expected = recipe.model.model_dump(exclude={"start_as_average"})
        if network.sizes != expected:
            raise ValueError(f"initial_weights {recipe.initial_weights} are of {network.sizes}; the recipe: {expected}")
    return network
