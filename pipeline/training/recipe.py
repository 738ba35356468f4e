"""What a training run is: frozen, validated, read from configs/train/*.yaml. Every key has a default and a unit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction01 = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelRecipe(_Frozen):
    """CAIN's sizes."""

    channels: Positive = 192
    rcabs: Positive = 12
    groups: Positive = 5
    shuffle: Literal[2, 4, 8] = 8
    reduction: Positive = 16
    start_as_average: bool = False
    """Initialise so that the first output is exactly the frame average; needs channels >= 3 * shuffle**2."""

    @model_validator(mode="after")
    def _wide_enough(self) -> ModelRecipe:
        if self.start_as_average and self.channels < 3 * self.shuffle**2:
            raise ValueError(f"start_as_average needs channels >= {3 * self.shuffle**2}; found {self.channels}")
        return self


class Ramp(_Frozen):
    """A value that changes linearly from `start` to `end` during the first `until` of the run, then stays."""

    start: float
    end: float
    until: Annotated[float, Field(gt=0, le=1)] = 1.0

    def at(self, progress: float) -> float:
        return self.start + (self.end - self.start) * min(1.0, progress / self.until)


class DataRecipe(_Frozen):
    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1.0,)
    """Of the clips' own size: smaller ones are sharper and move less."""
    gaps: dict[Positive, float] = {1: 1.0}
    """Frames from an end to the middle: weight."""
    clip_weights: dict[str, float] = {}
    """File name: weight; 1 where absent."""
    seek_motion: bool = False
    """Choose crops by how much moves in them."""
    synthetic: Ramp = Ramp(start=0.0, end=0.0)
    """Share of triplets made by moving stills."""
    synthetic_reach: Ramp = Ramp(start=8.0, end=8.0)
    """Pixels that a still moves from an end to the middle, at most."""
    colour_jitter: Fraction01 = 0.0
    """Brightness, contrast, saturation (factors 1 ± this) and hue (turn); one draw for all three frames."""
    transpose: bool = False
    """Swap rows and columns with probability one half; mirroring and temporal swap always happen so."""
    align: bool = False
    """Give the network frames in which most of the motion is gone (models/alignment.py), as the job does with it."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Last share of each clip's frames, kept from training and used to measure it."""


class Stage(_Frozen):
    """Crops and loss up to a point of the run."""

    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the run's steps at which the stage ends."""
    crop: Positive = 256
    """Pixels, a multiple of the model's shuffle."""
    batch: Positive = 16
    """Triplets a process and step."""
    loss: Literal["l1", "mse", "charbonnier", "relative", "log_mse"] = "l1"


class OptimiserRecipe(_Frozen):
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Adam's."""
    betas: tuple[Fraction01, Fraction01] = (0.9, 0.99)
    tail_factor: Annotated[float, Field(gt=0)] = 1.0
    """Of the learning rate, for the tail convolution: it writes pixels directly."""
    clip_norm: Annotated[float, Field(gt=0)] = 0.1
    """Gradient norm."""
    skip_above: Annotated[float, Field(gt=1)] | None = 10.0
    """Skip steps whose loss exceeds this times the very first loss."""


class ScheduleRecipe(_Frozen):
    kind: Literal["cosine", "plateau"] = "plateau"
    steps: Positive
    """Optimiser steps in all."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    plateau_patience: Annotated[int, Field(ge=0)] = 5
    """Evaluations without improvement before the rate falls."""


class RunRecipe(_Frozen):
    """How any network is trained: processes, arithmetic, reports."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 where the device computes in it."""
    seed: int = 12345
    workers: Positive = 1
    """Processes; each takes a batch of its own a step."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    threads: Positive = 2
    """CPU threads of each process."""
    report_every: Positive = 500
    """Steps between two measurements, each with a checkpoint."""
    keep_checkpoints: Positive = 2


def check_stages(ends: list[float]) -> None:
    """Raises ValueError unless the stages' shares of the run rise to its end."""
    if not ends or ends != sorted(set(ends)) or ends[-1] != 1.0:
        raise ValueError(f"stages end at {ends}; `until` must rise to 1.0")


class Recipe(RunRecipe):
    model: ModelRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    stages: tuple[Stage, ...] = (Stage(),)
    optimiser: OptimiserRecipe = OptimiserRecipe()
    schedule: ScheduleRecipe
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay a step of the averaged weights that are measured and exported; 0 is none."""
    initial_weights: str | None = None
    """Name or URI of weights to start from (models/weights.py)."""

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        check_stages([stage.until for stage in self.stages])
        crops = [stage.crop for stage in self.stages if stage.crop % self.model.shuffle]
        if crops:
            raise ValueError(f"crops {crops} are no multiples of the model's shuffle {self.model.shuffle}")
        if self.schedule.kind == "plateau" and not self.data.held_out:
            raise ValueError("schedule.kind=plateau needs data.held_out > 0: it watches the loss on held-out frames")
        return self

    def stage(self, progress: float) -> Stage:
        return next(stage for stage in self.stages if progress < stage.until or stage.until == 1.0)

    @property
    def largest_crop(self) -> int:
        return max(stage.crop for stage in self.stages)
