"""Any time between two frames, model beside model: frames (i, i + 4) of real clips give i + 1, i + 2 and i + 3.

For every clip, i = 0, 20, 40, … inside a shot, at the clip's size up to 1280x720, PSNR on 8-bit RGB and processor
seconds a frame, each model as jobs/interpolate.py runs it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from models.alignment import align, match
from models.synthesis import Between
from pipeline.config import InterpolateConfig
from pipeline.errors import InputNotFound
from pipeline.metrics import psnr
from pipeline.tasks import interpolate_model
from pipeline.tasks.interpolators import Blend, Interpolator, Made, Pair
from pipeline.training.clips import Frames, find_videos
from pipeline.training.evaluation import of_windows

APART = 4
SPACING = 20
PLACES = tuple(Fraction(k, APART) for k in range(1, APART))
RECURSION = ":recursion"
PLAIN = ("average", "aligned", "splatted")
"""Without a network: both frames as they are, along the middle's motion, along the motion as splatted."""


@dataclass(frozen=True)
class Row:
    """Means over the clips of their means. psnr: dB at each of PLACES; seconds: of the processor, a frame."""

    model: str
    psnr: tuple[float, ...]
    seconds: float
    windows: int


class Plain:
    """One of PLAIN as a model."""

    def __init__(self, make: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
        self._make = make

    def between(self, pairs: Sequence[Pair]) -> list[list[Made]]:
        made = []
        for pair in pairs:
            left, right = pair.left[None], pair.right[None]
            motion = match(left, right)
            made.append([Made(self._make(left, right, motion, float(t))[0], t) for t in pair.places])
        return made


def _aligned(left: Tensor, right: Tensor, motion: Tensor, t: float) -> Tensor:
    return torch.lerp(*align(left, right, motion, t), t)


def _splatted(left: Tensor, right: Tensor, motion: Tensor, t: float) -> Tensor:
    return torch.lerp(*Between(left, right, motion).at(t), t)


def build(name: str, precision: str) -> Interpolator:
    """A model by its name in the weights table, path or URI, or one of PLAIN; name:recursion for times=recursion.

    Raises as interpolate_model.build.
    """
    if name in PLAIN:
        return Blend() if name == "average" else Plain(_aligned if name == "aligned" else _splatted)
    model = name.removesuffix(RECURSION)
    config = InterpolateConfig(model=model, times="auto" if model == name else "recursion")
    return interpolate_model.build(config, "cpu", precision)[0]


def run(clips: Path, names: Sequence[str], every: int, precision: str, threads: int) -> list[Row]:
    """A row a model. every: only each n-th window. Raises InputNotFound where nothing can be measured."""
    torch.set_num_threads(threads)
    models = {name: build(name, precision) for name in names}
    videos = [clips] if clips.is_file() else find_videos(clips)
    by_clip = [found for video in videos if (found := _clip(video, models, every))]
    if not by_clip:
        raise InputNotFound(f"{clips}: no clip has {APART + 1} frames inside one shot; give longer clips")
    rows = []
    for name in names:
        means = [torch.tensor([one[name] for one in found], dtype=torch.float64).mean(0) for found in by_clip]
        *db, seconds = torch.stack(means).mean(0).tolist()
        rows.append(Row(name, tuple(db), seconds, sum(map(len, by_clip))))
    return rows


def _clip(video: Path, models: dict[str, Interpolator], every: int) -> list[dict[str, list[float]]]:
    """For each window and model: PSNR at each place, and seconds a frame. Empty where no window is inside a shot."""

    def measure(window: Sequence[Frames]) -> dict[str, list[float]]:
        frames = [torch.from_numpy(frame.copy()).permute(2, 0, 1).float() / 255 for frame in window]
        return {name: _scores(model, frames) for name, model in models.items()}

    return of_windows(video, measure, APART + 1, SPACING, every)[1]


@torch.inference_mode()
def _scores(model: Interpolator, frames: Sequence[Tensor]) -> list[float]:
    """Of one window: dB at each place, then seconds a frame."""
    pair = Pair(frames[0], frames[-1], PLACES)
    begun = time.process_time()
    made = model.between([pair])[0]
    seconds = (time.process_time() - begun) / len(PLACES)
    return [*(psnr(one.picture, frame) for one, frame in zip(made, frames[1:-1], strict=True)), seconds]


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'model':28}" + "".join(f"  t={t!s:>4}" for t in PLACES) + f"  {'mean':>6}  {'s/frame':>7}  n"]
    for row in rows:
        mean = sum(row.psnr) / len(row.psnr)
        lines.append(
            f"{row.model[-28:]:28}"
            + "".join(f"  {db:6.2f}" for db in row.psnr)
            + f"  {mean:6.2f}  {row.seconds:7.2f}  {row.windows}"
        )
    return "\n".join(lines)


def write_json(path: Path, rows: Sequence[Row]) -> None:
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
