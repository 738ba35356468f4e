"""The triplet protocol: frames (i, i + 2) of real clips give i + 1, compared with the frame that was there.

For every clip, i = 0, 10, 20, … inside a shot, at the clip's size up to 1280x720 (larger ones are scaled down), PSNR on
8-bit RGB. The frame average is measured beside the model: a gain says more than a PSNR, which depends on the clip.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import torch
from torch import Tensor

from models import weights
from models.alignment import to_middle
from models.cain_sd import CAIN, CAINSD
from models.cain_sd.adaptive import is_adaptive
from models.rife import IFNet, copy_static
from pipeline.config import InterpolateConfig
from pipeline.errors import ConfigError, InputNotFound, WeightsUnusable
from pipeline.metrics import psnr, ssim
from pipeline.tasks.adaptive import PatchModel, Wanted
from pipeline.tasks.adaptive_cain import CainBackbone
from pipeline.training.clips import Frames, cuts, decode, find_videos, shrink, thumbnail_changes

LARGEST = (1280, 720)
SPACING = 10  # frames between two triplets

T = TypeVar("T")
Interpolator = Callable[[Tensor, Tensor], Tensor]  # two frames [1,3,H,W] in 0..1 -> the middle one


@dataclass(frozen=True)
class ClipScore:
    """Means over a clip's triplets: PSNR in dB, SSIM as the CAIN code computes it."""

    clip: str
    size: tuple[int, int]  # width, height as measured
    triplets: int
    average_psnr: float
    model_psnr: float
    average_ssim: float
    model_ssim: float

    @property
    def gain(self) -> float:
        return self.model_psnr - self.average_psnr


def evaluate_folder(folder: Path, model: Interpolator) -> list[ClipScore]:
    """Scores of each clip of a folder, or of one file. Raises InputNotFound where nothing can be measured."""
    videos = [folder] if folder.is_file() else find_videos(folder)
    scores = [score for video in videos if (score := evaluate_clip(video, model)) is not None]
    if not scores:
        raise InputNotFound(f"{folder}: no clip has three frames inside one shot; give longer clips")
    return scores


def evaluate_clip(video: Path, model: Interpolator) -> ClipScore | None:
    """One clip's scores; None where it has no triplet inside a shot."""
    size, inside = of_triplets(video, lambda frames: score_triplet(frames, model))
    if not inside:
        return None
    means = torch.tensor(inside, dtype=torch.float64).mean(0).tolist()
    return ClipScore(video.name, size, len(inside), *means)


def of_triplets(
    video: Path, measure: Callable[[Sequence[Frames]], T], every: int = 1
) -> tuple[tuple[int, int], list[T]]:
    """What `measure` says of each triplet of a clip inside a shot, and the size (width, height) they are shown at.

    every: only each n-th triplet.
    """
    return of_windows(video, measure, 3, SPACING, every)


def of_windows(
    video: Path, measure: Callable[[Sequence[Frames]], T], count: int, spacing: int, every: int = 1
) -> tuple[tuple[int, int], list[T]]:
    """`of_triplets` for any number of consecutive frames, one window beginning each `spacing` frames."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        size = fitted(stream.width, stream.height)
        resized = size != (stream.width, stream.height)
    rows, thumbnails, pending = [], [], []
    for index, frame in enumerate(decode(video, size if resized else None)):
        thumbnails.append(shrink(frame))
        number, place = divmod(index, spacing)
        if number % every or place >= count:
            continue
        pending.append(frame)
        if place == count - 1:
            rows.append((index - place, measure(pending)))
            pending = []
    broken = set(cuts(thumbnail_changes(thumbnails))) if len(thumbnails) > 1 else set()
    return size, [found for start, found in rows if broken.isdisjoint(range(start, start + count - 1))]


@torch.inference_mode()
def score_triplet(frames: Sequence[Frames], model: Interpolator) -> tuple[float, float, float, float]:
    """PSNR of the average and of the model, then SSIM of both, for three frames [H,W,3] uint8."""
    first, middle, last = (torch.from_numpy(f.copy()).permute(2, 0, 1)[None].float() / 255 for f in frames)
    average, output = (first + last) / 2, model(first, last).float()
    return (
        psnr(average[0], middle[0]), psnr(output[0], middle[0]), ssim(average[0], middle[0]), ssim(output[0], middle[0])
    )  # fmt: skip


def fitted(width: int, height: int) -> tuple[int, int]:
    """The size, scaled down where needed to fit into 1280x720, even on both sides when scaled."""
    factor = min(1.0, LARGEST[0] / width, LARGEST[1] / height)
    if factor == 1:
        return width, height
    return 2 * round(width * factor / 2), 2 * round(height * factor / 2)


def table(scores: Iterable[ClipScore]) -> str:
    """One line a clip and their mean, as people read it."""
    rows = list(scores)
    lines = [f"{'clip':32} {'size':>9} {'n':>3}  {'average':>8} {'model':>8} {'gain':>7}  {'SSIM avg':>8} {'model':>7}"]
    for s in rows:
        size = f"{s.size[0]}x{s.size[1]}"
        lines.append(
            f"{s.clip[:32]:32} {size:>9} {s.triplets:>3}  {s.average_psnr:>8.2f} {s.model_psnr:>8.2f} {s.gain:>+7.2f}"
            f"  {s.average_ssim:>8.4f} {s.model_ssim:>7.4f}"
        )
    mean = summary(rows)
    lines.append(
        f"{'mean over clips':32} {'':>9} {sum(s.triplets for s in rows):>3}  {mean['average_psnr']:>8.2f} "
        f"{mean['model_psnr']:>8.2f} {mean['gain']:>+7.2f}  {mean['average_ssim']:>8.4f} {mean['model_ssim']:>7.4f}"
    )
    return "\n".join(lines)


def summary(scores: Sequence[ClipScore]) -> dict[str, float]:
    keys = ("average_psnr", "model_psnr", "gain", "average_ssim", "model_ssim")
    return {key: sum(getattr(s, key) for s in scores) / len(scores) for key in keys}


def write_json(path: Path, scores: Sequence[ClipScore], weights_name: str) -> None:
    clips = [{**asdict(score), "gain": score.gain} for score in scores]
    document = {"weights": weights_name, "clips": clips, "mean": summary(scores)}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def network(
    name_or_uri: str, precision: str, padding: str, exit_depth: int | None, threads: int, quality: float = 0.5
) -> Interpolator:
    """The network that the weights are, CAIN, CAIN-SD or RIFE, as an interpolator. Raises ConfigError, WeightsUnusable.

    exit_depth counts residual groups, or RIFE's blocks; padding is the plain CAIN's choice alone; quality CAIN-SD's.
    """
    try:
        loaded = weights.load(name_or_uri)
        tensors = loaded.tensors
        if not any(name.startswith("encode.cnn") for name in tensors):
            if is_adaptive(tensors):
                model = adaptive(CAINSD.from_tensors(tensors), precision, exit_depth, threads, quality)
            else:
                model = cain(name_or_uri, precision, padding, exit_depth, threads)
            return on_aligned(model) if loaded.aligned else model
        rife = IFNet.from_reference(tensors)
    except (weights.WeightsError, KeyError, ValueError) as error:
        raise WeightsUnusable(str(error.args[0])) from error
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"precision={precision}: choose fp32 or bf16")
    if exit_depth is not None and not 1 <= exit_depth <= rife.blocks:
        raise ConfigError(f"exit_depth={exit_depth}: these weights have exits 1 to {rife.blocks}")
    torch.set_num_threads(threads)

    def middle(frame0: Tensor, frame1: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            found = rife.between(rife.encode_frame(frame0), rife.encode_frame(frame1), 0.5, exit_depth)
        return copy_static(found.frame, frame0, frame1, found.warped)

    return middle


def on_aligned(model: Interpolator) -> Interpolator:
    """A model that is given frames brought to the middle, as the job gives them to it."""
    return lambda frame0, frame1: model(*to_middle(frame0, frame1))


def adaptive(network: CAINSD, precision: str, exit_depth: int | None, threads: int, quality: float) -> Interpolator:
    """CAIN-SD as jobs/interpolate.py runs it, patches and all. Raises ConfigError."""
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"precision={precision}: choose fp32 or bf16")
    depth = network.depths if exit_depth is None else exit_depth
    if not 1 <= depth <= network.depths:
        raise ConfigError(f"exit_depth={exit_depth}: these weights have exits 1 to {network.depths}")
    if not 0 <= quality <= 1:
        raise ConfigError(f"quality={quality}: give 0 to 1")
    torch.set_num_threads(threads)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    model = PatchModel(CainBackbone(network, depth, "cpu"), InterpolateConfig(quality=quality), "cpu", precision)

    def middle(frame0: Tensor, frame1: Tensor) -> Tensor:
        return model.make([Wanted(frame0[0], frame1[0], Fraction(1, 2))])[0][0][None]

    return middle


def cain(name_or_uri: str, precision: str, padding: str, exit_depth: int | None, threads: int) -> Interpolator:
    """CAIN of some weights as an interpolator. Raises ConfigError and WeightsUnusable."""
    if precision not in ("fp32", "bf16") or padding not in ("official", "tight"):
        raise ConfigError(f"precision={precision}, padding={padding}: choose fp32 or bf16, and official or tight")
    torch.set_num_threads(threads)
    try:
        network = CAIN.from_reference(weights.load(name_or_uri).tensors)
    except (weights.WeightsError, KeyError, ValueError) as error:
        raise WeightsUnusable(str(error.args[0])) from error
    if exit_depth is not None and not 1 <= exit_depth <= len(network.groups):
        raise ConfigError(f"exit_depth={exit_depth}: these weights have exits 1 to {len(network.groups)}")
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    multiple = network.shuffle if padding == "tight" else None

    def middle(frame0: Tensor, frame1: Tensor) -> Tensor:
        frame0, frame1 = (x.contiguous(memory_format=torch.channels_last) for x in (frame0, frame1))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output: Tensor = network(frame0, frame1, exit_depth, pad_multiple=multiple)
        return output

    return middle
