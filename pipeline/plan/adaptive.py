"""Adaptive interpolation as values: which scale and which depth each patch of a pair of frames gets."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.plan.patches import Patch


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """What one patch gets."""

    scale: int
    """Its sides are divided by this: 1, 2 or 4."""
    depth: int
    """The exit, from 1; 0: no network, the patch is static and is copied or averaged."""


@dataclass(frozen=True, slots=True)
class FrameDecisions:
    """Of one synthesised frame: its patches, in the frame's own pixels and in row order, and what each one got."""

    patches: tuple[Patch, ...]
    choices: tuple[Choice, ...]
    flops: int
    """Spent on this frame, decisions included: two a multiply-accumulate, convolutions, overlaps counted twice."""
    full_flops: int
    """What the same network takes at full depth and scale on the whole frame, not cut."""
