"""Batches for a compact IFNet: two frames, the time, the frame that was there, and the teacher's flows where known.

A batch is a pure function of (seed, step, rank): a resumed run sees exactly the data that an uninterrupted one would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.training.clips import Frames
from pipeline.training.rife_lessons import HALF, Lesson, School, Window, Windows
from pipeline.training.rife_recipe import RifeRecipe
from pipeline.training.rife_scenes import make_scene
from pipeline.training.sampling import CHAOS, colour_jitter

Flows = npt.NDArray[np.float16]
CANDIDATES = 6
"""Crops looked at before one is chosen by how much moves in it."""
FAR = 8.0
"""Mean length of the flows' components, px, beyond which more motion is no better."""


class RifeBatch(NamedTuple):
    """Frames [N,3,S,S] RGB 0..1, times [N], known flows in px and mask logit [N,5,S,S].

    taught [N]: 1 where a teacher's flows are known, 2 where exact ones are, 0 where none.
    """

    frame0: Tensor
    wanted: Tensor
    frame1: Tensor
    t: Tensor
    teacher: Tensor
    taught: Tensor

    def to(self, device: torch.device) -> RifeBatch:
        return RifeBatch(*(x.to(device, non_blocking=True) for x in self))


class Sample(NamedTuple):
    """frames [3,S,S,3]: before, wanted, after; flows [5,S/2,S/2], None where none are known."""

    frames: Frames
    t: float
    flows: Flows | None
    exact: bool = False


class RifeSampler:
    """`held_out` draws untaught windows from the frames that training never sees."""

    def __init__(self, school: School, recipe: RifeRecipe, *, held_out: bool = False) -> None:
        self._recipe, self._lessons, self._held_out = recipe, school.lessons, held_out
        self._seed = recipe.seed + (1 << 32 if held_out else 0)
        self._windows = Windows(school.clips, recipe, held_out=held_out)
        self._stills = [c for c in school.clips if min(c.frames.shape[1:3]) >= 2 * recipe.largest_crop] or school.clips

    def batch(self, step: int, rank: int = 0) -> RifeBatch:
        progress = 1.0 if self._held_out else step / self._recipe.schedule.steps
        stage = self._recipe.stage(progress)
        frames, times, flows, taught = [], [], [], []
        for index in range(stage.batch):
            rng = np.random.default_rng([self._seed, step, rank, index])
            sample = turned(self._draw(stage.crop, progress, rng), rng, transpose=self._recipe.data.clips.transpose)
            picture = torch.from_numpy(sample.frames.copy()).permute(0, 3, 1, 2).float().div_(255)
            frames.append(colour_jitter(picture, rng, self._recipe.data.clips.colour_jitter))
            times.append(sample.t)
            flows.append(sample.flows)
            taught.append(0.0 if sample.flows is None else 1.0 + sample.exact)
        nothing = np.zeros((5, stage.crop // HALF, stage.crop // HALF), np.float16)
        known = torch.from_numpy(np.stack([nothing if each is None else each for each in flows])).float()
        before, middle, after = (frame.contiguous() for frame in torch.stack(frames, 1))
        teacher = F.interpolate(known, scale_factor=float(HALF), mode="bilinear", align_corners=False)
        return RifeBatch(before, middle, after, torch.tensor(times), teacher, torch.tensor(taught))

    def _draw(self, crop: int, progress: float, rng: np.random.Generator) -> Sample:
        data = self._recipe.data
        if not self._held_out and rng.random() < data.clips.synthetic.at(progress):
            reach = data.clips.synthetic_reach.at(progress)
            return Sample(*make_scene(self._stills, crop, 2 * reach, rng), exact=True)
        known = not self._held_out and rng.random() < data.share.at(progress)
        places = []
        for _ in range(CANDIDATES if data.clips.seek_motion else 1):
            lesson = self._lessons[rng.integers(len(self._lessons))] if known else None
            places.append(Place.drawn(lesson.window if lesson else self._windows.draw(rng), lesson, crop, rng))
        odds = np.array([place.motion() for place in places]) + 0.02
        return places[rng.choice(len(places), p=odds / odds.sum())].cut()


@dataclass(frozen=True)
class Place:
    """A square of a window's frames."""

    window: Window
    lesson: Lesson | None
    top: int
    left: int
    side: int

    @classmethod
    def drawn(cls, window: Window, lesson: Lesson | None, side: int, rng: np.random.Generator) -> Place:
        # Even, so that a lesson's half-sized flows are cut at the same place.
        top, left = (HALF * int(rng.integers((s - side) // HALF + 1)) for s in window.clip.frames.shape[1:3])
        return cls(window, lesson, top, left, side)

    def motion(self) -> float:
        """How much moves, as far as it is known: the length of the flows, else the frames' difference; at most 1."""
        rows, columns = slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)
        if self.lesson is not None:
            halves = (slice(4), *(slice(s.start // HALF, s.stop // HALF, 4) for s in (rows, columns)))
            return min(float(np.abs(self.lesson.flows()[halves].astype(np.float32)).mean()), FAR) / FAR
        before, after = (
            self.window.clip.frames[i, rows, columns][::4, ::4].astype(np.int16)
            for i in (self.window.first, self.window.last)
        )
        return min(float(np.abs(after - before).mean()), CHAOS) / CHAOS

    def cut(self) -> Sample:
        rows, columns = slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)
        shown = (self.window.first, self.window.wanted, self.window.last)
        frames = np.stack([self.window.clip.frames[i, rows, columns] for i in shown])
        if self.lesson is None:
            return Sample(frames, self.window.t, None)
        halves = (slice(None), *(slice(s.start // HALF, s.stop // HALF) for s in (rows, columns)))
        return Sample(frames, self.window.t, np.array(self.lesson.flows()[halves]))


def turned(sample: Sample, rng: np.random.Generator, *, transpose: bool) -> Sample:
    """Mirror, play backwards and, if asked, transpose, each with probability one half; flows and time go along."""
    mirror, upset, turn, backwards = rng.random(4) < 0.5
    frames, t, flows, exact = sample
    flows = None if flows is None else flows.copy()
    if mirror:
        frames = frames[:, :, ::-1]
        if flows is not None:
            flows = flows[:, :, ::-1].copy()
            flows[[0, 2]] *= -1
    if upset:
        frames = frames[:, ::-1]
        if flows is not None:
            flows = flows[:, ::-1].copy()
            flows[[1, 3]] *= -1
    if turn and transpose:
        frames = frames.transpose(0, 2, 1, 3)
        flows = None if flows is None else flows.transpose(0, 2, 1)[[1, 0, 3, 2, 4]]
    if backwards:
        frames, t = frames[::-1], 1 - t
        if flows is not None:
            flows = flows[[2, 3, 0, 1, 4]]
            flows[4] *= -1
    return Sample(frames, t, flows, exact)
