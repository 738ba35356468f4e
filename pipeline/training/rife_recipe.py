"""What a training run of a compact IFNet is: frozen, validated, from configs/train/rife_compact.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.rife.checkpoint import Sizes
from pipeline.training.recipe import DataRecipe, Fraction01, Positive, Ramp, RunRecipe, _Frozen, check_stages

Above0 = Annotated[float, Field(gt=0)]
CELL = 32
"""Pixels to a cell of the coarsest block: crops are whole numbers of them."""


class RifeModel(_Frozen):
    """IFNet's sizes; the published network's are [192, 128, 96, 64], 8, 32 and 8."""

    widths: tuple[Positive, Positive, Positive, Positive] = (128, 96, 64, 48)
    """Channels of each block, coarse to fine; even."""
    convs: Positive = 8
    """Residual convolutions in a block."""
    hidden: Positive = 16
    """Channels of the encoder."""
    features: Positive = 4
    """That it gives the blocks."""
    start_as_matcher: bool = True
    """Start with filters that compare the frames; all else is random (pipeline/training/rife_start.py)."""

    @model_validator(mode="after")
    def _even(self) -> RifeModel:
        if any(width % 2 for width in self.widths):
            raise ValueError(f"widths are {list(self.widths)}; the first convolution of a block has half of them: even")
        return self

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.widths, self.convs, self.hidden, self.features)


class RifeData(_Frozen):
    """Crops of real clips at any time between two frames; some of them lessons, with the teacher's flows."""

    lessons: Positive = 800
    """Whole frames on which the teacher runs once, before the training; each gives any number of crops."""
    largest: Positive = 420_000
    """Pixels of a lesson's frame at most: clips at a scale that makes them larger give untaught crops alone."""
    share: Ramp = Ramp(start=1.0, end=0.3, until=0.7)
    """Of a batch's real samples, those that come from lessons."""
    clips: DataRecipe = DataRecipe(scales=(1.0, 0.5), gaps={1: 0.6, 2: 0.3, 3: 0.1}, held_out=0.1)
    """Which frames. A gap of n puts the two known frames 2 n apart and asks for any of those between. Synthetic ones
    are scenes of sliding layers with exact flows; `synthetic_reach` is half of their longest way."""

    @model_validator(mode="after")
    def _measurable(self) -> RifeData:
        if not self.clips.held_out:
            raise ValueError("data.clips.held_out is 0; the run is measured on frames that it never sees: 0.05 or more")
        return self


class RifeStage(_Frozen):
    """Crops up to a point of the run."""

    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the run's steps at which the stage ends."""
    crop: Positive = 192
    """Pixels, a multiple of 32."""
    batch: Positive = 8
    """Samples a process and step."""
    blocks: Annotated[int, Field(ge=1, le=4)] = 4
    """That are trained, the coarse ones first: the fourth takes half of a step's time and adds the least."""

    @model_validator(mode="after")
    def _whole(self) -> RifeStage:
        if self.crop % CELL:
            raise ValueError(f"crop {self.crop} is no multiple of {CELL}, a cell of the first block")
        return self


class RifeLoss(_Frozen):
    """The picture's at each exit against the real frame, and the flows' against the teacher's."""

    exits: tuple[Fraction01, Fraction01, Fraction01, Fraction01] = (0.1, 0.2, 0.4, 1.0)
    """Weight of each exit, in both parts; while the last n blocks are not trained yet, of those n exits earlier."""
    flow: Ramp = Ramp(start=0.3, end=0.003, until=0.7)
    """Weight of the flows' distance in px. Of a teacher's, only pixels count where its picture is nearer to the real
    frame than the student's."""


class RifeOptimiser(_Frozen):
    learning_rate: Above0 = 8e-4
    """AdamW's; rises over the warm-up, then falls to 0 along a cosine."""
    betas: tuple[Fraction01, Fraction01] = (0.9, 0.99)
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip_norm: Above0 = 1.0
    """Gradient norm."""


class RifeSchedule(_Frozen):
    steps: Positive
    """Optimiser steps in all."""
    warmup: Annotated[int, Field(ge=0)] = 200
    """Steps of linear warm-up."""


class RifeRecipe(RunRecipe):
    network: Literal["rife"]
    teacher: str = "rife-4.14"
    """Name or URI of the IFNet whose flows are learned from (`jobs/weights.py fetch rife-4.14`)."""
    model: RifeModel = RifeModel()
    data: RifeData = RifeData()
    stages: tuple[RifeStage, ...] = (RifeStage(),)
    loss: RifeLoss = RifeLoss()
    optimiser: RifeOptimiser = RifeOptimiser()
    schedule: RifeSchedule
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay a step of the averaged weights that are measured and exported; 0 is none."""

    @model_validator(mode="after")
    def _consistent(self) -> RifeRecipe:
        check_stages([stage.until for stage in self.stages])
        return self

    def stage(self, progress: float) -> RifeStage:
        return next(stage for stage in self.stages if progress < stage.until or stage.until == 1.0)

    @property
    def largest_crop(self) -> int:
        return max(stage.crop for stage in self.stages)
