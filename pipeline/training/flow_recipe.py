"""What a training run of MEMFOF is: frozen, validated, read from configs/train/memfof_*.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.memfof import Sizes
from pipeline.training.recipe import Fraction01, Positive, Ramp, RunRecipe, _Frozen, check_stages

NonNegative = Annotated[float, Field(ge=0)]


class FlowModelRecipe(_Frozen):
    """MEMFOF's sizes; the published network by default."""

    dim: Positive = 512
    widths: tuple[Positive, Positive, Positive] = (64, 128, 256)
    blocks: tuple[Positive, Positive, Positive] = (3, 4, 6)
    refine_blocks: Positive = 2
    corr_levels: Positive = 4
    corr_radius: Positive = 4
    start_calibrated: bool = False
    """Begin with centred features whose correlations have unit spread, and refinement blocks that count at once."""

    @property
    def sizes(self) -> Sizes:
        return Sizes(**self.model_dump(exclude={"start_calibrated"}))


class MotionRecipe(_Frozen):
    """Scenes made on the fly (flow_scene.py). Lengths in px of the crop, angles in radians."""

    reach: Ramp = Ramp(start=40.0, end=40.0)
    """Largest translation of the background a frame; drawn evenly by its logarithm from 0.2 px."""
    objects: Annotated[int, Field(ge=0)] = 5
    """Foreground objects, at most."""
    object_reach: Annotated[float, Field(gt=0)] = 1.25
    """An object's own translation at most, over `reach`."""
    carried: Fraction01 = 0.6
    """Share of objects that move with the background too."""
    still: Fraction01 = 0.1
    """Share of layers that do not move on their own."""
    turn: NonNegative = 0.25
    growth: NonNegative = 0.15
    shear: NonNegative = 0.08
    """Of a layer, a frame, at most."""
    bend: NonNegative = 0.2
    """Change of velocity from one frame to the next, over the velocity, at most."""
    elastic: Fraction01 = 0.3
    """Share of layers that bend elastically."""
    elastic_reach: NonNegative = 10.0
    textures_by_code: Fraction01 = 0.15
    """Share of layers with textures made by code."""
    still_end: Fraction01 = 0.3
    """Share of triplets whose previous frame (or next) repeats the middle one, as at a shot's ends."""
    shutter: Fraction01 = 0.1
    """Share of triplets with motion blur, of half the frame's time at most."""
    blur: Fraction01 = 0.25
    """Share of triplets out of focus."""
    noise: NonNegative = 8.0
    """Standard deviation of sensor noise at most, grey levels; half of the triplets have none."""
    jitter: Fraction01 = 0.3
    """Brightness, contrast, saturation and gamma, at most; of the triplet, and for a fifth of it of each frame."""
    reuse: Positive = 1
    """Steps that share their scenes: the first takes them as they are, others mirrored and backwards."""
    eraser: Fraction01 = 0.1
    """Share of triplets with mean-coloured rectangles on the first or the last frame."""


class DatasetRecipe(_Frozen):
    """Recorded or rendered triplets with true flow (flow_datasets.py), and how they are changed."""

    layout: Literal["tartanair", "things", "sintel", "kitti", "hd1k", "spring"]
    """How its files lie (pipeline/evaluation/flow_layouts.py)."""
    at: str = ""
    """Name of its root folder in --data NAME=FOLDER; empty is the layout's name."""
    render: Literal["clean", "final"] = "final"
    """Of Sintel and FlyingThings3D."""
    part: str = ""
    """Only true flows below a folder of this name, such as TRAIN; empty is all."""
    repeat: Positive = 1
    """Times that each triplet, and each reversed one, occurs in an epoch."""
    pre_scale: float = 1.0
    """Frames are enlarged by 2 to this power before all else."""
    scale: tuple[float, float] = (-0.2, 0.6)
    """Least and largest power of 2 by which four in five triplets are enlarged on top; more where a crop needs it."""
    mirror: bool = True
    """Half of the triplets are mirrored left to right."""

    @property
    def root(self) -> str:
        return self.at or self.layout

    @property
    def name(self) -> str:
        """Of the set in messages."""
        render = f", {self.render}" if self.layout in ("sintel", "things") else ""
        return f"{self.root} (layout {self.layout}{render})"

    @model_validator(mode="after")
    def _rising(self) -> DatasetRecipe:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}; give the least power of 2 first")
        return self


class FlowStage(_Frozen):
    """Crops up to a point of the run."""

    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the run's steps at which the stage ends."""
    crop: tuple[Positive, Positive] = (480, 960)
    """Height and width; the network pads what is no multiple of 16."""
    batch: Positive = 8
    """Triplets a process and step."""
    iterations: Positive = 4


class FlowOptimiser(_Frozen):
    """AdamW; one cycle, linear up and down."""

    learning_rate: Annotated[float, Field(gt=0)] = 1.4e-4
    """At the cycle's top."""
    betas: tuple[Fraction01, Fraction01] = (0.9, 0.999)
    weight_decay: NonNegative = 1e-5
    eps: Annotated[float, Field(gt=0)] = 1e-8
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradient norm."""


class FlowSchedule(_Frozen):
    steps: Positive
    """Optimiser steps in all."""
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the steps on which the rate rises."""


class FlowLossRecipe(_Frozen):
    gamma: Fraction01 = 0.85
    """Weight of an iteration relative to the next."""
    upsampled: Literal["all", "last"] = "all"
    """Predictions compared at full resolution; `last`: earlier ones are compared cell by cell, much cheaper."""
    matching: Ramp = Ramp(start=0.0, end=0.0)
    """Weight of the correlations' own loss: the true match's cross-entropy among all cells."""
    l1: NonNegative = 0.0
    """Weight of the plain end-point error of the last prediction, a pixel; it counts large errors in full."""


class FlowRecipe(RunRecipe):
    network: Literal["memfof"]
    model: FlowModelRecipe = FlowModelRecipe()
    data: MotionRecipe = MotionRecipe()
    """Of made scenes; of no effect where there are `datasets`."""
    datasets: tuple[DatasetRecipe, ...] = ()
    """Sets to train on, in epochs of all their triplets; empty is made scenes."""
    readers: Positive = 1
    """Threads of each process that read `datasets`, each a batch; of no effect on made scenes."""
    loss: FlowLossRecipe = FlowLossRecipe()
    stages: tuple[FlowStage, ...] = (FlowStage(),)
    optimiser: FlowOptimiser = FlowOptimiser()
    schedule: FlowSchedule
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay a step of the averaged weights that are measured and exported; 0 is none."""
    batch_norm: Literal["trained", "frozen"] = "trained"
    """`frozen` normalises by the statistics of `initial_weights`, as evaluation does: those of two crops are noise."""
    initial_weights: str | None = None
    """Name or URI of weights to start from (models/weights.py)."""
    initial_parts: tuple[str, ...] = ()
    """Which modules start from them, such as fnet; empty is all."""

    @model_validator(mode="after")
    def _consistent(self) -> FlowRecipe:
        check_stages([stage.until for stage in self.stages])
        return self

    def stage(self, progress: float) -> FlowStage:
        return next(stage for stage in self.stages if progress < stage.until or stage.until == 1.0)
