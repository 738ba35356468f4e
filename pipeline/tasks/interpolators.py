"""Models as the interpolation task sees them: pictures at given places between two frames.

A picture's values never depend on what else is computed with it: on the CPU pairs go through one by one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from fractions import Fraction
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from models.alignment import to_middle
from models.cain_sd import CAIN
from models.cain_sd.cain import centred_padding, pad, spatial_mean
from models.synthesis import Between, compose
from pipeline.config import InterpolateConfig, PatchConfig
from pipeline.plan.adaptive import FrameDecisions
from pipeline.plan.midpoints import nearest_node, passes
from pipeline.plan.patches import blend_weights, patch_grid


class Made(NamedTuple):
    """A picture between two frames."""

    picture: Tensor
    """[3,H,W] RGB 0..1."""
    place: Fraction
    """Where it truly lies; 0 or 1: it is the source frame itself."""
    decisions: FrameDecisions | None = None
    """Of the pass that made it, where the model is adaptive; None for source frames."""


class Interpolator(Protocol):
    def between(self, pairs: Sequence[Pair]) -> list[list[Made]]:
        """For each pair, what was made for each of its wanted places."""
        ...


class Pair:
    """Two pictures [3,H,W] RGB 0..1, and the places between them (0 < t < 1) that are wanted."""

    def __init__(self, left: Tensor, right: Tensor, places: Sequence[Fraction]) -> None:
        self.left = left
        self.right = right
        self.places = tuple(places)


class Blend:
    """The weighted average of both frames: the floor that every model has to beat. Any place, exactly."""

    def between(self, pairs: Sequence[Pair]) -> list[list[Made]]:
        return [[Made(torch.lerp(pair.left, pair.right, float(t)), t) for t in pair.places] for pair in pairs]


class Recursion(ABC):
    """Any place by a model that knows the middle only: by recursion, as near as `max_t_error` asks, or straight."""

    def __init__(self, config: InterpolateConfig, device: str, *, aligned: bool = False) -> None:
        """aligned: the model is given frames in which most of the motion is gone (models/alignment.py)."""
        self._config = config
        self._device = device
        self._aligned = aligned
        self._batch = config.batch if device.startswith("cuda") else 1

    def between(self, pairs: Sequence[Pair]) -> list[list[Made]]:
        straight = self._aligned and self._config.times != "recursion"
        return self._straight(pairs) if straight else self._recursed(pairs)

    @torch.inference_mode()
    def _straight(self, pairs: Sequence[Pair]) -> list[list[Made]]:
        """Exactly there, in one pass each, on frames that look as they do there (models/synthesis)."""
        wanted = [(index, t) for index, pair in enumerate(pairs) for t in pair.places]
        made: list[list[Made]] = [[] for _ in pairs]
        between: dict[int, Between] = {}
        for start in range(0, len(wanted), self._batch):
            part = wanted[start : start + self._batch]
            between = {index: kept for index, kept in between.items() if index >= part[0][0]}
            for index, _ in part:
                if index not in between:
                    between[index] = self._between(pairs[index])
            brought = [between[index].at(float(t)) for index, t in part]
            middles = self._middles([(frame0[0], frame1[0]) for frame0, frame1 in brought])
            for (index, t), (frame0, frame1), (middle, decisions) in zip(part, brought, middles, strict=True):
                picture = compose(frame0[0], frame1[0], middle.to(frame0.device), float(t)).clamp(0, 1)
                made[index].append(Made(picture, t, decisions))
        return made

    def _between(self, pair: Pair) -> Between:
        return Between(pair.left.to(self._device)[None], pair.right.to(self._device)[None])

    def _recursed(self, pairs: Sequence[Pair]) -> list[list[Made]]:
        limit, depth = self._config.max_t_error, self._config.max_depth
        nodes = [[nearest_node(t, limit, depth) for t in pair.places] for pair in pairs]
        made = [{end: Made(x, end) for end, x in ((Fraction(0), p.left), (Fraction(1), p.right))} for p in pairs]
        steps = [(index, step) for index, wanted in enumerate(nodes) for step in passes(wanted)]
        # Shallow nodes first; those of one depth are independent and share batches.
        for denominator in sorted({step.node.denominator for _, step in steps}):
            level = [(index, step) for index, step in steps if step.node.denominator == denominator]
            for start in range(0, len(level), self._batch):
                part = level[start : start + self._batch]
                ends = [
                    self._ends(made[index][step.left].picture, made[index][step.right].picture) for index, step in part
                ]
                for (index, step), (middle, decisions) in zip(part, self._middles(ends), strict=True):
                    made[index][step.node] = Made(middle, step.node, decisions)
        return [[have[node] for node in wanted] for have, wanted in zip(made, nodes, strict=True)]

    def _ends(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """What the model is given of two frames [3,H,W]."""
        if not self._aligned:
            return left, right
        left, right = left.to(self._device)[None], right.to(self._device)[None]
        left, right = to_middle(left, right)
        return left[0], right[0]

    @abstractmethod
    def _middles(self, ends: Sequence[tuple[Tensor, Tensor]]) -> Sequence[tuple[Tensor, FrameDecisions | None]]:
        """The frames in the middle of up to `batch` pairs of frames [3,H,W], clamped, and how they came about."""


class MidpointModel(Recursion):
    """CAIN at one depth for the whole frame."""

    def __init__(
        self, network: CAIN, config: InterpolateConfig, device: str, precision: str, *, aligned: bool = False
    ) -> None:
        super().__init__(config, device, aligned=aligned)
        self._network = network.to(device).eval()
        self._bf16 = precision == "bf16"

    def _middles(self, ends: Sequence[tuple[Tensor, Tensor]]) -> Sequence[tuple[Tensor, FrameDecisions | None]]:
        lefts, rights = (torch.stack(frames) for frames in zip(*ends, strict=True))
        return [(middle, None) for middle in self.midpoint(lefts, rights)]

    @torch.inference_mode()
    def midpoint(self, left: Tensor, right: Tensor) -> Tensor:
        """[N,3,H,W] RGB 0..1 -> the frames in the middle, clamped to 0..1; in patches where the frame is large."""
        height, width = left.shape[-2:]
        if height * width <= self._config.patch.max_area:
            return self._run(left, right, None).clamp(0, 1)
        return patched(self._run, left, right, self._config.patch, self._network.shuffle).clamp(0, 1)

    def _run(self, left: Tensor, right: Tensor, means: tuple[Tensor, Tensor] | None) -> Tensor:
        left, right = left.to(self._device), right.to(self._device)
        kind = self._device.split(":")[0]
        with torch.autocast(kind, torch.bfloat16) if self._bf16 else nullcontext():
            # Padding to the shuffle alone: the official evaluation's 128 costs up to a third more and changes nothing
            # that a viewer sees.
            result = self._network(
                left, right, self._config.exit_depth, means=means, pad_multiple=self._network.shuffle
            )
        middle: Tensor = result.float()
        return middle


def patched(run: PatchRunner, left: Tensor, right: Tensor, config: PatchConfig, multiple: int = 1) -> Tensor:
    """`run` over overlapping patches of [N,3,H,W] frames, blended linearly over the overlap.

    Every patch is given its whole frame's means, so that neighbours agree on brightness, and starts at a multiple of
    the network's shuffle within the padded frame, so that they fold the same blocks as the whole frame would.
    """
    means = (spatial_mean(left), spatial_mean(right))
    padding = centred_padding(left.shape[-2], left.shape[-1], multiple, 2 * multiple)
    left, right = pad(left, padding), pad(right, padding)
    height, width = left.shape[-2:]
    total = torch.zeros_like(left)
    weight = torch.zeros(1, 1, height, width, device=left.device)
    for patch in patch_grid(height, width, config.size, config.overlap, multiple):
        area = (..., slice(patch.top, patch.top + patch.height), slice(patch.left, patch.left + patch.width))
        ramp = torch.from_numpy(blend_weights(patch, height, width, config.overlap)).to(left.device)
        total[area] += run(left[area], right[area], means).to(left.device) * ramp
        weight[area] += ramp
    before, after, top, bottom = padding
    return (total / weight)[..., top : height - bottom, before : width - after]


class PatchRunner(Protocol):
    def __call__(self, left: Tensor, right: Tensor, means: tuple[Tensor, Tensor] | None) -> Tensor: ...
