"""Batches of sets of triplets: epochs in random order, in which a triplet occurs as often as its set's `repeat` says.

A batch is a pure function of (seed, step, rank): a resumed run sees exactly the data that an uninterrupted one would.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipeline.training.flow_augmentation import augmented
from pipeline.training.flow_datasets import FlowSet
from pipeline.training.flow_recipe import FlowRecipe
from pipeline.training.flow_sampling import FlowBatch


@functools.lru_cache(maxsize=2)
def order(seed: int, epoch: int, total: int) -> npt.NDArray[np.int64]:
    """Of an epoch's examples; a batch may lie across two epochs."""
    return np.random.default_rng([seed, epoch]).permutation(total)


class DatasetSampler:
    """Draws batches by a recipe."""

    def __init__(self, sets: Sequence[FlowSet], recipe: FlowRecipe) -> None:
        self.sets, self._recipe = sets, recipe
        self.ahead = recipe.readers
        self._ends = np.cumsum([one.recipe.repeat * len(one) for one in sets])

    def __len__(self) -> int:
        """Examples an epoch."""
        return int(self._ends[-1])

    def batch(self, step: int, rank: int = 0) -> FlowBatch:
        """The batch of one process at one optimiser step."""
        recipe = self._recipe
        stage = recipe.stage(step / recipe.schedule.steps)
        number = (step * recipe.workers + rank) * stage.batch
        parts = []
        for index in range(number, number + stage.batch):
            chosen, place = self.example(index)
            rng = np.random.default_rng([recipe.seed, step, rank, index - number])
            parts.append(augmented(chosen[place], chosen.recipe, stage.crop, rng))
        return FlowBatch(*(torch.stack(part) for part in zip(*parts, strict=True)))

    def example(self, index: int) -> tuple[FlowSet, int]:
        """The set and the place in it of the run's example with this number."""
        epoch, place = divmod(index, len(self))
        drawn = int(order(self._recipe.seed, epoch, len(self))[place])
        chosen = int(np.searchsorted(self._ends, drawn, side="right"))
        one = self.sets[chosen]
        return one, (int(self._ends[chosen]) - 1 - drawn) % len(one)
