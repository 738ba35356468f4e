"""Triplets for training: which frames, which crop, and one random change of all three alike.

A batch is a pure function of (seed, step, rank): a resumed run sees exactly the data that an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.alignment import to_middle
from pipeline.errors import InputNotFound
from pipeline.training.clips import Clip, Frames
from pipeline.training.recipe import DataRecipe, ScheduleRecipe, Stage
from pipeline.training.synthetic import OVERSAMPLING, make_triplet

CANDIDATES = 4  # crops looked at before one is chosen by how much moves in it
CHAOS = 12.0  # grey levels of change beyond which more is no better: it is as often disorder as motion
MARGIN = 32
"""Pixels around a crop that its motion is found with, where the frame has them."""


class Batch(NamedTuple):
    frame0: Tensor  # [N,3,H,W] RGB 0..1
    middle: Tensor
    frame1: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(x.to(device, non_blocking=True) for x in self))


class TripletRecipe(Protocol):
    """What a sampler reads of a recipe."""

    @property
    def data(self) -> DataRecipe: ...
    @property
    def seed(self) -> int: ...
    @property
    def schedule(self) -> ScheduleRecipe: ...
    @property
    def largest_crop(self) -> int: ...
    def stage(self, progress: float) -> Stage: ...


class Source(NamedTuple):
    """Triplets of one clip at one gap, by their first frames."""

    clip: Clip
    gap: int
    starts: npt.NDArray[np.int64]


class TripletSampler:
    """Draws batches from clips by a recipe. `held_out` draws from the frames that training never sees."""

    def __init__(self, clips: Sequence[Clip], recipe: TripletRecipe, *, held_out: bool = False) -> None:
        self._recipe, self._data = recipe, recipe.data
        self._seed = recipe.seed + (1 << 32 if held_out else 0)
        self._sources = list(_sources(clips, recipe.data, held_out))
        weights = np.array([_weight(source, recipe.data) for source in self._sources])
        if not weights.sum() > 0:
            part = "held-out " if held_out else ""
            raise InputNotFound(
                f"no {part}triplet with motion in {sorted({c.name for c in clips})}; give clips in which things move"
            )
        self._probabilities = weights / weights.sum()
        enough = min(recipe.largest_crop * OVERSAMPLING, max(min(c.frames.shape[1:3]) for c in clips))
        self._stills = [c for c in clips if min(c.frames.shape[1:3]) >= enough]

    def batch(self, step: int, rank: int = 0) -> Batch:
        """The batch of one process at one optimiser step."""
        return self.draw(step, rank)[0]

    def draw(self, step: int, rank: int = 0) -> tuple[Batch, list[int]]:
        """The batch, and the short side of the frame that each of its triplets was cut from, in its own pixels."""
        progress = step / self._recipe.schedule.steps
        stage = self._recipe.stage(progress)
        samples, sides = [], []
        side_seen = stage.crop + (2 * MARGIN if self._data.align else 0)
        for index in range(stage.batch):
            rng = np.random.default_rng([self._seed, step, rank, index])
            if rng.random() < self._data.synthetic.at(progress):
                reach = self._data.synthetic_reach.at(progress)
                frames, side = make_triplet(self._stills, side_seen, reach, rng), stage.crop
            else:
                frames, side = self._real(side_seen, rng)
            frames = flip(frames, rng, transpose=self._data.transpose)
            scaled = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float().div_(255)
            changed = colour_jitter(scaled, rng, self._data.colour_jitter)
            samples.append(centre(aligned(changed), stage.crop) if self._data.align else changed)
            sides.append(side)
        stacked = torch.stack(samples, 1)  # (3 frames, N, 3, S, S)
        return Batch(*(frame.contiguous(memory_format=torch.channels_last) for frame in stacked)), sides

    def pick(self, rng: np.random.Generator) -> tuple[Source, int]:
        """A source and the first frame of one of its triplets."""
        source = self._sources[rng.choice(len(self._sources), p=self._probabilities)]
        return source, int(rng.choice(source.starts))

    def _real(self, crop: int, rng: np.random.Generator) -> tuple[Frames, int]:
        """[3,crop,crop,3] uint8, or as much as the frame has, and the frame's short side."""
        clip, gap, starts = self._sources[rng.choice(len(self._sources), p=self._probabilities)]
        height, width = clip.frames.shape[1:3]
        crop = min(crop, height, width)
        windows, motions = [], []
        for _ in range(CANDIDATES if self._data.seek_motion else 1):
            start = int(starts[rng.integers(len(starts))])
            top, left = rng.integers(height - crop + 1), rng.integers(width - crop + 1)
            window = clip.frames[start : start + 2 * gap + 1 : gap, top : top + crop, left : left + crop]
            thin = window[:, ::4, ::4].astype(np.int16)
            before, after = np.abs(thin[1] - thin[0]).mean(), np.abs(thin[2] - thin[1]).mean()
            windows.append(window)
            motions.append(min(before, after, CHAOS) + 0.05)
        weights = np.array(motions)
        return windows[rng.choice(len(windows), p=weights / weights.sum())], min(height, width)


def _sources(clips: Sequence[Clip], data: DataRecipe, held_out: bool) -> list[Source]:
    found = []
    for clip in clips:
        boundary = round(len(clip.frames) * (1 - data.held_out))
        for gap in data.gaps:
            starts = clip.triplets(gap)
            starts = starts[starts >= boundary] if held_out else starts[starts + 2 * gap < boundary]
            if len(starts):
                found.append(Source(clip, gap, starts))
    return found


def _weight(source: Source, data: DataRecipe) -> float:
    # The root lets a long clip count for more than a short one, yet not drown it.
    root: float = len(source.starts) ** 0.5
    return root * data.gaps[source.gap] * data.clip_weights.get(source.clip.name, 1.0)


def aligned(frames: Tensor) -> Tensor:
    """[3,3,H,W]: before, middle, after; the outer two as they look in the middle by the motion between them."""
    before, middle, after = (frames[index : index + 1] for index in range(3))
    before, after = to_middle(before, after)
    return torch.cat([before, middle, after])


def centre(frames: Tensor, side: int) -> Tensor:
    top, left = ((length - side) // 2 for length in frames.shape[-2:])
    return frames[..., top : top + side, left : left + side]


def flip(frames: Frames, rng: np.random.Generator, *, transpose: bool) -> Frames:
    """Mirror, play backwards and, if asked, transpose, each with probability one half; [T,S,S,C] square frames."""
    mirror, upset, turn, backwards = rng.random(4) < 0.5
    if mirror:
        frames = frames[:, :, ::-1]
    if upset:
        frames = frames[:, ::-1]
    if turn and transpose:
        frames = frames.transpose(0, 2, 1, 3)
    return frames[::-1] if backwards else frames


def colour_jitter(
    frames: Tensor, rng: np.random.Generator, strength: float, hue_strength: float | None = None
) -> Tensor:
    """Brightness, contrast, saturation (factors 1 ± strength) and hue (turn ± hue_strength) of [T,3,H,W] in 0..1.

    One draw for all T frames: the official code relied on a shared random state for it.
    """
    if not strength:
        return frames
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).tolist()
    reach = strength if hue_strength is None else hue_strength
    hue = float(rng.uniform(-reach, reach)) * 2 * np.pi
    frames = (frames * brightness).clamp(0, 1)
    luma = torch.tensor([0.299, 0.587, 0.114])
    grey = torch.einsum("c,tchw->thw", luma, frames).mean()  # of the triplet, so that no frame drifts from another
    frames = ((frames - grey) * contrast + grey).clamp(0, 1)
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    cos, sin = float(np.cos(hue)) * saturation, float(np.sin(hue)) * saturation
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("oc,tchw->tohw", matrix, frames).clamp(0, 1)
