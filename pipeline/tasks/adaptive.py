"""Interpolation by patches: each gets the scale and the depth that its motion needs, and none where nothing moves.

The backbone is any network with exits (`Backbone`); what is decided and what runs together is planned by
pipeline/plan/adaptive.py. Decisions depend on the pair of frames alone. On the CPU, so do the batches: they hold
patches of one pair, and a picture's bits never depend on what else is computed. On a GPU, patches of up to `batch`
pairs share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from models.cain_sd.cain import pad
from pipeline.config import InterpolateConfig
from pipeline.plan import adaptive as plan
from pipeline.plan.adaptive import STATIC, Choice, FrameDecisions
from pipeline.plan.patches import Patch, blend_weights
from pipeline.tasks.interpolators import Recursion

S = TypeVar("S")

CPU_PIXELS = 40_000
"""Pixels, after making smaller, that go through a network together on the CPU: more fall out of its cache."""


class Backbone(Protocol[S]):
    """A network with exits, as the executor sees it. S: what it computes once for a pair of frames and a place."""

    @property
    def fold(self) -> int:
        """Patches start at multiples of it and have sides of it, within the padded frame."""

    @property
    def costs(self) -> Sequence[Sequence[float]]:
        """FLOPs for each pixel of a patch, [scale][exit], dearest at the first scale and the last exit."""

    @property
    def scales(self) -> Sequence[int]:
        """What a patch's sides may be divided by, 1 first."""

    def padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(left, right, top, bottom) that bring a frame to multiples of `fold`."""

    def full_flops(self, height: int, width: int) -> int:
        """Of a whole frame, not cut, at full depth and scale."""

    def overhead_flops(self, height: int, width: int) -> int:
        """Of `begin` and `scores` for one pair: what is spent whatever the decisions."""

    def begin(self, left: Tensor, right: Tensor, t: Fraction) -> S:
        """left, right [1,3,H,W] RGB 0..1, not padded; the picture at t is wanted."""

    def scores(self, state: S, patches: Sequence[Patch]) -> Sequence[Sequence[Sequence[float]]]:
        """How good each choice is for each patch (of the padded frame), [patch][scale][exit]: log-probabilities."""

    def run(self, scale: int, pieces: Sequence[tuple[S, Patch]], depths: Sequence[int]) -> Tensor:
        """Patches [N,3,h,w] of the new frames, unclamped; exits `depths` from 1, deepest first."""


@dataclass(frozen=True)
class Grid:
    """The patches of frames of one size."""

    padding: tuple[int, int, int, int]
    size: tuple[int, int]
    """(height, width) of the padded frame."""
    patches: tuple[Patch, ...]
    """In the padded frame."""
    inside: tuple[Patch, ...]
    """The same without the padding, in the frame itself."""
    shares: tuple[Tensor, ...]
    """What each patch contributes to its pixels, [h,w]; they add up to one."""


class Wanted(NamedTuple):
    left: Tensor
    """[3,H,W] RGB 0..1"""
    right: Tensor
    t: Fraction


class PatchModel(Generic[S]):
    """Makes pictures between frames, patch by patch."""

    def __init__(self, backbone: Backbone[S], config: InterpolateConfig, device: str, precision: str) -> None:
        self._backbone = backbone
        self._config = config
        self._device = device
        self._bf16 = precision == "bf16"
        self._batch = config.batch if device.startswith("cuda") else 1
        self._price = plan.price_of(config.quality)
        self._grid: tuple[tuple[int, int], Grid] | None = None
        self.spent = 0
        """FLOPs of all pictures so far."""

    @torch.inference_mode()
    def make(self, wanted: Sequence[Wanted]) -> list[tuple[Tensor, FrameDecisions]]:
        """The pictures [3,H,W], clamped to 0..1, and how each was decided. All frames are of one size."""
        made: list[tuple[Tensor, FrameDecisions]] = []
        for start in range(0, len(wanted), self._batch):
            made += self._together(wanted[start : start + self._batch])
        self.spent += sum(decisions.flops for _, decisions in made)
        return made

    def _together(self, wanted: Sequence[Wanted]) -> list[tuple[Tensor, FrameDecisions]]:
        height, width = wanted[0].left.shape[-2:]
        grid = self._grid_of(height, width)
        states, choices, spent, totals = [], [], [], []
        for left, right, t in wanted:
            left, right = left.to(self._device)[None], right.to(self._device)[None]
            still = self._still(left, right, grid)
            state = None if all(still) else self._backbone.begin(left, right, t)
            mine, flops = self._decide(state, still, grid, height, width)
            states.append(state)
            choices.append(mine)
            spent.append(flops)
            totals.append(self._copied(left, right, t, still, grid))
        patch = grid.patches[0]
        for batch in plan.batches(choices, self._most(patch.height * patch.width, height * width)):
            pieces, depths = [], []
            for piece in batch.pieces:
                state = states[piece.frame]
                assert state is not None
                pieces.append((state, grid.patches[piece.patch]))
                depths.append(piece.depth)
            with self._autocast():
                pictures = self._backbone.run(batch.scale, pieces, depths).float()
            for piece, picture in zip(batch.pieces, pictures, strict=True):
                totals[piece.frame][_area(grid.patches[piece.patch])] += picture * grid.shares[piece.patch]
        before, _, top, _ = grid.padding
        full = self._backbone.full_flops(height, width)
        return [
            (
                total[:, top : top + height, before : before + width].clamp(0, 1),
                FrameDecisions(grid.inside, tuple(mine), flops, full),
            )
            for total, mine, flops in zip(totals, choices, spent, strict=True)
        ]

    def _still(self, left: Tensor, right: Tensor, grid: Grid) -> list[bool]:
        """Which patches differ nowhere by more than the threshold."""
        residual = (left - right).abs().amax(1)[0]
        largest = torch.stack([residual[_rectangle(patch)].max() for patch in grid.inside])
        return (largest <= self._config.adaptive_patch.static / 255).tolist()

    def _decide(
        self, state: S | None, still: Sequence[bool], grid: Grid, height: int, width: int
    ) -> tuple[list[Choice], int]:
        if state is None:
            return [STATIC] * len(still), 0
        moving = [patch for patch, quiet in zip(grid.patches, still, strict=True) if not quiet]
        costs, scales = self._backbone.costs, self._backbone.scales
        full = costs[0][-1]
        shares = [[cost / full for cost in row] for row in costs]
        paths = [plan.frontier(scores, shares) for scores in self._backbone.scores(state, moving)]
        overhead = self._backbone.overhead_flops(height, width)
        price = self._price
        if self._config.flops_budget is not None:
            allowed = self._config.flops_budget * self._backbone.full_flops(height, width) - overhead
            price = plan.price_within(paths, [full * patch.height * patch.width for patch in moving], allowed, price)
        offers = iter([plan.taken(path, price) for path in paths])
        choices, spent = [], overhead
        for patch, quiet in zip(grid.patches, still, strict=True):
            if quiet:
                choices.append(STATIC)
                continue
            offer = next(offers)
            choices.append(Choice(scales[offer.scale], offer.exit + 1))
            spent += round(costs[offer.scale][offer.exit] * patch.height * patch.width)
        return choices, spent

    def _copied(self, left: Tensor, right: Tensor, t: Fraction, still: Sequence[bool], grid: Grid) -> Tensor:
        """The padded frame [3,H,W] with its static patches' contributions, and nothing else yet."""
        total = torch.zeros(3, *grid.size, device=left.device)
        if any(still):
            left, right = pad(left, grid.padding)[0], pad(right, grid.padding)[0]
            for patch, share, quiet in zip(grid.patches, grid.shares, still, strict=True):
                if quiet:
                    area = _area(patch)
                    total[area] += torch.lerp(left[area], right[area], float(t)) * share
        return total

    def _most(self, area: int, frame: int) -> dict[int, int]:
        """Patches in a batch, for each scale."""
        if self._device.startswith("cuda"):
            together = self._batch * min(frame, self._config.patch.max_area)
            return {scale: max(1, together // area) for scale in self._backbone.scales}
        return {scale: max(1, CPU_PIXELS * scale**2 // area) for scale in self._backbone.scales}

    def _grid_of(self, height: int, width: int) -> Grid:
        if self._grid is None or self._grid[0] != (height, width):
            self._grid = ((height, width), self._make_grid(height, width))
        return self._grid[1]

    def _make_grid(self, height: int, width: int) -> Grid:
        padding, (tall, wide), overlap, patches = _layout(self._backbone, self._config, height, width)
        before, _, top, _ = padding
        ramps = [torch.from_numpy(blend_weights(patch, tall, wide, overlap)) for patch in patches]
        weight = torch.zeros(tall, wide)
        for patch, ramp in zip(patches, ramps, strict=True):
            weight[_rectangle(patch)] += ramp
        shares = [(ramp / weight[_rectangle(patch)]) for patch, ramp in zip(patches, ramps, strict=True)]
        return Grid(
            padding,
            (tall, wide),
            tuple(patches),
            tuple(_without(patch, before, top, height, width) for patch in patches),
            tuple(share.to(self._device) for share in shares),
        )

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        kind = self._device.split(":")[0]
        return torch.autocast(kind, torch.bfloat16) if self._bf16 else nullcontext()


class AdaptiveMidpoints(Recursion, Generic[S]):
    """A backbone that knows the middle only: each midpoint's patches are decided by the pair that it lies between."""

    adaptive = True

    def __init__(
        self, backbone: Backbone[S], config: InterpolateConfig, device: str, precision: str, *, aligned: bool = False
    ) -> None:
        super().__init__(config, device, aligned=aligned)
        self._model = PatchModel(backbone, config, device, precision)

    @property
    def spent(self) -> int:
        return self._model.spent

    def _middles(self, ends: Sequence[tuple[Tensor, Tensor]]) -> Sequence[tuple[Tensor, FrameDecisions | None]]:
        return self._model.make([Wanted(left, right, Fraction(1, 2)) for left, right in ends])


def most_flops(backbone: Backbone[Any], config: InterpolateConfig, height: int, width: int) -> int:
    """What one picture takes at most under this configuration: nothing static, and the dearest choices it allows."""
    _, _, _, patches = _layout(backbone, config, height, width)
    area = sum(patch.height * patch.width for patch in patches)
    cheapest = area * min(map(min, backbone.costs))
    most = cheapest if config.quality == 0 else area * backbone.costs[0][-1]
    overhead = backbone.overhead_flops(height, width)
    if config.flops_budget is not None:
        most = min(most, max(cheapest, config.flops_budget * backbone.full_flops(height, width) - overhead))
    return round(most) + overhead


def _layout(
    backbone: Backbone[Any], config: InterpolateConfig, height: int, width: int
) -> tuple[tuple[int, int, int, int], tuple[int, int], int, list[Patch]]:
    """A frame's padding, its padded (height, width), the overlap, and the patches in it."""
    fold, wanted = backbone.fold, config.adaptive_patch
    padding = before, after, top, bottom = backbone.padding(height, width)
    tall, wide = height + top + bottom, width + before + after
    overlap = -(-wanted.overlap // fold) * fold
    return padding, (tall, wide), overlap, plan.fitted_grid(tall, wide, max(wanted.size, 2 * overlap), overlap, fold)


def _rectangle(patch: Patch) -> tuple[slice, slice]:
    return slice(patch.top, patch.top + patch.height), slice(patch.left, patch.left + patch.width)


def _area(patch: Patch) -> tuple[slice, slice, slice]:
    return slice(None), *_rectangle(patch)


def _without(patch: Patch, before: int, top: int, height: int, width: int) -> Patch:
    """A patch of the padded frame as a patch of the frame of (height, width) itself."""
    first, left = max(patch.top - top, 0), max(patch.left - before, 0)
    end, right = min(patch.top - top + patch.height, height), min(patch.left - before + patch.width, width)
    return Patch(first, left, end - first, right - left)
