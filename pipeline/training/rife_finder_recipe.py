"""What a training run of RIFE's finder is: frozen, validated, from configs/train/rife_finder.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.rife.finder import PATCH
from pipeline.training.recipe import DataRecipe, Fraction01, Positive, _Frozen

Above0 = Annotated[float, Field(gt=0)]


class FinderData(_Frozen):
    """The lessons: crops of real clips, on which all four blocks run once."""

    lessons: Positive = 1500
    """Crops; the last tenth of each clip's frames is kept for measuring, on a tenth as many."""
    crop: Positive = 320
    """Pixels, a multiple of 64."""
    clips: DataRecipe = DataRecipe(scales=(1.0,), gaps={1: 0.6, 2: 0.4}, held_out=0.1)
    """Which frames: `scales`, `gaps`, `clip_weights`, `transpose` and `held_out` are heeded. A gap of n puts the
    two known frames 2 n apart and asks for any of those between."""

    @model_validator(mode="after")
    def _whole(self) -> FinderData:
        if self.crop % PATCH:
            raise ValueError(f"crop {self.crop} is no multiple of the finder's patches, {PATCH}")
        return self


class FinderLoss(_Frozen):
    """Distance of the predicted errors' logarithms, then also what the decisions made by them lose."""

    regret: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the second."""
    after: Fraction01 = 0.3
    """Share of the run after which it counts."""
    prices: tuple[Above0, Above0] = (0.02, 5.0)
    """dB for the whole network's arithmetic: between these, evenly in the logarithm."""
    softness: Above0 = 0.05
    """Temperature of the choice that is learned through, dB."""


class FinderOptimiser(_Frozen):
    learning_rate: Above0 = 2e-3
    """Adam's; falls to 0 along a cosine."""
    clip_norm: Above0 = 1.0
    batch: Positive = 16
    """Lessons a step and process."""


class FinderSchedule(_Frozen):
    steps: Positive
    """Optimiser steps in all."""


class FinderRecipe(_Frozen):
    network: Literal["rife-finder"]
    backbone: str = "rife-4.14"
    """Name or URI of the IFNet whose errors are learned."""
    data: FinderData = FinderData()
    loss: FinderLoss = FinderLoss()
    optimiser: FinderOptimiser = FinderOptimiser()
    schedule: FinderSchedule
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay a step of the averaged weights that are measured and exported; 0 is none."""
    seed: int = 12345
    workers: Positive = 1
    """Processes; each takes a batch of its own a step."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    threads: Positive = 1
    """CPU threads of each process."""
    report_every: Positive = 250
    """Steps between two measurements, each with a checkpoint."""
    keep_checkpoints: Positive = 2
