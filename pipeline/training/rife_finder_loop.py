"""RIFE's finder: its training, by the errors that IFNet was measured to make on crops of real clips.

At first the logarithms of the errors are learned; then, beside them, the decisions: what a choice by the predicted
errors at a random price loses against the best one, in dB of the crop's PSNR and in charged arithmetic.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.rife.cost import NATIVE, block_macs
from models.rife.finder import DECIBEL, EXITS, FLOOR, STAGES, Finder
from pipeline.training.rife_finder_lessons import FinderBatch
from pipeline.training.rife_finder_recipe import FinderRecipe
from pipeline.training.trainer import BaseTrainer

QUIET = 1e-6
"""Mean squared error (60 dB) below which errors are all the same."""


class FinderTrainer(BaseTrainer[Finder, FinderBatch]):
    def __init__(self, recipe: FinderRecipe, device: torch.device | None = None) -> None:
        torch.manual_seed(recipe.seed)
        super().__init__(
            _start(), steps=recipe.schedule.steps, average_decay=recipe.average_decay,
            device=device or torch.device("cpu"), bf16=False,
        )  # fmt: skip
        self.recipe = recipe
        self.optimiser = torch.optim.Adam(
            [{"params": list(self.network.parameters()), "factor": 1.0}], lr=recipe.optimiser.learning_rate
        )
        macs = [block_macs(index, scale) for index, scale in enumerate(NATIVE)]
        self._costs = torch.tensor([sum(macs[: k + 1]) / sum(macs) for k in range(EXITS)], device=self.device)

    def learning_rate(self) -> float:
        return self.recipe.optimiser.learning_rate * (0.5 + 0.5 * math.cos(math.pi * min(1.0, self.progress)))

    @property
    def clip_norm(self) -> float:
        return self.recipe.optimiser.clip_norm

    def loss(self, network: Finder, batch: FinderBatch) -> Tensor:
        total = batch.errors.new_zeros(())
        for stage, seen in zip(STAGES, batch.evidence, strict=True):
            errors = batch.errors[:, stage - 1 :]
            predicted = network(seen, stage)
            total = total + distance(predicted, errors)
            if self.recipe.loss.regret and self.progress >= self.recipe.loss.after:
                total = total + self.recipe.loss.regret * self._regret(predicted, errors, self._costs[stage - 1 :])
        return total

    def _regret(self, predicted: Tensor, errors: Tensor, costs: Tensor) -> Tensor:
        low, high = (math.log(price) for price in self.recipe.loss.prices)
        steps = torch.linspace(low, high, len(errors), device=errors.device)
        price = steps.exp()[:, None, None, None] * costs[None, :, None, None]  # the same ones in every batch
        real = shares(errors) + price
        chosen = torch.softmax(-(shares(predicted.exp()) + price) / self.recipe.loss.softness, 1)
        return ((chosen * real).sum(1) - real.amin(1)).mean()


def distance(predicted: Tensor, errors: Tensor) -> Tensor:
    """Of logarithms; what one exit adds to another counts for more than the level of all."""
    real = errors.clamp_min(QUIET).log()
    level = F.smooth_l1_loss(predicted, real)
    steps = F.smooth_l1_loss(predicted.diff(dim=1), real.diff(dim=1), beta=0.2)
    return level / 4 + steps


def shares(errors: Tensor) -> Tensor:
    """dB that each patch's error costs its crop, to first order; [N,exits,rows,columns] of mean squared errors."""
    frame = errors[:, -1:].mean((2, 3), keepdim=True).clamp_min(FLOOR)
    return DECIBEL * errors / frame


def _start() -> Finder:
    finder = Finder()
    for stage in STAGES:
        last = getattr(finder, f"stage{stage}").conv3
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
            last.bias[-1] = -7.0  # 30 dB
    return finder
