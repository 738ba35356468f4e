"""The configuration of jobs/recognize.py; `pipeline/config.py` has what every job shares."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipeline.config import CutsConfig, Rational, RunConfig, Section
from pipeline.config_flow import FilesConfig, RecordLimits


class KeyFramesConfig(Section):
    """Which frames run the whole network, and how far its features are carried from them."""

    schedule: Literal["lookahead", "fixed"] = "lookahead"
    """lookahead: where they serve best, seen from both sides; fixed: every 1/budget-th, carried forward (the paper)."""
    budget: Rational = Fraction(1, 10)
    """Largest share of frames that are key frames. More only where shots are so short that each needs its own."""
    max_residual: float | None = Field(None, ge=0)
    """Where set, decides instead of the budget: as few key frames as keep every frame's residual at or below it."""
    promote_above: float | None = Field(0.5, ge=0)
    """A frame with a larger residual than this becomes a key frame, beyond the budget; null: never."""
    max_gap: int = Field(20, ge=1)
    """Frames that features are carried over at most (lookahead)."""
    window: int = Field(60, ge=1, le=1000)
    """Frames that are scheduled together, in windows counted from the video's first frame."""
    blend: bool = False
    """Mix features carried from both sides, the better one more: one more flow a frame, lower error."""

    @model_validator(mode="after")
    def _possible(self) -> KeyFramesConfig:
        if not 0 < self.budget <= 1:
            raise ValueError(f"key_frames.budget={self.budget}: above 0, up to 1 (1/10: every tenth frame)")
        if self.window * self.budget < 1:
            raise ValueError(f"key_frames.window={self.window} has no key frame at budget={self.budget}; raise either")
        if self.schedule == "fixed":
            if self.budget.numerator != 1:
                raise ValueError(f"key_frames.budget={self.budget}: schedule=fixed wants 1/n, every n-th frame")
            if self.max_residual is not None or self.blend:
                raise ValueError("key_frames.max_residual and blend need schedule=lookahead")
        elif (2 * self.max_gap + 1) * self.budget < 1:
            raise ValueError(
                f"key_frames.budget={self.budget} leaves frames more than max_gap={self.max_gap} from a key frame; "
                "raise either"
            )
        return self

    @property
    def interval(self) -> int:
        """Frames from one key frame to the next of the fixed schedule."""
        return self.budget.denominator

    @property
    def window_frames(self) -> int:
        """`window`, for the fixed schedule rounded up to whole intervals, so that each begins with a key frame."""
        return self.window if self.schedule == "lookahead" else -(-self.window // self.interval) * self.interval


class MemfofConfig(Section):
    """Where `flow: memfof` carries the features."""

    model: str = "memfof-compact"
    """A name of the weights table (models/weights.py), or a path or URI of MEMFOF weights."""
    iterations: int = Field(8, ge=0, le=64)
    """Refinements of each flow."""


class RecordsConfig(Section):
    """Where `flow: records` finds the flow."""

    output: str = ""
    """The OUTPUT of a run of jobs/flow.py on the same videos, with direction=both: a folder or any fsspec URL."""


class RecognizeConfig(RunConfig):
    """jobs/recognize.py"""

    task: Literal["auto", "segmentation", "detection"] = "auto"
    """auto: what the model does, and segmentation where none is named."""
    model: str = Field("auto", validate_default=True)
    """auto: dff-camvid, or dff-detect with task=detection. Or a name of the weights table, a path or URI of weights of
    segmentation or detection, or, for a network of one's own, `python:package.module:function`, which returns a
    models.dff.bundle.Bundle."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, in order, where the weights do not say them or others are wanted."""
    flow: Literal["dff", "memfof", "records"] = "dff"
    """What carries features from key frames: the model's own flow network; MEMFOF, which is slower and has no scale
    field, but needs no training with the features; or the records that jobs/flow.py made of the same videos."""
    memfof: MemfofConfig = MemfofConfig()
    records: RecordsConfig = RecordsConfig()
    key_frames: KeyFramesConfig = KeyFramesConfig()
    short_side: int | Literal["auto"] = "auto"
    """px that a frame's short side is brought to before the networks; 0: as it is; auto: as the weights say."""
    long_side: int | Literal["auto"] = "auto"
    """px that its long side may have then; 0: any; auto: as the weights say."""
    argmax: Literal["exact", "reduced"] = "exact"
    """Segmentation. exact: a class for each pixel; reduced: one for each 4x4, faster, outlines up to 2 px off."""
    labels: Literal["rle", "png", "zstd"] = "rle"
    """Segmentation: how label maps are stored: COCO run-length strings by class, or whole, as PNG or zstd."""
    min_score: float = Field(0.05, ge=0, le=1)
    """Detection: objects with a lower score are not stored."""
    cuts: CutsConfig = CutsConfig()
    files: FilesConfig = FilesConfig()
    preview: bool = False
    """Also write a video of each input with what was recognised drawn over it."""
    limits: RecordLimits = RecordLimits()

    @field_validator("model")
    @classmethod
    def _named(cls, model: str, info: ValidationInfo) -> str:
        default = "dff-detect" if info.data.get("task") == "detection" else "dff-camvid"
        return default if model == "auto" else model

    @model_validator(mode="after")
    def _sides(self) -> RecognizeConfig:
        for key in ("short_side", "long_side"):
            side = getattr(self, key)
            if side != "auto" and side != 0 and side < 32:
                raise ValueError(f"{key}={side}: at least 32 px, 0 (any), or auto")
        if (self.flow == "records") != bool(self.records.output):
            raise ValueError(
                f"flow={self.flow} with records.output={self.records.output!r}: flow=records wants the output of a run "
                "of jobs/flow.py, the others want none"
            )
        if self.classes is not None and (not self.classes or len({*self.classes}) < len(self.classes)):
            raise ValueError(f"classes={list(self.classes)}: at least one, of different names")
        return self
