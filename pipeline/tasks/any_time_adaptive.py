"""RIFE with an exit for each patch: any place between two frames, at the arithmetic that its motion asks for.

Decisions depend on the two frames, the place and the configuration alone. Frames go through one by one, on a GPU too:
the windows that later blocks work on differ from frame to frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import inf

import torch
from torch import Tensor

from models.cain_sd.cain import centred_padding
from models.rife import Encoded, copy_static
from models.rife.adaptive import Adapted, AdaptiveIFNet
from models.rife.cost import encode_macs, frame_macs, padded_area
from models.rife.finder import PATCH, price_of
from models.rife.ifnet import padding_multiple
from pipeline.config import InterpolateConfig
from pipeline.plan.adaptive import STATIC, STATIC_DEPTH, Choice, FrameDecisions
from pipeline.plan.patches import Patch, patch_grid
from pipeline.tasks.any_time import AnyTimeModel
from pipeline.tasks.interpolators import Made, Pair, patched


class AdaptiveAnyTimeModel(AnyTimeModel):
    """What depends on one frame alone is computed once for it, as without decisions."""

    adaptive = True

    def __init__(self, network: AdaptiveIFNet, config: InterpolateConfig, device: str, precision: str) -> None:
        super().__init__(network.network, config, device, precision)
        network.finder.to(device)
        self._adaptive = network
        self._price = price_of(config.quality)
        self._tolerance = config.adaptive_patch.static / 255
        self.spent = 0
        """FLOPs of all pictures so far."""

    @torch.inference_mode()
    def between(self, pairs: Sequence[Pair]) -> list[list[Made]]:
        made = [[self._one(pair, t) for t in pair.places] for pair in pairs]
        self._forget(pairs)
        self.spent += sum(one.decisions.flops for pictures in made for one in pictures if one.decisions)
        return made

    def _one(self, pair: Pair, t: Fraction) -> Made:
        left, right = (frame.to(self._device)[None] for frame in (pair.left, pair.right))
        height, width = left.shape[-2:]
        encode = encode_macs(self._network.sizes) / len(pair.places)
        whole = padded_area(height, width, self._scales)
        full = frame_macs(height, width, self._scales, self._network.sizes) + encode * whole
        tally = _Tally(height, width, full)
        if bool(((left - right).abs() <= self._tolerance).all()):  # known before anything is encoded
            return Made(torch.lerp(left, right, float(t))[0].clamp(0, 1), t, tally.decisions())
        if height * width <= self._config.patch.max_area:
            tally.macs += encode * whole
            picture = self._adapted(left, right, self._encode(pair.left), self._encode(pair.right), t, tally)
        else:
            multiple = padding_multiple(self._scales)
            padding = centred_padding(height, width, multiple, 2 * multiple)
            tall, wide = height + sum(padding[2:]), width + sum(padding[:2])
            cut = self._config.patch
            places = iter(patch_grid(tall, wide, cut.size, cut.overlap, multiple))  # in the order of `patched`

            def one(left: Tensor, right: Tensor, means: object) -> Tensor:
                # A picture of its own, whose features end where it does: both frames are encoded for it anew.
                place = next(places)
                tally.begin(place.top - padding[2], place.left - padding[0])
                tally.macs += 2 * encode_macs(self._network.sizes) * place.height * place.width
                ends = self._encoded_now(left), self._encoded_now(right)
                return self._adapted(left, right, *ends, t, tally)

            picture = patched(one, left, right, cut, multiple)
        return Made(picture[0], t, tally.decisions())

    def _adapted(
        self, left: Tensor, right: Tensor, first: Encoded, second: Encoded, t: Fraction, tally: _Tally
    ) -> Tensor:
        with self._autocast():
            made = self._adaptive.between(
                first, second, float(t), self._price, deepest=self._config.blocks, budget=self._left(first, tally),
                tolerance=self._tolerance,
            )  # fmt: skip
        tally.add(made)
        frame = made.found.frame
        if self._config.copy_static:
            frame = copy_static(frame, left, right, made.found.warped)
        return torch.where(made.still, torch.lerp(left, right, float(t)), frame).clamp(0, 1)

    def _left(self, first: Encoded, tally: _Tally) -> float:
        """What the frame's budget leaves to the blocks, on this part of it."""
        if self._config.flops_budget is None:
            return inf
        area = first.image.shape[-2] * first.image.shape[-1]
        allowed = self._config.flops_budget * tally.full
        if first.size == (tally.height, tally.width):
            return allowed - tally.macs
        # Of a frame in parts, each part has its share by area, less its own encoding.
        share = area / padded_area(tally.height, tally.width, self._scales)
        return allowed * share - 2 * encode_macs(self._network.sizes) * area


class _Tally:
    """A frame's patches and what they took, gathered over the parts that a large frame is worked on in."""

    def __init__(self, height: int, width: int, full: float) -> None:
        self.height, self.width, self.full, self.macs = height, width, full, 0.0
        self._rows, self._columns = -(-height // PATCH), -(-width // PATCH)
        self._depths = [[STATIC_DEPTH] * self._columns for _ in range(self._rows)]
        self._top = self._left = 0

    def begin(self, top: int, left: int) -> None:
        """The next part lies there in the frame, padding included."""
        self._top, self._left = top, left

    def add(self, made: Adapted) -> None:
        """Every patch counts for the frame's patches that its inside meets; the deepest one shows."""
        self.macs += made.macs
        for row, depths in enumerate(made.depths):
            for column, depth in enumerate(depths):
                for y in self._met(self._top + row * PATCH, self._rows):
                    for x in self._met(self._left + column * PATCH, self._columns):
                        self._depths[y][x] = max(self._depths[y][x], depth)

    def decisions(self) -> FrameDecisions:
        patches, choices = [], []
        for row, depths in enumerate(self._depths):
            for column, depth in enumerate(depths):
                top, left = row * PATCH, column * PATCH
                patches.append(Patch(top, left, min(PATCH, self.height - top), min(PATCH, self.width - left)))
                choices.append(Choice(1, depth) if depth else STATIC)
        return FrameDecisions(tuple(patches), tuple(choices), round(2 * self.macs), round(2 * self.full))

    @staticmethod
    def _met(start: int, count: int) -> range:
        """Of `count` patches in a row, those that a patch from `start` on covers by half or more."""
        first = (start + PATCH // 2) // PATCH
        return range(max(first, 0), min(first + 1, count))
