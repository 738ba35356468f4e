"""What adaptive interpolation saves, on real footage: arithmetic and time, one run, the same weights three ways.

    full      the whole frame at full depth, as with adaptive=false: what is compared with
    cut       the same depth and scale in the adaptive model's patches: what cutting alone changes
    adaptive  each patch at the scale and depth that its motion needs

Frames (i, i+2) of the clips give i+1, which is known, so that the loss in PSNR stands beside the saving. All triplets
found are sorted by motion and split into thirds: low, medium, high; a few of each, spread evenly, are measured. Time is
the process's processor time in one thread, the best of the rounds, so that a busy machine changes it little; on a GPU
it is the time between synchronised calls.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.cain_sd.block_motion import BlockMotion
from models.cain_sd.sd_finder import SHORT_SIDE, motion_magnitude, shrink
from pipeline import config as configuration
from pipeline.config import InterpolateConfig
from pipeline.errors import ConfigError, UsageError
from pipeline.media.colour import to_rgb
from pipeline.media.decode import decode_clip
from pipeline.media.frame import Frame, luma8
from pipeline.media.probe import probe
from pipeline.metrics import psnr
from pipeline.plan import shots
from pipeline.plan.clips import plan_clips
from pipeline.plan.discover import discover
from pipeline.storage import Storage
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.tasks.interpolate_model import build
from pipeline.tasks.interpolators import Interpolator, Made, Pair
from pipeline.types import Colour, VideoInfo, VideoRef

HALF = Fraction(1, 2)
CLASSES = ("low", "medium", "high")
WAYS = ("full", "cut", "adaptive")


class Triplet(NamedTuple):
    """Frames first, first + 1, first + 2 of a video; motion between the outer two, px where the short side is 192."""

    video: VideoRef
    first: int
    motion: float


@dataclass(frozen=True, slots=True)
class Saving:
    """Of one class of motion at one size; means over its triplets."""

    size: str
    motion: str
    triplets: int
    motion_px: float
    full_gflop: float
    adaptive_gflop: float
    full_s: float
    cut_s: float
    adaptive_s: float
    full_db: float
    adaptive_db: float
    static_share: float
    """Of the patches."""

    @property
    def flop_ratio(self) -> float:
        return self.adaptive_gflop / self.full_gflop

    @property
    def time_ratio(self) -> float:
        return self.adaptive_s / self.full_s

    def text(self) -> str:
        return (
            f"{self.size:>9} {self.motion:<7} {self.triplets:3d} {self.motion_px:6.1f}  {self.full_gflop:7.1f} "
            f"{self.adaptive_gflop:7.1f} {self.flop_ratio:5.2f}   {self.full_s:6.3f} {self.cut_s:6.3f} "
            f"{self.adaptive_s:6.3f} {self.time_ratio:5.2f}   {self.time_ratio / self.flop_ratio:5.2f}   "
            f"{self.full_db:5.2f} {self.adaptive_db:5.2f}  {self.static_share:4.0%}"
        )


HEADER = (
    "     size motion    n     px    GFLOP a frame  ratio   seconds a frame      ratio   time/   PSNR, dB     static\n"
    "                              full     adap.            full    cut   adap.         FLOPs   full  adap.\n"
)


def savings(
    source: str, settings: Sequence[str], sizes: Sequence[tuple[int, int]], each: int, rounds: int, device: str
) -> list[Saving]:
    """For each size (width, height) and class of motion, of `each` triplets. Raises UsageError, ConfigError."""
    config = configuration.load(InterpolateConfig, None, settings)
    task = InterpolateTask(config).on(device)
    torch.set_num_threads(1)
    changes: dict[str, dict[str, Any]] = {
        "full": {"adaptive": False},
        "cut": {"quality": 1.0, "flops_budget": None},
        "adaptive": {},
    }
    models = {
        way: build(task.config.model_copy(update=change), device, task.precision)[0] for way, change in changes.items()
    }
    if not getattr(models["adaptive"], "adaptive", False):
        raise ConfigError(f"model={task.config.model} is not adaptive; give --set model=… of weights that are")
    chosen = _chosen(_triplets(source, config), each)
    return [
        _measure(models, config, name, triplets, size, rounds, device)
        for size in sizes
        for name, triplets in chosen.items()
    ]


def _triplets(source: str, config: InterpolateConfig) -> list[Triplet]:
    """Every tenth triplet inside a shot, with its motion."""
    found = []
    flow = BlockMotion()
    videos = [item for item in discover(source, config.input, Storage()) if isinstance(item, VideoRef)]
    for video in videos:
        for first, frames, info in _groups(video, config):
            thumbs = [luma8(frame, shots.WIDTH, shots.HEIGHT) for frame in frames]
            if any(shots.is_cut(a, b, config.cuts.threshold) for a, b in ((thumbs[0], thumbs[1]), thumbs[1:])):
                continue
            small = [shrink(to_rgb(frame, info.colour)[None]) for frame in (frames[0], frames[2])]
            length = motion_magnitude(flow(*small), flow(*reversed(small))).mean().item()
            found.append(Triplet(video, first, length * SHORT_SIDE / min(SHORT_SIDE, info.width, info.height)))
    if len(found) < len(CLASSES):
        raise UsageError(f"{source}: {len(found)} triplets of frames inside shots; {len(CLASSES)} are the least")
    return found


def _groups(video: VideoRef, config: InterpolateConfig) -> Iterator[tuple[int, list[Frame], VideoInfo]]:
    """(i, frames i, i+1 and i+2, the video's headers) for i = 0, 10, 20, …"""
    with Storage().open(video.uri) as file:
        info = probe(file, video, config.input, config.decode)
    clip = plan_clips(video, info, len(info.pts), (0, 0))[0]
    held: list[Frame] = []
    with Storage().open(video.uri) as file:
        for number, frame in enumerate(decode_clip(file, clip, config.decode)):
            held = [*held[-2:], frame]
            if number % 10 == 2:
                yield number - 2, held, info


def _chosen(found: Sequence[Triplet], each: int) -> dict[str, list[Triplet]]:
    """`each` of every third, spread evenly over it."""
    ordered = sorted(found, key=lambda triplet: (triplet.motion, triplet.video.uri, triplet.first))
    chosen = {}
    for index, name in enumerate(CLASSES):
        third = ordered[index * len(ordered) // 3 : (index + 1) * len(ordered) // 3]
        count = min(each, len(third))
        chosen[name] = [third[(2 * k + 1) * len(third) // (2 * count)] for k in range(count)]
    return chosen


def _measure(
    models: dict[str, Interpolator],
    config: InterpolateConfig,
    name: str,
    triplets: Sequence[Triplet],
    size: tuple[int, int],
    rounds: int,
    device: str,
) -> Saving:
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    quality: dict[str, list[float]] = {way: [] for way in WAYS}
    decided = []
    for triplet in triplets:
        first, truth, last = (_sized(frame, colour, size, device) for frame, colour in _frames(triplet, config))
        pair = Pair(first, last, [HALF])
        best = dict.fromkeys(WAYS, float("inf"))
        for turn in range(rounds + 1):
            for way, model in models.items():
                taken, made = _timed(model, pair, device)
                if turn:  # the first warms up
                    best[way] = min(best[way], taken)
                elif way != "cut":
                    quality[way].append(psnr(made.picture.cpu(), truth.cpu()))
                if not turn and way == "adaptive":
                    assert made.decisions is not None
                    decided.append(made.decisions)
        for way in WAYS:
            seconds[way].append(best[way])
    choices = [choice for each in decided for choice in each.choices]
    return Saving(
        size=f"{size[0]}x{size[1]}",
        motion=name,
        triplets=len(triplets),
        motion_px=fmean(triplet.motion for triplet in triplets) * min(size) / SHORT_SIDE,
        full_gflop=fmean(each.full_flops for each in decided) / 1e9,
        adaptive_gflop=fmean(each.flops for each in decided) / 1e9,
        full_s=fmean(seconds["full"]),
        cut_s=fmean(seconds["cut"]),
        adaptive_s=fmean(seconds["adaptive"]),
        full_db=fmean(quality["full"]),
        adaptive_db=fmean(quality["adaptive"]),
        static_share=sum(choice.depth == 0 for choice in choices) / len(choices),
    )


def _frames(triplet: Triplet, config: InterpolateConfig) -> list[tuple[Frame, Colour]]:
    for first, frames, info in _groups(triplet.video, config):
        if first == triplet.first:
            return [(frame, info.colour) for frame in frames]
    raise UsageError(f"{triplet.video}: frame {triplet.first} is gone; has the file changed?")


def _sized(frame: Frame, colour: Colour, size: tuple[int, int], device: str) -> Tensor:
    picture = to_rgb(frame, colour)
    if (picture.shape[2], picture.shape[1]) != size:
        picture = F.interpolate(picture[None], size=size[::-1], mode="bicubic", antialias=True)[0].clamp(0, 1)
        picture = (picture * 255).round() / 255
    return picture.to(device)


def _timed(model: Interpolator, pair: Pair, device: str) -> tuple[float, Made]:
    cuda = device.startswith("cuda")
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    started = clock()
    made = model.between([pair])[0][0]
    if cuda:
        torch.cuda.synchronize()
    return clock() - started, made


def table(results: Sequence[Saving]) -> str:
    return HEADER + "\n".join(each.text() for each in results)
