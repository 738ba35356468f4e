"""RIFE's table: PSNR, FLOPs and time of all four blocks, of three, and of an exit for each patch at several qualities.

The triplets are evaluation.py's. FLOPs are two a multiply-accumulate of the convolutions. As the job runs it, a frame's
encoding serves both of its intervals: shares are of one encoding and the blocks. Windows' margins and the finder count.
Seconds are the process's own, of all its threads, for the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models import weights
from models.rife import IFNet
from models.rife.adaptive import AdaptiveIFNet
from models.rife.cost import encode_macs, frame_macs, padded_area
from models.rife.finder import Finder, price_of
from models.rife.ifnet import Encoded
from pipeline.errors import ConfigError, InputNotFound, WeightsUnusable
from pipeline.metrics import psnr
from pipeline.training.clips import Frames, find_videos
from pipeline.training.evaluation import of_triplets

QUALITIES = (0.2, 0.35, 0.5, 0.7, 0.9)


class Score(NamedTuple):
    """Of one triplet, or means over several."""

    psnr: float
    gflops: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """A clip's mean at one setting, beside all four blocks' on the same triplets."""

    clip: str
    triplets: int
    setting: str
    psnr: float
    lost: float
    """dB that all four blocks have more; below 0: less."""
    gflops: float
    flops_share: float
    seconds: float
    seconds_share: float


def run(clips: Path, name_or_uri: str, finder: str, qualities: Sequence[float], every: int, threads: int) -> list[Row]:
    """Rows of each clip. Raises InputNotFound, WeightsUnusable, ConfigError for qualities outside 0..1."""
    torch.set_num_threads(threads)
    try:
        network = IFNet.from_reference(weights.load(name_or_uri).tensors)
        model = AdaptiveIFNet(network, Finder.from_reference(weights.load(finder).tensors))
    except (weights.WeightsError, KeyError, ValueError) as error:
        raise WeightsUnusable(str(error.args[0])) from error
    try:
        prices = {quality: price_of(quality) for quality in qualities or QUALITIES}
    except ValueError as error:
        raise ConfigError(str(error)) from error
    rows: list[Row] = []
    for video in [clips] if clips.is_file() else find_videos(clips):
        _, found = of_triplets(video, lambda frames: scores_of(model, frames, prices), every)
        rows += _rows(video.name, found) if found else []
    if not rows:
        raise InputNotFound(f"{clips}: no clip has three frames inside one shot; give longer clips")
    return rows


@torch.inference_mode()
def scores_of(model: AdaptiveIFNet, frames: Sequence[Frames], prices: dict[float, float]) -> dict[str, Score]:
    """Of three frames [H,W,3] uint8, by setting; the first one is all four blocks."""
    first, middle, last = (torch.from_numpy(f.copy()).permute(2, 0, 1)[None].float() / 255 for f in frames)
    height, width = first.shape[-2:]
    started = time.process_time()
    ends = [model.network.encode_frame(frame) for frame in (first, last)]
    encode_s = (time.process_time() - started) / 2
    sizes = model.network.sizes
    encode = encode_macs(sizes) * padded_area(height, width)

    def score(make: Callable[[Encoded, Encoded], tuple[Tensor, float]]) -> Score:
        started = time.process_time()
        picture, macs = make(ends[0], ends[1])
        seconds = time.process_time() - started + encode_s
        return Score(psnr(picture[0], middle[0]), 2e-9 * (macs + encode), seconds)

    def stopped(blocks: int) -> Score:
        macs = frame_macs(height, width, (8.0, 4.0, 2.0, 1.0)[:blocks], sizes)
        return score(lambda a, b: (model.network.between(a, b, 0.5, blocks).frame, macs))

    def decided(price: float) -> Score:
        def make(a: Encoded, b: Encoded) -> tuple[Tensor, float]:
            made = model.between(a, b, 0.5, price)
            return made.found.frame, made.macs

        return score(make)

    return {"4 blocks": stopped(4), "3 blocks": stopped(3)} | {
        f"quality {quality:g}": decided(price) for quality, price in prices.items()
    }


def _rows(clip: str, found: Sequence[dict[str, Score]]) -> list[Row]:
    means = {
        setting: Score(*torch.tensor([each[setting] for each in found], dtype=torch.float64).mean(0).tolist())
        for setting in found[0]
    }
    full = means["4 blocks"]
    return [
        Row(
            clip, len(found), setting, mean.psnr, full.psnr - mean.psnr, mean.gflops, mean.gflops / full.gflops,
            mean.seconds, mean.seconds / full.seconds,
        )
        for setting, mean in means.items()
    ]  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """One line a clip and setting, as people read it."""
    head = ("clip", "n", "setting", "PSNR", "lost", "GFLOPs", "share", "s", "share")
    lines = ["{:24} {:>3} {:13} {:>7} {:>6} {:>8} {:>6} {:>6} {:>6}".format(*head)]
    for r in rows:
        lines.append(
            f"{r.clip[:24]:24} {r.triplets:>3} {r.setting:13} {r.psnr:>7.2f} {r.lost:>+6.2f} {r.gflops:>8.1f} "
            f"{r.flops_share:>6.1%} {r.seconds:>6.2f} {r.seconds_share:>6.1%}"
        )
    return "\n".join(lines)


def write_json(path: Path, rows: Sequence[Row]) -> None:
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
