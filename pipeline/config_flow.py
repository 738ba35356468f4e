"""The configuration of jobs/flow.py: as pipeline/config.py, for what flow has of its own."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config import CutsConfig, LimitsConfig, Rational, RunConfig, Section


class FilesConfig(Section):
    """How records are laid out in Parquet files."""

    row_group_rows: int = Field(64, ge=1)
    """Frames in a row group at most: what is read at least for one frame."""
    row_group_bytes: int = Field(8 << 20, ge=1)
    """Bytes of a row group at most; a single frame may have more."""
    file_bytes: int = Field(256 << 20, ge=1 << 16)
    """Bytes of a file at most, to within its footer: a longer video has several files."""
    group_below: int = Field(64 << 20, ge=0)
    """Bytes: videos with less share files (of up to file_bytes), made at the end of the run. 0: a file a video."""

    @model_validator(mode="after")
    def _fits(self) -> FilesConfig:
        if self.row_group_bytes > self.file_bytes:
            raise ValueError(f"files.row_group_bytes={self.row_group_bytes}: at most file_bytes={self.file_bytes}")
        if self.group_below > self.file_bytes:
            raise ValueError(f"files.group_below={self.group_below}: at most file_bytes={self.file_bytes}")
        return self


class RecordLimits(LimitsConfig):
    """Records are large: their jobs have a limit unless it is taken away."""

    max_output_bytes: int | None = Field(10**12, ge=0)
    """Bytes of output; null: no limit."""


class FlowConfig(RunConfig):
    """jobs/flow.py"""

    model: str = "memfof-compact"
    """A name of the weights table (models/weights.py), or a path or URI of MEMFOF weights."""
    iterations: int = Field(8, ge=0, le=64)
    """Refinements of each flow: fewer are faster and rougher."""
    directions: Literal["both", "forward", "backward"] = "both"
    """Which flows are stored."""
    stored_scale: Rational = Fraction(1)
    """Size of the stored fields as a share of the frame's: 1, 1/2, 1/4 or 1/8. Values stay full-frame pixels."""
    codec: Literal["pcodec", "none"] = "pcodec"
    """pcodec: within max_error_px, small; none: plain float32 lists, exact and large, readable without our code."""
    max_error_px: Rational = Fraction(1, 64)
    """Declared bound of each stored component's error, px; verified while writing."""
    memory_budget: int | None = Field(None, ge=1)
    """Bytes for the model's all-pairs tensors: those that do not fit are computed in blocks. null: no limit."""
    cuts: CutsConfig = CutsConfig()
    files: FilesConfig = FilesConfig()
    preview: bool = False
    """Also write a video of each input beside its flow in colours."""
    limits: RecordLimits = RecordLimits()

    @field_validator("stored_scale")
    @classmethod
    def _stored(cls, scale: Fraction) -> Fraction:
        if scale not in (Fraction(1), Fraction(1, 2), Fraction(1, 4), Fraction(1, 8)):
            raise ValueError(f"stored_scale={scale}: one of 1, 1/2, 1/4, 1/8")
        return scale

    @field_validator("max_error_px")
    @classmethod
    def _bound(cls, bound: Fraction) -> Fraction:
        if not Fraction(1, 2**20) <= bound <= 1024:
            raise ValueError(f"max_error_px={bound}: between 1/1048576 and 1024 px; the default is 1/64")
        return bound
