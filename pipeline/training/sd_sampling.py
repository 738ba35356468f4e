"""Data for CAIN-SD: crops that know the size of their frame, and whole frames with the patches of inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.cain_sd.cost import SCALES
from pipeline.training.clips import Clip
from pipeline.training.sampling import Batch, TripletSampler, aligned, flip
from pipeline.training.sd_recipe import SDRecipe

HELD_OUT = 1 << 20  # keys of held-out frames begin here


class SDBatch(NamedTuple):
    frame0: Tensor  # [N,3,H,W] RGB 0..1
    middle: Tensor
    frame1: Tensor
    short_sides: tuple[int, ...]  # of the frames that the triplets were cut from: what the finder's small frames go by
    key: int  # of whole frames: which one, unlike any other's; crops have -1
    step: int
    rank: int

    def to(self, device: torch.device) -> SDBatch:
        return self._replace(
            frame0=self.frame0.to(device, non_blocking=True), middle=self.middle.to(device, non_blocking=True),
            frame1=self.frame1.to(device, non_blocking=True),
        )  # fmt: skip


class SDSampler:
    """Crops as CAIN's training takes them; in the finder's phases whole frames, from a pool that is gone through."""

    def __init__(self, clips: Sequence[Clip], recipe: SDRecipe, *, held_out: bool = False) -> None:
        self._recipe = recipe
        self._crops = TripletSampler(clips, recipe, held_out=held_out)
        self._multiple = recipe.model.shuffle * max(SCALES)
        self._first = HELD_OUT if held_out else 0

    def batch(self, step: int, rank: int = 0) -> SDBatch:
        """The batch of one process at one optimiser step: always the same."""
        phase, first = self._recipe.phase_at(step)
        if phase.kind == "finder":
            key = self._first + (step - first) % phase.frames
            batch, side = self._frames(key, rank)
            return SDBatch(*batch, (side,), key, step, rank)
        batch, sides = self._crops.draw(step, rank)
        return SDBatch(*batch, tuple(sides), -1, step, rank)

    def _frames(self, key: int, rank: int) -> tuple[Batch, int]:
        """One triplet of whole frames, cut at the right and the bottom to what every scale can work on."""
        rng = np.random.default_rng([self._recipe.seed, 1 << 16, rank, key])
        source, start = self._crops.pick(rng)
        frames = source.clip.frames[start : start + 2 * source.gap + 1 : source.gap]
        height, width = (side // self._multiple * self._multiple for side in frames.shape[1:3])
        frames = flip(frames[:, :height, :width], rng, transpose=False)
        scaled = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float().div_(255)
        if self._recipe.data.align:
            scaled = aligned(scaled)
        return Batch(*scaled[:, None]), min(height, width)
