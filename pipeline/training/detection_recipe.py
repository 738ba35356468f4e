"""What a training run of Deep Feature Flow for detection is: frozen, validated, from configs/train/dff_detect.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.dff.dense_head import DILATIONS
from pipeline.training.recipe import Fraction01, Positive, RunRecipe, _Frozen
from pipeline.training.segmentation_recipe import (
    CELL,
    CameraRecipe,
    NonNegative,
    Part,
    SegmentationOptimiser,
    SegmentationSchedule,
)


class DetectionModelRecipe(_Frozen):
    """ResNet-50 v2 to stage 3, FlowNet, and the dense head."""

    width: Positive = 64
    """Of the feature network's stem; 64 is published."""
    flow_width: Annotated[float, Field(ge=1 / 64, le=4)] = 0.125
    """Factor on FlowNet's channels; 0.5 is FlowNet Half."""
    scale: bool = True
    """Whether the flow network has the scale field; False is one of the paper's ablations."""
    head_width: Positive = 128
    """Channels between, of the dense head."""
    head_contexts: Annotated[int, Field(ge=1, le=len(DILATIONS))] = 3
    """Neighbourhoods that a place of the dense head sees; with a fourth, as much as large things need."""


class DetectionDataRecipe(_Frozen):
    """Key frames and followers from labelled videos, and scenes made of labelled pictures."""

    short_side: Positive = 400
    """px that pictures are brought down to before crops are cut out of them."""
    crop: tuple[Positive, Positive] = (288, 416)
    """Height and width, multiples of 16."""
    batch: Positive = 3
    """Key frames a process and step."""
    followers: Positive = 2
    """Of each key frame."""
    offset: Positive = 9
    """Frames from a key frame to its followers, at most, before or after it."""
    scenes: Fraction01 = 0.5
    """Share of key frames that are made scenes; the others and their followers are frames of videos."""
    pasted: Annotated[int, Field(ge=0)] = 4
    """Objects pasted into a scene, at most; as many patches of anything else."""
    pasted_side: tuple[Positive, Positive] = (20, 220)
    """px of a pasted object's longer side."""
    enlarged: Annotated[float, Field(gt=0)] = 16.0
    """Factor by which a pasted object is enlarged, at most."""
    speed: NonNegative = 12.0
    """px that a pasted object moves by itself, at most."""
    zoom: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.55, 1.4)
    """Pixels of the picture a pixel of the crop."""
    closeups: Fraction01 = 0.0
    """Share of crops that lie about an object, and show it as large as `filled` says."""
    filled: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.3, 1.6)
    """Share of the crop that such an object fills, of that side of which it fills more; more than 1 is cut."""
    balanced: bool = False
    """Draw a class first, then a frame that has it (detection_shelves.py); else videos and pictures alike."""
    sure: Fraction01 = 0.4
    """Score from which a labelled box is an object; what lies in others is left out of the loss."""
    camera: CameraRecipe = CameraRecipe(dark=0.6)
    """How scenes' views are moved, and how bright pictures are."""


class DetectionLossRecipe(_Frozen):
    boxes: NonNegative = 1.5
    """Weight of boxes' generalised IoU, beside that of scores."""
    flow: NonNegative = 0.5
    """Weight of the distance to made scenes' motion, in cells, at each of FlowNet's levels; 0: as the paper."""
    places: Positive | None = None
    """Places of the head from which on an object's weight grows with the root of their number; None: with it."""


class DetectionRecipe(RunRecipe):
    network: Literal["dff-detection"]
    labels: str
    """A COCO file of the boxes in --data's videos and photographs; images are called STEM/FRAME.jpg, boxes may have a
    `score` (pipeline/training/detection_teacher.py writes such files). Its categories are the classes."""
    short_side: Positive = 360
    """px that users of the model bring a frame's short side to."""
    long_side: Positive = 800
    """px that its long side may then have."""
    model: DetectionModelRecipe = DetectionModelRecipe()
    data: DetectionDataRecipe = DetectionDataRecipe()
    loss: DetectionLossRecipe = DetectionLossRecipe()
    optimiser: SegmentationOptimiser = SegmentationOptimiser()
    schedule: SegmentationSchedule
    initial_features: str | None = None
    """Name or URI of the feature network's weights to start from (models/weights.py)."""
    initial_weights: str | None = None
    """Name or URI of a whole model to start from, in place of `initial_features`; its sizes must be the recipe's."""
    trained: tuple[Part, ...] = ("features", "flow", "head")
    """Parts that learn; the others stay as they start."""
    frozen_stages: Annotated[int, Field(ge=0, le=3)] = 2
    """Stages of the feature network that never learn, with its stem."""
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay a step of the averaged weights that are measured and exported; 0 is none."""

    @model_validator(mode="after")
    def _consistent(self) -> DetectionRecipe:
        if any(side % CELL for side in self.data.crop):
            raise ValueError(f"data.crop {self.data.crop} has sides that are no multiples of {CELL}")
        if not self.trained:
            raise ValueError("`trained` must not be empty")
        return self
