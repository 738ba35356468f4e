"""IFNet with an exit for each patch: later blocks work only where the finder expects them to be worth their price.

The first block works on the whole frame, the second on the whole frame or not at all: their cells are 32 and 16 pixels
wide, and windows on them would be mostly margin. The third and fourth work on windows around the patches that ask for
them. A window's margin is given up; inside its patches the picture is what the whole frame gives, within 60 dB (third
block, margin 24) and 80 dB (fourth, 16) at the published weights. What a block adds to the flows and to the mask fades
out over a part of the margin: between patches of different exits there is no seam.

What is not needed is not computed: the second block and the finder read a quarter of all pixels, so only those are
warped for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.rife.adaptive_cover import Area, cover
from models.rife.cost import NATIVE, block_macs
from models.rife.finder import EXITS, PATCH, STAGES, Finder, continues, evidence, exits_of, finder_macs
from models.rife.ifnet import Block, Encoded, IFNet, Synthesis, time_plane
from models.rife.warp import grid_of, resize, warp

MARGINS = {2: 24, 3: 16}
"""Pixels around a window of the third and fourth block (by index): whole cells of 8 and 4 pixels."""
FADE = 12
"""Pixels outside a window's patches over which its corrections fade out; the rest of the margin is given up."""
DEAREST = 1e6
"""Prices beyond this, either way, leave nothing to the finder."""
HALVINGS = 14
"""Of the range of prices that may meet a budget."""


@dataclass(frozen=True, eq=False)
class Adapted:
    """A frame, and what each patch of it got.

    found    flows, mask and warped frames, as IFNet.between gives them
    depths   [rows][columns] of patches of PATCH pixels: blocks that shaped it; 0 where nothing moves
    still    bool [1,1,H,W]: the pixels of patches where nothing moves
    macs     multiply-accumulates of convolutions on this frame, the frames' own encoding left out
    """

    found: Synthesis
    depths: tuple[tuple[int, ...], ...]
    still: Tensor
    macs: int


class AdaptiveIFNet:
    """`network` must be the one whose errors the finder was trained on."""

    def __init__(self, network: IFNet, finder: Finder) -> None:
        if network.blocks != EXITS:
            raise ValueError(f"this network has {network.blocks} blocks; the finder knows the errors of {EXITS}")
        self.network = network
        self.finder = finder
        self._macs = [block_macs(index, scale, network.sizes) for index, scale in enumerate(NATIVE)]
        spent = [sum(self._macs[: k + 1]) for k in range(EXITS)]
        self.costs = tuple(each / spent[-1] for each in spent)
        """Of the network stopped after each block, as shares of all four."""

    def between(
        self,
        first: Encoded,
        second: Encoded,
        t: float,
        price: float,
        *,
        deepest: int = EXITS,
        budget: float = inf,
        tolerance: float = 0.5 / 255,
    ) -> Adapted:
        """The frame at t between two encoded frames of one sample each.

        price       dB for the network's whole arithmetic (models/rife/finder.py); -inf is full depth, inf the cheapest
        deepest     the last exit that may be taken
        budget      multiply-accumulates: the price rises until the patches together keep within it, as far as the
                    first block lets them
        tolerance   patches, and those around them, where no value of both frames differs by more stand still
        """
        height, width = first.image.shape[-2:]
        moving = moving_patches(first.image, second.image, tolerance)
        if not bool(moving.any()):
            return unmoved(first, second)
        price = min(max(price, -DEAREST), DEAREST)
        costs, still, area = self.costs[:deepest], ~moving[:, 0], height * width
        run = Run(self.network, first, second, t)
        run.refine(0, [run.whole])
        macs, depths = area * self._macs[0], torch.ones_like(still, dtype=torch.int64)
        if deepest > 1:
            macs += area * finder_macs(1)
            errors = _silenced(self.finder(run.evidence(), 1)[:, :deepest], still)
            next_macs = area * (self._macs[1] + (finder_macs(2) if deepest > 2 else 0))
            if macs + next_macs <= budget and continues(errors, costs, price):
                run.refine(1, [run.whole])
                macs, depths = macs + next_macs, depths + 1
        if deepest > 2 and int(depths.max()) == 2:
            errors = _silenced(self.finder(run.evidence(), 2)[:, : deepest - 1], still)
            depths = _affordable(
                lambda p: exits_of(errors, costs[1:], p), self._windows_macs(run), price, budget - macs
            )
            macs += self._windows_macs(run)(depths)
            for index in range(2, deepest):
                run.refine(index, run.cover(depths, index))
        rows = depths.masked_fill(still, 0)[0].tolist()
        return Adapted(run.synthesis(), tuple(map(tuple, rows)), _pixels_of(still, first.size), round(macs))

    def _windows_macs(self, run: Run) -> Callable[[Tensor], float]:
        def macs(depths: Tensor) -> float:
            return sum(
                self._macs[index] * area.grown(MARGINS[index], run.height, run.width).pixels
                for index in MARGINS
                for area in run.cover(depths, index)
            )

        return macs

    def lesson(self, first: Encoded, second: Encoded, t: float) -> tuple[list[Tensor], list[Tensor]]:
        """(the finder's evidence after each of STAGES, the picture after each block), all on the whole frame."""
        run = Run(self.network, first, second, t)
        seen, pictures = [], []
        for index in range(EXITS):
            run.refine(index, [run.whole])
            pictures.append(run.synthesis().frame)
            if index + 1 in STAGES:
                seen.append(run.evidence())
        return seen, pictures


class Run:
    """The state of one synthesis, block after block."""

    def __init__(self, network: IFNet, first: Encoded, second: Encoded, t: float) -> None:
        self._network, self._sides, self._t = network, (first, second), t
        self.height, self.width = first.image.shape[-2:]
        self.whole = Area(0, 0, self.height, self.width)
        self._grid = grid_of(self.height, self.width, first.image.device)
        self._time = time_plane(t, first.image)
        self._flow = first.image.new_zeros(1, 4, self.height, self.width)
        self._mask = self._flow[:, :1]
        self._view: _View | None = None
        self._before = sampled(self._flow)  # the last block

    def cover(self, depths: Tensor, index: int) -> list[Area]:
        return cover((depths[0] > index).tolist(), PATCH, self.height, self.width, MARGINS[index])

    def refine(self, index: int, areas: Sequence[Area]) -> None:
        """Block `index` on the areas; the first two blocks take the whole frame alone."""
        if not areas:
            return
        if index:
            self._before = self._seen().flow
        if list(areas) == [self.whole]:
            delta, mask = self._block(index, self.whole)
            self._flow, self._mask = (delta if index == 0 else self._flow + delta), mask
        else:
            self._add(index, areas)
        self._view = None

    def _add(self, index: int, areas: Sequence[Area]) -> None:
        total = self._flow.new_zeros(1, 6, self.height, self.width)  # of flows, mask and weights
        for area in areas:
            window = area.grown(MARGINS[index], self.height, self.width)
            place = _slices(window)
            delta, logit = self._block(index, window)
            weight = _fading(area, window, total.device)
            total[place] += torch.cat([delta, logit - self._mask[place], torch.ones_like(logit)], 1) * weight
        added = total[:, :5] / total[:, 5:].clamp_min(1)
        self._flow, self._mask = self._flow + added[:, :4], self._mask + added[:, 4:]

    def _block(self, index: int, window: Area) -> tuple[Tensor, Tensor]:
        """(what to add to the flows, mask logit) in a window."""
        block: Block = getattr(self._network, f"block{index}")
        scale = NATIVE[index]
        if index == 0:
            images, features = ([getattr(side, name) for side in self._sides] for name in ("image", "features"))
            parts = [resize(x, 1 / scale) for x in (*images, *features, self._time)]
            return block.at_scale(torch.cat(parts, 1), None, scale)
        if scale == 4:  # reads a quarter of the pixels, on the whole frame
            view = self._seen()
            flow, mask, grid, time, warped = view.flow, view.mask, view.grid, sampled(self._time), view.warped
        else:
            flow, mask, grid, time = (x[_slices(window)] for x in (self._flow, self._mask, self._grid, self._time))
            warped = self._warped("image", flow, grid)
        parts = [*warped, *self._warped("features", flow, grid), time, mask, flow]
        if scale > 1:  # bilinear without antialiasing is the mean of the four pixels in the middle of a cell
            parts = [F.avg_pool2d(x, 2) for x in parts]
        return block.at_scale(torch.cat(parts[:-1], 1), parts[-1], scale)

    def _warped(self, name: str, flow: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (getattr(side, name) for side in self._sides)
        return warp(first, flow[:, :2], grid), warp(second, flow[:, 2:], grid)

    def _seen(self) -> _View:
        """What block 2 and the finder read, of every block's result computed once."""
        if self._view is None:
            flow, mask, grid = (sampled(x) for x in (self._flow, self._mask, self._grid))
            self._view = _View(flow, mask, grid, self._warped("image", flow, grid))
        return self._view

    def evidence(self) -> Tensor:
        """[1,9,H/8,W/8], for the finder."""
        view = self._seen()
        frames = (sampled(self._sides[0].image), sampled(self._sides[1].image))
        return evidence(view.warped, frames, view.flow, self._before, view.mask, self._t)

    def synthesis(self) -> Synthesis:
        height, width = self._sides[0].size
        flow, mask, grid = (x[..., :height, :width] for x in (self._flow, self._mask, self._grid))
        return Synthesis(flow, mask, self._warped("image", flow, grid))


@dataclass(frozen=True, eq=False)
class _View:
    """The state at the sampled pixels, at half the frame's sides."""

    flow: Tensor
    mask: Tensor
    grid: Tensor
    warped: tuple[Tensor, Tensor]


def sampled(x: Tensor) -> Tensor:
    """The middle four of every 4x4 pixels, [N,C,H,W] -> [N,C,H/2,W/2]: what a block at 1/4 of the size reads."""
    count, channels, height, width = x.shape
    cells = x.reshape(count, channels, height // 4, 4, width // 4, 4)
    return cells[:, :, :, 1:3, :, 1:3].reshape(count, channels, height // 2, width // 2)


def moving_patches(frame0: Tensor, frame1: Tensor, tolerance: float) -> Tensor:
    """Patches in which, or beside which, a value differs by more, bool [N,1,rows,columns] of [N,3,H,W]."""
    differs = ((frame0 - frame1).abs().amax(1, keepdim=True) > tolerance).float()
    return F.max_pool2d(F.max_pool2d(differs, PATCH, ceil_mode=True), 3, 1, 1) > 0


def unmoved(first: Encoded, second: Encoded) -> Adapted:
    """Of frames that are equal everywhere: no network, no flow."""
    height, width = first.size
    images = (first.image[..., :height, :width], second.image[..., :height, :width])
    nothing = images[0].new_zeros(1, 4, height, width)
    rows, columns = (-(-side // PATCH) for side in first.image.shape[-2:])
    still = torch.ones(1, 1, height, width, dtype=torch.bool, device=nothing.device)
    return Adapted(Synthesis(nothing, nothing[:, :1], images), ((0,) * columns,) * rows, still, 0)


def _affordable(
    exits: Callable[[float], Tensor], macs: Callable[[Tensor], float], price: float, budget: float
) -> Tensor:
    """The exits at the smallest price, from `price` on, that keeps within the budget (to 1/2^14 of the range)."""
    depths = exits(price)
    if macs(depths) <= budget:
        return depths
    low, high = max(price, 1e-4), DEAREST
    depths = exits(high)
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        tried = exits(middle)
        if macs(tried) <= budget:
            high, depths = middle, tried
        else:
            low = middle
    return depths


def _silenced(errors: Tensor, still: Tensor) -> Tensor:
    """Nothing can be lost where the frames are equal."""
    return errors.masked_fill(still[:, None], -20.0)


def _pixels_of(patches: Tensor, size: tuple[int, int]) -> Tensor:
    whole = patches[:, None].repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    return whole[..., : size[0], : size[1]]


def _slices(area: Area) -> tuple[Any, slice, slice]:
    return (..., slice(area.top, area.bottom), slice(area.left, area.right))


def _fading(area: Area, window: Area, device: torch.device) -> Tensor:
    """1 inside the area, falling to 0 within FADE pixels outside, (window height, window width)."""

    def ramp(low: int, high: int, start: int, end: int) -> Tensor:
        centres = torch.arange(start, end, device=device) + 0.5
        outside = torch.maximum(low - centres, centres - high).clamp_min(0)
        return (1 - outside / FADE).clamp_min(0)

    rows = ramp(area.top, area.bottom, window.top, window.bottom)
    return rows[:, None] * ramp(area.left, area.right, window.left, window.right)
