"""What a training run of CAIN-SD is: frozen, validated, from configs/train/cain_{sd,s,d}_*.yaml.

Its phases are the paper's three steps (section 3.5), and a fourth one for the finder alone:

    exits    CAIN's exits at every scale, and the enlarger; no decisions                    (1, the paper: scale 1 only)
    depth    DepthNet with CAIN, at scale 1                                                 (2)
    scale    ScaleNet with CAIN and the enlarger, DepthNet as it is                         (3)
    finder   ScaleNet and DepthNet on whole frames and the patches of inference, networks as they are

CAIN-S learns no depths (`adapts: [scale]`), CAIN-D no scales (`adapts: [depth]`).
"""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.cain_sd.cost import SCALES
from pipeline.training.recipe import (
    DataRecipe,
    Fraction01,
    ModelRecipe,
    Positive,
    Ramp,
    RunRecipe,
    ScheduleRecipe,
    Stage,
    _Frozen,
)

NonNegative = Annotated[float, Field(ge=0)]
Loss = Literal["l1", "mse", "charbonnier", "relative", "log_mse"]


class EnlargerRecipe(_Frozen):
    kind: Literal["light", "carn"] = "light"
    """light: LightSR, which looks at both neighbours; carn: CARN-M, the paper's."""
    width: Positive = 32
    """Channels between the convolutions; CARN-M's are 64 in the paper."""
    groups: Positive = 4
    """Of CARN-M's convolutions."""
    initial_weights: str | None = None
    """CARN-M's own weights to start from, a name or URI."""


class MotionRecipe(_Frozen):
    kind: Literal["block", "pwc"] = "block"
    """block: BlockMotion, without weights; pwc: PWC-Net, the paper's. Neither is trained here."""
    weights: str | None = None
    """PWC-Net's, a name or URI."""

    @model_validator(mode="after")
    def _given(self) -> MotionRecipe:
        if self.kind == "pwc" and not self.weights:
            raise ValueError("motion.kind=pwc needs motion.weights: PWC-Net is not trained here")
        return self


class Phase(_Frozen):
    kind: Literal["exits", "depth", "scale", "finder"]
    steps: Positive
    """Optimiser steps."""
    crop: Positive = 256
    """Pixels; the finder's phase takes whole frames instead."""
    batch: Positive = 16
    """Triplets a process and step."""
    loss: Loss = "l1"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Adam's at the phase's start; it falls as a cosine to nothing at the end."""
    finder_factor: Annotated[float, Field(gt=0)] = 1.0
    """Of the learning rate, for ScaleNet and DepthNet."""
    scales: dict[Positive, NonNegative] = {1: 1.0}  # noqa: RUF012  # pydantic copies it
    """exits: how often a step trains a scale; weights."""
    exits: tuple[Positive, ...] | None = None
    """exits: which ones are trained, all alike; null: all. The paper's CAIN-S has its last one only."""
    every_choice: NonNegative = 0.0
    """depth, scale: weight of the mean loss over all exits or scales, beside the drawn one's; 0 as the paper. Above 0
    the choices that training does not draw stay good, for users who ask for more or less quality than it found."""
    frames: Positive = 300
    """finder: whole frames that it learns from, over and over; finders' phases that follow each other share them."""
    price: Ramp = Ramp(start=0.05, end=0.05)
    """finder: loss (log MSE: 0.0576 a dB) for full depth at full size on the whole frame; `until` is of this phase."""
    temperature: NonNegative = 5e-3
    """finder: loss for a nat of a patch's entropy. It keeps choices from becoming certain before they are good, and
    makes the finder say by how much one is better: a price at run time of 1 is this much loss for full depth."""


class ResourceRecipe(_Frozen):
    """The price of arithmetic where choices are drawn. A FLOP is half a multiplication, for each pixel (cost.py)."""

    scale_lambda: NonNegative = 5e-9
    """Loss a FLOP and pixel, for ScaleNet's choice: 5e-9 in the paper, whose full network takes 1.327e6 of them."""
    depth_lambda: NonNegative = 5e-11
    """For DepthNet's choice."""


class FinderRecipe(_Frozen):
    detail: bool = False
    """Both nets see motion, difference, and the detail that making smaller loses; False: one each, as the paper."""
    anew: bool = False
    """It starts from nothing even where `initial_weights` bring one."""


class GridRecipe(_Frozen):
    """finder: the patches of inference."""

    size: Positive = 256
    overlap: Positive = 16


class SDRecipe(RunRecipe):
    network: Literal["cain-sd"]
    model: ModelRecipe = ModelRecipe()
    enlarger: EnlargerRecipe = EnlargerRecipe()
    motion: MotionRecipe = MotionRecipe()
    finder: FinderRecipe = FinderRecipe()
    adapts: tuple[Literal["scale", "depth"], ...] = ("scale", "depth")
    """What is chosen for each patch; the rest stays at scale 1, or at full depth."""
    data: DataRecipe = DataRecipe()
    phases: tuple[Phase, ...]
    resources: ResourceRecipe = ResourceRecipe()
    grid: GridRecipe = GridRecipe()
    betas: tuple[Fraction01, Fraction01] = (0.9, 0.99)
    """Adam's."""
    tail_factor: Annotated[float, Field(gt=0)] = 1.0
    """Of the learning rate, for CAIN's tail: it writes pixels directly."""
    enlarger_factor: Annotated[float, Field(gt=0)] = 1.0
    """Of the learning rate, for the enlarger: LightSR starts from nothing where CAIN is fine-tuned."""
    clip_norm: Annotated[float, Field(gt=0)] = 0.1
    """Gradient norm."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up, in each phase."""
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay a step of the averaged weights that are measured and exported; each phase starts from them. 0 is none."""
    initial_weights: str | None = None
    """Name or URI of weights to start from: a plain CAIN's, or a whole CAIN-SD's."""

    @model_validator(mode="after")
    def _consistent(self) -> SDRecipe:
        if not self.phases or not self.adapts:
            raise ValueError("`phases` and `adapts` must not be empty")
        for phase in self.phases:
            if phase.kind in ("scale", "depth") and phase.kind not in self.adapts:
                raise ValueError(f"a phase trains {phase.kind}, which `adapts` {list(self.adapts)} leaves out")
            multiple = self.model.shuffle * (1 if phase.kind == "depth" else max(SCALES))
            if phase.kind != "finder" and phase.crop % multiple:
                raise ValueError(
                    f"crop {phase.crop} of phase {phase.kind} is no multiple of {multiple}, shuffle * scale"
                )
            if phase.exits is not None and (not phase.exits or max(phase.exits) > self.model.groups):
                raise ValueError(
                    f"exits {phase.exits} of phase {phase.kind}: this network has 1 to {self.model.groups}"
                )
            if not any(phase.scales.values()) or not {*phase.scales} <= {*SCALES}:
                raise ValueError(f"scales of phase {phase.kind} are {phase.scales}; give weights for some of {SCALES}")
        return self

    @property
    def schedule(self) -> ScheduleRecipe:
        return ScheduleRecipe(kind="cosine", steps=sum(phase.steps for phase in self.phases))

    @property
    def largest_crop(self) -> int:
        return max((phase.crop for phase in self.phases if phase.kind != "finder"), default=64)

    def phase_at(self, step: int) -> tuple[Phase, int]:
        """The phase of a step, and the step at which it begins; after the end, the last one."""
        ends = list(accumulate(phase.steps for phase in self.phases))
        index = next((i for i, end in enumerate(ends) if step < end), len(ends) - 1)
        return self.phases[index], ends[index] - self.phases[index].steps

    def stage(self, progress: float) -> Stage:
        """Crop, batch and loss, as samplers of triplets ask for them."""
        phase, _ = self.phase_at(round(progress * self.schedule.steps))
        return Stage(crop=phase.crop, batch=phase.batch, loss=phase.loss)
