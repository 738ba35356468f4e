"""The recognition job's own sections of the configuration; `pipeline/config.py` has what every job shares."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from pydantic import Field, model_validator

from pipeline.config import Rational, Section


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
