"""What RIFE's finder learns from: its evidence on crops of real clips, and the error that each patch has at each exit.

IFNet runs once a crop, which is the dear part (a quarter of a second for 320x320 on one core). The lessons are kept
on disk in parts, each written whole: a run that is cut off goes on where it was. A lesson is a pure function of the
recipe, the clips and its number.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models import weights
from models.rife import IFNet
from models.rife.adaptive import AdaptiveIFNet
from models.rife.finder import PATCH, STAGES, Finder
from pipeline.errors import InputNotFound, WeightsUnusable
from pipeline.training.clips import Clip, load_clips
from pipeline.training.rife_finder_recipe import FinderRecipe
from pipeline.training.sampling import Source, _sources, _weight, flip

LAYOUT = 1
PART = 50  # lessons to a file


class FinderBatch(NamedTuple):
    """evidence: of each stage [N,9,S/8,S/8]; errors: mean squared error of each exit and patch [N,4,S/64,S/64]."""

    evidence: tuple[Tensor, ...]
    errors: Tensor

    def to(self, device: torch.device) -> FinderBatch:
        return FinderBatch(tuple(x.to(device) for x in self.evidence), self.errors.to(device))


@dataclass(frozen=True)
class Lessons:
    taught: FinderBatch
    kept: FinderBatch
    """From frames that teaching never sees."""


class LessonSampler:
    """Batches by (seed, step, rank) alone."""

    def __init__(self, lessons: FinderBatch, recipe: FinderRecipe) -> None:
        self._lessons, self._recipe = lessons, recipe

    def batch(self, step: int, rank: int = 0) -> FinderBatch:
        rng = np.random.default_rng([self._recipe.seed, step, rank])
        chosen = torch.from_numpy(rng.choice(len(self._lessons.errors), self._recipe.optimiser.batch))
        turned = [axis for axis in (-2, -1) if rng.random() < 0.5]  # nothing in the evidence has a direction
        pick = [x[chosen].float().flip(turned) for x in (*self._lessons.evidence, self._lessons.errors)]
        return FinderBatch(tuple(pick[:-1]), pick[-1])


def load_lessons(recipe: FinderRecipe, folders: Sequence[Path], cache: Path) -> Lessons:
    """All lessons of a recipe, made where the cache lacks them. Raises InputNotFound, WeightsUnusable."""
    data = recipe.data
    clips = [clip for one in folders for clip in load_clips(one, cache, data.clips.scales, data.crop)]
    try:
        loaded = weights.load(recipe.backbone)
        network = AdaptiveIFNet(IFNet.from_reference(loaded.tensors), Finder())
    except (weights.WeightsError, KeyError, ValueError) as error:
        raise WeightsUnusable(f"backbone={recipe.backbone}: {error.args[0]}") from error
    names = [[clip.name, clip.scale, list(clip.frames.shape)] for clip in clips]
    identity = json.dumps(
        [LAYOUT, loaded.sha256, recipe.seed, data.model_dump(mode="json", exclude={"lessons"}), names]
    )
    folder = cache / f"finder-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    taught = _made(network, clips, recipe, folder, held_out=False)
    return Lessons(taught, _made(network, clips, recipe, folder, held_out=True))


def _made(
    network: AdaptiveIFNet, clips: Sequence[Clip], recipe: FinderRecipe, folder: Path, *, held_out: bool
) -> FinderBatch:
    count = -(-recipe.data.lessons // 10) if held_out else recipe.data.lessons
    seed = recipe.seed + (1 << 32 if held_out else 0)
    sources = list(_sources(clips, recipe.data.clips, held_out))
    if not sources:
        raise InputNotFound(f"no triplet with motion in {sorted({c.name for c in clips})}; give clips that move")
    parts = []
    for start in range(0, count, PART):
        path = folder / f"{'kept' if held_out else 'taught'}-{start:06d}.npz"
        if not path.exists():
            made = [_lesson(network, sources, recipe, [seed, i]) for i in range(start, start + PART)]
            _write(path, made)
        with np.load(path) as arrays:
            parts.append([torch.from_numpy(arrays[name]) for name in (*(f"stage{s}" for s in STAGES), "errors")])
    joined = [torch.cat(columns)[:count] for columns in zip(*parts, strict=True)]
    return FinderBatch(tuple(joined[:-1]), joined[-1])


def _write(path: Path, made: Sequence[FinderBatch]) -> None:
    arrays = {f"stage{s}": torch.cat([x.evidence[k] for x in made]).numpy() for k, s in enumerate(STAGES)}
    arrays["errors"] = torch.cat([x.errors for x in made]).numpy()
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stubs take the arrays for its own flag
    os.replace(file.name, path)


@torch.inference_mode()
def _lesson(
    network: AdaptiveIFNet, sources: Sequence[Source], recipe: FinderRecipe, seed: Sequence[int]
) -> FinderBatch:
    rng = np.random.default_rng(seed)
    data = recipe.data
    odds = np.array([_weight(source, data.clips) for source in sources])
    clip, gap, starts = sources[rng.choice(len(sources), p=odds / odds.sum())]
    height, width = clip.frames.shape[1:3]
    start = int(starts[rng.integers(len(starts))])
    top, left = rng.integers(height - data.crop + 1), rng.integers(width - data.crop + 1)
    window = clip.frames[start : start + 2 * gap + 1, top : top + data.crop, left : left + data.crop]
    window = flip(window, rng, transpose=data.clips.transpose)
    frames = torch.from_numpy(window.copy()).permute(0, 3, 1, 2).float().div_(255)
    index = int(rng.integers(1, 2 * gap))
    first, second = (network.network.encode_frame(frame[None]) for frame in (frames[0], frames[-1]))
    seen, pictures = network.lesson(first, second, index / (2 * gap))
    errors = [F.avg_pool2d(((p - frames[index]) ** 2).mean(1, keepdim=True), PATCH) for p in pictures]
    return FinderBatch(tuple(x.half() for x in seen), torch.cat(errors, 1))
