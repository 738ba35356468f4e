"""What a training run of Deep Feature Flow for segmentation is: frozen, validated, from configs/train/dff_*.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.training.recipe import Fraction01, Positive, RunRecipe, _Frozen, check_stages

NonNegative = Annotated[float, Field(ge=0)]
Part = Literal["features", "flow", "head"]
CELL = 16  # px


class SegmentationModelRecipe(_Frozen):
    """ResNet-50 v2 to stage 3, FlowNet, and the fine head."""

    width: Positive = 64
    """Of the feature network's stem; 64 is published."""
    flow_width: Annotated[float, Field(ge=1 / 64, le=4)] = 0.5
    """Factor on FlowNet's channels; 0.5 is FlowNet Half."""
    scale: bool = True
    """Whether the flow network has the scale field; False is one of the paper's ablations."""
    head: Literal["fine", "paper"] = "fine"
    """fine: scores 4x4 places a cell (models/dff/fine_head.py); paper: one 1x1 convolution."""
    head_width: Positive = 128
    """Channels between, of the fine head."""


class CameraRecipe(_Frozen):
    """Pairs made of one labelled picture (segmentation_motion.py). Lengths in px of the crop."""

    followers: Positive = 3
    """Moved views of a key frame, each a pair with it; the features of a key frame are computed once for all."""
    forward: NonNegative = 0.25
    """How far the nearest things move apart, as a share of their distance from where the camera drives to; at most."""
    turn: NonNegative = 32.0
    """Largest sideways motion."""
    bump: NonNegative = 5.0
    """Largest up or down motion."""
    roll: NonNegative = 0.02
    """Largest turn of the image, radians."""
    elastic: NonNegative = 8.0
    """Largest smooth deformation: what drives by itself."""
    still: Fraction01 = 0.1
    """Share of pairs without motion."""
    zoom: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.65, 1.05)
    """Pixels of the picture a pixel of the crop."""
    dark: Annotated[float, Field(gt=0, le=1)] = 0.45
    """Lowest brightness; pictures are darkened and brightened up to 1.3."""
    noise: NonNegative = 4.0
    """Standard deviation of sensor noise at most, grey levels."""


class SegmentationStage(_Frozen):
    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the run's steps at which the stage ends."""
    crop: tuple[Positive, Positive] = (320, 416)
    """Height and width, multiples of 16."""
    batch: Positive = 2
    """Key frames a process and step."""


class SegmentationOptimiser(_Frozen):
    kind: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    momentum: Fraction01 = 0.9
    """Of SGD; AdamW's first beta."""
    weight_decay: NonNegative = 5e-4
    features_factor: NonNegative = 0.1
    """Learning rate of the feature network, over the others'."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """steps: a tenth after three quarters of the run, as the paper."""
    warmup: Annotated[int, Field(ge=0)] = 50
    """Steps of linear warm-up."""
    clip_norm: Annotated[float, Field(gt=0)] = 5.0
    """Gradient norm."""


class SegmentationSchedule(_Frozen):
    steps: Positive
    """Optimiser steps in all."""


class SegmentationLossRecipe(_Frozen):
    balance: Fraction01 = 0.5
    """Weights of classes: one over their frequency to this power; 0 counts all pixels alike, as the paper."""
    keys: NonNegative = 0.5
    """Weight of key frames' cross-entropy."""
    views: NonNegative = 0.5
    """Weight of the cross-entropy of frames that features are carried to; 0 trains a network for single frames."""
    flow: NonNegative = 1.0
    """Weight of the distance to the motion that was made, in cells, at each of FlowNet's levels; 0: as the paper, whose
    flow network learned that on Flying Chairs before."""


class SegmentationRecipe(RunRecipe):
    network: Literal["dff"]
    classes: tuple[str, ...]
    """Names, in the order of the labels' values; the value after the last one, and all others, is ignored."""
    short_side: Positive | None = None
    """px that users of the model bring a frame's short side to; None: frames stay as they are."""
    long_side: Positive | None = None
    """px that its long side may then have."""
    model: SegmentationModelRecipe = SegmentationModelRecipe()
    data: CameraRecipe = CameraRecipe()
    loss: SegmentationLossRecipe = SegmentationLossRecipe()
    stages: tuple[SegmentationStage, ...] = (SegmentationStage(),)
    optimiser: SegmentationOptimiser = SegmentationOptimiser()
    schedule: SegmentationSchedule
    initial_features: str | None = None
    """Name or URI of the feature network's weights to start from (models/weights.py)."""
    initial_weights: str | None = None
    """Name or URI of a whole model to start from, in place of `initial_features`; its sizes must be the recipe's."""
    initial_flow: str | None = None
    """Name or URI of a whole model whose flow network to start from; the scale field starts anew, as one everywhere."""
    trained: tuple[Part, ...] = ("features", "flow", "head")
    """Parts that learn; the others stay as they start."""
    frozen_stages: Annotated[int, Field(ge=0, le=3)] = 1
    """Stages of the feature network that never learn, with its stem; the paper's is 1 (conv1 and conv2)."""
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay a step of the averaged weights that are measured and exported; 0 is none."""

    @model_validator(mode="after")
    def _consistent(self) -> SegmentationRecipe:
        check_stages([stage.until for stage in self.stages])
        crops = [stage.crop for stage in self.stages if any(side % CELL for side in stage.crop)]
        if crops:
            raise ValueError(f"crops {crops} have sides that are no multiples of {CELL}, the features' stride")
        if not self.classes or not self.trained:
            raise ValueError("`classes` and `trained` must not be empty")
        loss = self.loss
        if not (loss.keys or loss.views or loss.flow):
            raise ValueError("loss.keys, loss.views and loss.flow are all 0: nothing would be learned")
        return self

    def stage(self, progress: float) -> SegmentationStage:
        return next(stage for stage in self.stages if progress < stage.until or stage.until == 1.0)
