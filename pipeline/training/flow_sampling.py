"""Batches of made triplets: scenes, then what a camera does to them.

A batch is a pure function of (seed, step, rank): a resumed run sees exactly the data that an uninterrupted one would.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.training.flow_recipe import FlowRecipe, MotionRecipe
from pipeline.training.flow_scene import Triplet, make_scene
from pipeline.training.flow_shapes import draw_shapes
from pipeline.training.flow_textures import Pyramid

SHAPES = 256
HELD_OUT = 1 << 32  # added to the seed: scenes that training never sees


@functools.lru_cache(maxsize=4)
def shape_bank(seed: int) -> Tensor:
    """The outlines that a sampler chooses from; drawn once a process, as they take a second."""
    return draw_shapes(np.random.default_rng(seed), SHAPES)


class FlowBatch(NamedTuple):
    frames: Tensor  # [N,3,3,H,W] RGB 0..255
    flow: Tensor  # [N,2,2,H,W] px: backward, forward
    valid: Tensor  # [N,2,H,W], 1 where there is a target

    def to(self, device: torch.device) -> FlowBatch:
        return FlowBatch(*(x.to(device, non_blocking=True) for x in self))


class SceneSampler:
    """Draws batches by a recipe."""

    def __init__(self, pictures: Sequence[Pyramid], recipe: FlowRecipe, *, held_out: bool = False) -> None:
        self._pictures, self._recipe = pictures, recipe
        self._seed = recipe.seed + (HELD_OUT if held_out else 0)
        self._last: tuple[tuple[int, int], FlowBatch] | None = None
        self._shapes = shape_bank(self._seed)

    def batch(self, step: int, rank: int = 0) -> FlowBatch:
        """The batch of one process at one optimiser step."""
        drawn, again = divmod(step, self._recipe.data.reuse)
        if self._last is None or self._last[0] != (drawn, rank):
            self._last = (drawn, rank), self._draw(drawn * self._recipe.data.reuse, rank)
        batch = self._last[1]
        return varied(batch, np.random.default_rng([self._seed, step, rank])) if again else batch

    def _draw(self, step: int, rank: int) -> FlowBatch:
        progress = step / self._recipe.schedule.steps
        stage, data = self._recipe.stage(progress), self._recipe.data
        triplets = []
        for index in range(stage.batch):
            rng = np.random.default_rng([self._seed, step, rank, index])
            triplets.append(make_triplet(self._pictures, self._shapes, data, data.reach.at(progress), stage.crop, rng))
        frames, flow = (torch.stack(part) for part in zip(*triplets, strict=True))
        return FlowBatch(frames, flow, torch.ones(len(frames), 2, *stage.crop))


def varied(batch: FlowBatch, rng: np.random.Generator) -> FlowBatch:
    """The same scenes played backwards, mirrored at random, with colours swapped: cheaper than new ones."""
    frames = batch.frames.flip(1)[:, :, torch.from_numpy(rng.permutation(3))]
    flow, valid = batch.flow.flip(1), batch.valid.flip(1)
    for component, axis in ((0, -1), (1, -2)):
        if rng.random() < 0.5:
            frames, flow, valid = frames.flip(axis), flow.flip(axis), valid.flip(axis)
            sign = torch.ones(2, 1, 1)
            sign[component] = -1
            flow = flow * sign
    return FlowBatch(frames, flow, valid)


def make_triplet(
    pictures: Sequence[Pyramid],
    shapes: Tensor,
    recipe: MotionRecipe,
    reach: float,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Triplet:
    """A scene as a camera records it."""
    scene = make_scene(pictures, shapes, recipe, reach, size, rng)
    shutter = float(rng.uniform(0.1, 0.5)) if rng.random() < recipe.shutter else 0.0
    times, flow = [-1.0, 0.0, 1.0], scene.flow()
    if rng.random() < recipe.still_end:  # a shot's end: the neighbour that is missing is the frame itself
        end = int(rng.integers(2))
        times[2 * end] = 0.0
        flow[end] = 0
    drawn = {time: scene.draw_blurred(time, shutter) if shutter else scene.draw(time) for time in dict.fromkeys(times)}
    drawn = dict(zip(drawn, record(torch.stack([*drawn.values()]), recipe, rng), strict=True))
    return Triplet(torch.stack([drawn[time] for time in times]), flow)


def record(frames: Tensor, recipe: MotionRecipe, rng: np.random.Generator) -> Tensor:
    """Focus, exposure, colour, erased rectangles, noise, and rounding to whole levels: [T,3,H,W] in 0..255."""
    if rng.random() < recipe.blur:
        frames = gaussian_blur(frames, float(rng.uniform(0.3, 1.2)))
    frames = expose(frames / 255, recipe.jitter, rng)
    if recipe.jitter and rng.random() < 0.2:
        frames = torch.cat([expose(frame[None], recipe.jitter / 2, rng) for frame in frames])
    if rng.random() < recipe.eraser:
        erase(frames[-1] if rng.random() < 0.5 else frames[0], rng)
    frames = frames * 255
    if rng.random() < 0.5 and recipe.noise:
        seed = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        frames = frames + torch.randn(frames.shape, generator=seed) * float(rng.uniform(0, recipe.noise))
    return frames.clamp(0, 255).round()


def expose(frames: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """One draw of gamma, gains, contrast and saturation for all of [T,3,H,W] in 0..1."""
    if not strength:
        return frames
    gamma, contrast, saturation = np.exp(rng.uniform(-strength, strength, 3)).tolist()
    gain = torch.from_numpy(np.exp(rng.uniform(-strength / 2, strength / 2, 3) + rng.uniform(-strength, strength)))
    frames = frames.clamp(0.002, 1).pow(gamma) * gain.float()[:, None, None]
    grey = frames.mean(1, keepdim=True)
    frames = grey + saturation * (frames - grey)
    middle = float(frames.mean())
    exposed: Tensor = (middle + contrast * (frames - middle)).clamp(0, 1)
    return exposed


def erase(frame: Tensor, rng: np.random.Generator) -> None:
    """One or two rectangles of the frame's mean colour over [3,H,W], in place."""
    height, width = frame.shape[-2:]
    mean = frame.mean((1, 2))[:, None, None]
    for _ in range(int(rng.integers(1, 3))):
        h, w = (int(rng.integers(max(1, side // 8), max(2, side // 4))) for side in (height, width))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        frame[:, top : top + h, left : left + w] = mean


def gaussian_blur(frames: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(2.5 * sigma))
    offsets = torch.arange(-reach, reach + 1).float()
    kernel = torch.exp(-(offsets**2) / (2 * sigma * sigma))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(frames, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)
