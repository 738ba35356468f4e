"""CAIN-SD's table: PSNR, SSIM and FLOPs of one network at full depth, at each exit and scale, and decided by patch.

The triplets are evaluation.py's. FLOPs are two a multiply-accumulate of the convolutions, as the paper counts them, for
what was worked on: overlaps count twice, the finder and the motion count too. `share` is of full depth on the whole
frame as it is; `of paper` of full depth as the paper's Table 1 counts it, on the frame padded to multiples of 128.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models import weights
from models.alignment import to_middle
from models.cain_sd import CAIN
from models.cain_sd.adaptive import CAINSD
from models.cain_sd.cain import centred_padding, pad, spatial_mean
from models.cain_sd.cost import cain_macs_per_pixel, paper_flops
from models.cain_sd.sd_finder import Window
from pipeline.config import AdaptivePatchConfig
from pipeline.errors import ConfigError, InputNotFound, WeightsUnusable
from pipeline.metrics import psnr, ssim
from pipeline.plan.adaptive import fitted_grid, frontier, taken
from pipeline.plan.patches import Patch, blend_weights
from pipeline.training.clips import Frames, find_videos
from pipeline.training.evaluation import of_triplets

USUAL = AdaptivePatchConfig().size
"""The job's."""
PATCHES = (128, 256, 512, USUAL)
OVERLAP = 16


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    name: str
    patch: int | None
    """Pixels; None is the whole frame as one patch."""
    scale: int | None = None
    """The one scale that is allowed; None: the finder chooses."""
    depth: int | None = None
    """The one exit that is allowed."""
    price: float = 0.0

    @property
    def decides(self) -> bool:
        return self.scale is None or self.depth is None


class Score(NamedTuple):
    """Of one triplet, or means over several."""

    psnr: float
    ssim: float
    flops: float
    share: float
    paper_share: float


@dataclass(frozen=True)
class Row:
    """Means over clips of means over triplets."""

    setting: str
    patch: str
    price: float
    psnr: float
    ssim: float
    gflops: float
    share: float
    paper_share: float


class Table(NamedTuple):
    rows: list[Row]
    by_clip: dict[str, list[Score]]
    """Each clip's means, by line."""


def settings(network: CAINSD, prices: Sequence[float], patches: Sequence[int] = PATCHES) -> list[Setting]:
    """The table's lines: exits and scales of whole frames, CAIN-S, CAIN-D and CAIN-SD, prices, patch sizes."""
    full, usual = network.depths, USUAL if USUAL in patches else patches[0]
    lines = [Setting("full depth", None, 1, full)]
    lines += [Setting(f"exit {depth}", None, 1, depth) for depth in range(full - 1, 0, -1)]
    lines += [Setting(f"scale {scale}", None, scale, full) for scale in network.scales[1:]]
    lines += [
        Setting("CAIN-S", usual, None, full), Setting("CAIN-D", usual, 1, None),
        *(Setting("CAIN-SD", usual, price=price) for price in sorted({0.0, *prices})),
        *(Setting("CAIN-SD", size) for size in patches if size != usual), Setting("CAIN-SD", None),
    ]  # fmt: skip
    return lines


def load(name_or_uri: str) -> CAINSD:
    """CAIN-SD of some weights. Raises WeightsUnusable."""
    try:
        network = CAINSD.from_tensors(weights.load(name_or_uri).tensors)
    except (weights.WeightsError, KeyError, ValueError) as error:
        raise WeightsUnusable(str(error.args[0])) from error
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return network


def load_plain(name_or_uri: str) -> CAIN:
    """A plain CAIN to compare with. Raises WeightsUnusable."""
    try:
        return CAIN.from_reference(weights.load(name_or_uri).tensors)
    except (weights.WeightsError, KeyError, ValueError) as error:
        raise WeightsUnusable(str(error.args[0])) from error


def run(
    folder: Path, name: str, plain: str | None, prices: Sequence[float], every: int, precision: str, threads: int
) -> Table:
    """The table of named weights. Raises ConfigError, WeightsUnusable, InputNotFound."""
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"precision={precision}: choose fp32 or bf16")
    torch.set_num_threads(threads)
    network, reference = load(name), load_plain(plain) if plain else None
    aligned = weights.load(name).aligned
    return evaluate(
        folder, network, settings(network, prices), plain=reference, bf16=precision == "bf16", every=every,
        aligned=aligned,
    )  # fmt: skip


def evaluate(
    folder: Path, network: CAINSD, lines: Sequence[Setting], *, plain: CAIN | None = None, bf16: bool = False,
    every: int = 1, aligned: bool = False,
) -> Table:  # fmt: skip
    """The first line is the frame average, then `plain` if given.

    aligned: both networks are given frames brought to the middle, as the job gives them to `network`'s weights.
    """
    names = ["frame average", *(["plain CAIN"] if plain else []), *(line.name for line in lines)]
    by_clip: dict[str, list[Score]] = {}
    for video in [folder] if folder.is_file() else find_videos(folder):
        _, found = of_triplets(video, lambda frames: scores(frames, network, lines, plain, bf16, aligned), every)
        if found:
            columns = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
            by_clip[video.name] = [Score(*column) for column in columns]
    if not by_clip:
        raise InputNotFound(f"{folder}: no clip has three frames inside one shot; give longer clips")
    rows = []
    for index, name in enumerate(names):
        mean = Score(*torch.tensor([each[index] for each in by_clip.values()], dtype=torch.float64).mean(0).tolist())
        line = lines[index - len(names)] if len(names) - index <= len(lines) else None
        patch = "whole" if line is None or line.patch is None else str(line.patch)
        rows.append(
            Row(
                name,
                patch,
                line.price if line else 0.0,
                mean.psnr,
                mean.ssim,
                mean.flops / 1e9,
                mean.share,
                mean.paper_share,
            )
        )
    return Table(rows, by_clip)


@torch.inference_mode()
def scores(
    frames: Sequence[Frames], network: CAINSD, lines: Sequence[Setting], plain: CAIN | None, bf16: bool,
    aligned: bool = False,
) -> list[Score]:  # fmt: skip
    """Of one triplet [H,W,3] uint8: the average, `plain` and each line, in this order."""
    first, middle, last = (torch.from_numpy(f.copy()).permute(2, 0, 1)[None].float() / 255 for f in frames)
    height, width = middle.shape[-2:]
    full = network.flops_per_pixel()[0][-1] * height * width
    paper = paper_flops(height, width, network.depths, network.cain.sizes)

    def score(output: Tensor, flops: float) -> Score:
        return Score(
            psnr(output[0].float(), middle[0]), ssim(output[0].float(), middle[0]), flops, flops / full, flops / paper
        )

    found = [score((first + last) / 2, 0.0)]
    if aligned:
        first, last = to_middle(first, last)
    if plain is not None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = plain(first, last, pad_multiple=plain.shuffle)
        s = plain.sizes
        macs = cain_macs_per_pixel(s["groups"], s["channels"], s["rcabs"], s["shuffle"]) * height * width
        found.append(score(output, 2 * macs))
    by_line: dict[Setting, Score] = {}
    for size in dict.fromkeys(line.patch for line in lines):
        cut = Cut(network, first, last, size, bf16)
        for line in lines:
            if line.patch == size:
                by_line[line] = score(*cut.made(line))
    return found + [by_line[line] for line in lines]


class Cut:
    """One pair of frames cut into patches, each made at every scale and exit; then put together by any decisions."""

    def __init__(self, network: CAINSD, first: Tensor, last: Tensor, size: int | None, bf16: bool) -> None:
        self._network = network
        self._height, self._width = height, width = (first.shape[-2], first.shape[-1])
        fold = network.cain.shuffle * max(network.scales)
        padding = self._left, right, self._top, bottom = centred_padding(height, width, fold, 2 * fold)
        self._tall, self._wide = tall, wide = height + self._top + bottom, width + self._left + right
        whole = [Patch(0, 0, tall, wide)]
        overlap = -(-OVERLAP // fold) * fold
        self._patches = whole if size is None else fitted_grid(tall, wide, size, overlap, fold)
        self._ramps = [torch.from_numpy(blend_weights(patch, tall, wide, overlap)) for patch in self._patches]
        means = (spatial_mean(first), spatial_mean(last))
        first, last = pad(first, padding), pad(last, padding)
        windows = [Window(patch.top, patch.left, patch.height, patch.width) for patch in self._patches]
        self._logits = network.logits(first, last, windows)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            self._made = [list(self._choices(first, last, patch, means)) for patch in self._patches]

    def _choices(
        self, first: Tensor, last: Tensor, patch: Patch, means: tuple[Tensor, Tensor]
    ) -> Iterator[list[Tensor]]:
        """[scale][exit] of a patch."""
        area = (..., slice(patch.top, patch.top + patch.height), slice(patch.left, patch.left + patch.width))
        patch0, patch1 = (x[area].contiguous(memory_format=torch.channels_last) for x in (first, last))
        for scale in self._network.scales:
            yield [x.float()[0] for x in self._network.every_exit(patch0, patch1, scale, means)]

    def made(self, line: Setting) -> tuple[Tensor, float]:
        """The picture [1,3,H,W] by one line's decisions, and its FLOPs."""
        costs = self._network.flops_per_pixel()
        scale, depth = (F.log_softmax(x[0].double(), -1) for x in self._logits)
        scores = scale[:, :, None] + depth[:, None, :]  # (P, S, D)
        scales = [i for i, each in enumerate(self._network.scales) if line.scale in (None, each)]
        exits = [i for i in range(self._network.depths) if line.depth in (None, i + 1)]
        shares = [[costs[s][e] / costs[0][-1] for e in exits] for s in scales]
        paths = [frontier(patch, shares) for patch in scores[:, scales][:, :, exits].tolist()]
        best = [(scales[offer.scale], exits[offer.exit]) for offer in (taken(path, line.price) for path in paths)]
        total, weight = torch.zeros(3, self._tall, self._wide), torch.zeros(self._tall, self._wide)
        flops = float(self._network.finder_flops(self._height, self._width)) if line.decides else 0.0
        for patch, ramp, made, choice in zip(self._patches, self._ramps, self._made, best, strict=True):
            index, exit_ = choice
            rows, columns = slice(patch.top, patch.top + patch.height), slice(patch.left, patch.left + patch.width)
            total[:, rows, columns] += made[index][exit_] * ramp
            weight[rows, columns] += ramp
            flops += costs[index][exit_] * patch.height * patch.width
        picture = (total / weight)[None]
        inside = slice(self._top, self._top + self._height), slice(self._left, self._left + self._width)
        return picture[..., inside[0], inside[1]], flops


def table(found: Table) -> str:
    """One line a setting, as people read it."""
    lines = [
        f"{'setting':16} {'patch':>6} {'price':>7}  {'PSNR':>6} {'SSIM':>7}  {'GFLOP':>8} {'share':>6} {'of paper':>8}"
    ]
    lines += [
        f"{row.setting:16} {row.patch:>6} {row.price:>7g}  {row.psnr:>6.2f} {row.ssim:>7.4f}  {row.gflops:>8.2f} "
        f"{row.share:>6.3f} {row.paper_share:>8.3f}"
        for row in found.rows
    ]
    return "\n".join(lines)


def write_json(path: Path, found: Table, weights_name: str) -> None:
    clips = {name: [each._asdict() for each in scores] for name, scores in found.by_clip.items()}
    document = {"weights": weights_name, "rows": [asdict(row) for row in found.rows], "clips": clips}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
