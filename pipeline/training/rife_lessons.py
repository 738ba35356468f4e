"""What a compact IFNet learns from its teacher: flows and masks of whole frames, found once and kept on disk.

A teacher that ran on every crop would take longer than the student's own step. Each lesson is one file, written whole:
a run that is cut off goes on where it was. Flows are smooth: they are kept at half the frame's sides, in fp16.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from models import weights
from models.rife import IFNet
from pipeline.errors import InputNotFound, WeightsUnusable
from pipeline.training.clips import Clip, load_clips
from pipeline.training.rife_recipe import RifeRecipe
from pipeline.training.sampling import Source, _sources, _weight
from pipeline.training.trainer import uses_bf16

LAYOUT = 1
HALF = 2
"""Of the frame's sides, those of the kept flows."""


@dataclass(frozen=True)
class Window:
    """Two frames of a clip that are known, and one between them that is wanted."""

    clip: Clip
    first: int
    wanted: int
    last: int

    @property
    def t(self) -> float:
        return (self.wanted - self.first) / (self.last - self.first)


@dataclass(frozen=True)
class Lesson:
    window: Window
    path: Path

    def flows(self) -> npt.NDArray[np.float16]:
        """[5,H/2,W/2]: the flows in px of the frame, and the mask's logit; memory-mapped."""
        kept: npt.NDArray[np.float16] = np.load(self.path, mmap_mode="r")
        return kept


@dataclass(frozen=True)
class School:
    """What a run draws from."""

    clips: list[Clip]
    lessons: list[Lesson]


class Windows:
    """Windows of clips by a recipe's weights; `held_out`: of the frames that training never sees."""

    def __init__(self, clips: Sequence[Clip], recipe: RifeRecipe, *, held_out: bool = False) -> None:
        self._sources: list[Source] = list(_sources(clips, recipe.data.clips, held_out))
        odds = np.array([_weight(source, recipe.data.clips) for source in self._sources])
        if not odds.sum() > 0:
            part = "held-out " if held_out else ""
            raise InputNotFound(
                f"no {part}window with motion in {sorted({c.name for c in clips})}; give clips in which things move"
            )
        self._odds = odds / odds.sum()

    def draw(self, rng: np.random.Generator) -> Window:
        clip, gap, starts = self._sources[rng.choice(len(self._sources), p=self._odds)]
        first = int(starts[rng.integers(len(starts))])
        return Window(clip, first, first + int(rng.integers(1, 2 * gap)), first + 2 * gap)


def load_school(recipe: RifeRecipe, folders: Sequence[Path], cache: Path) -> School:
    """Clips, and all lessons of a recipe, made where the cache lacks them. Raises InputNotFound, WeightsUnusable."""
    clips = [clip for one in folders for clip in load_clips(one, cache, recipe.data.clips.scales, recipe.largest_crop)]
    small = [clip for clip in clips if clip.frames.shape[1] * clip.frames.shape[2] <= recipe.data.largest]
    if not small:
        raise InputNotFound(
            f"no clip at scales {list(recipe.data.clips.scales)} has at most data.largest={recipe.data.largest} "
            "pixels; add a smaller scale"
        )
    try:
        loaded = weights.load(recipe.teacher)
        teacher = IFNet.from_reference(loaded.tensors)
    except (weights.WeightsError, KeyError, ValueError) as error:
        raise WeightsUnusable(f"teacher={recipe.teacher}: {error.args[0]}") from error
    bf16 = uses_bf16(recipe.precision, torch.device("cpu"))
    names = [[clip.name, clip.scale, list(clip.frames.shape)] for clip in small]
    drawn = recipe.data.clips.model_dump(mode="json", include={"gaps", "clip_weights", "held_out"})
    identity = json.dumps([LAYOUT, loaded.sha256, recipe.seed, bf16, drawn, names])
    folder = cache / f"rife-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    windows, lessons = Windows(small, recipe), []
    for number in range(recipe.data.lessons):
        window = windows.draw(np.random.default_rng([recipe.seed, number]))
        path = folder / f"{number:06d}.npy"
        if not path.exists():
            _write(path, taught(teacher, window, bf16))
        lessons.append(Lesson(window, path))
    return School(clips, lessons)


@torch.inference_mode()
def taught(teacher: IFNet, window: Window, bf16: bool) -> npt.NDArray[np.float16]:
    """The teacher's flows and mask on a whole window, as Lesson keeps them."""
    ends = (window.clip.frames[index] for index in (window.first, window.last))
    first, last = (torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 255 for frame in ends)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = teacher.between(teacher.encode_frame(first), teacher.encode_frame(last), window.t)
    known = torch.cat([found.flow, found.mask.clamp(-20, 20)], 1)
    kept: npt.NDArray[np.float16] = F.avg_pool2d(known, HALF, ceil_mode=True)[0].half().numpy()
    return kept


def _write(path: Path, array: npt.NDArray[np.float16]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        np.save(file, array)
    os.replace(file.name, path)
