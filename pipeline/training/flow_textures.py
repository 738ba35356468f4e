"""Pictures to make scenes of: photographs, frames of clips, and patterns made by code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import InputNotFound, UnreadableVideo
from pipeline.training.clips import VIDEO_SUFFIXES

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".webp"})
LONGEST = 1280  # px: larger pictures are halved until they fit
SMALLEST = 96  # px: halving ends here
FRAMES = 12  # of each clip, evenly spaced

Pyramid = list[Tensor]  # uint8 [3,H,W], each half of the one before


def load_pyramids(folders: Sequence[Path]) -> list[Pyramid]:
    """All pictures below the folders. Raises InputNotFound where there are none, UnreadableVideo for damaged ones."""
    paths = sorted(p for folder in folders for p in folder.rglob("*") if p.is_file())
    pyramids = []
    for path in paths:
        suffix = path.suffix.lower()
        if suffix in PHOTO_SUFFIXES:
            pyramids += [pyramid(picture) for picture in pictures(path, 1)]
        elif suffix in VIDEO_SUFFIXES:
            pyramids += [pyramid(picture) for picture in pictures(path, FRAMES)]
    pyramids = [p for p in pyramids if p]
    if not pyramids:
        raise InputNotFound(
            f"{', '.join(map(str, folders))}: no photograph or video of at least {SMALLEST} px a side; "
            f"give a folder of {', '.join(sorted(PHOTO_SUFFIXES))} or {', '.join(sorted(VIDEO_SUFFIXES))}"
        )
    return pyramids


def pictures(path: Path, count: int) -> Iterator[Tensor]:
    """`count` pictures of a file, evenly spaced in time: uint8 [3,H,W]."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            total = stream.frames or (int(float(container.duration or 0) / 1e6 * float(stream.average_rate or 25)))
            every = max(1, total // count)
            for index, frame in enumerate(container.decode(stream)):
                if index % every == every // 2 and index // every < count:
                    yield torch.from_numpy(frame.to_ndarray(format="rgb24").copy()).permute(2, 0, 1)
    except (av.error.FFmpegError, IndexError) as error:
        raise UnreadableVideo(f"{path}: cannot be decoded for training ({error}); remove it from the folder") from error


def pyramid(picture: Tensor) -> Pyramid:
    """The picture and its halves: uint8 [3,H,W] each; empty where it is too small."""
    levels: Pyramid = []
    current = picture[None].float()
    while min(current.shape[-2:]) >= SMALLEST:
        if max(current.shape[-2:]) <= LONGEST:
            levels.append(current[0].round().to(torch.uint8))
        current = F.avg_pool2d(current, 2)
    return levels


def pattern(rng: np.random.Generator, side: int = 256) -> Tensor:
    """A texture made by code: float [3,side,side] in 0..255. Some are plain: real scenes have walls and skies too."""
    kind = rng.choice(5, p=[0.4, 0.15, 0.15, 0.15, 0.15])
    low, high = rng.uniform(0, 255, (2, 3))
    if kind == 0:  # noise of several octaves
        field = octaves(rng, side)
    else:
        y, x = np.mgrid[:side, :side].astype(np.float32)
        angle, period = rng.uniform(0, np.pi), rng.uniform(6, 60)
        u = np.cos(angle) * x + np.sin(angle) * y
        v = np.cos(angle) * y - np.sin(angle) * x
        if kind == 1:  # stripes
            field = 0.5 + 0.5 * np.sin(2 * np.pi * u / period)
        elif kind == 2:  # checks
            field = 0.5 + 0.5 * np.tanh(6 * np.sin(2 * np.pi * u / period) * np.sin(2 * np.pi * v / period))
        elif kind == 3:  # a slope
            field = (u - u.min()) / np.ptp(u)
        else:  # speckles
            field = (octaves(rng, side) > rng.uniform(0.5, 0.7)).astype(np.float32)
    picture = low[:, None, None] + (high - low)[:, None, None] * field
    if rng.random() < 0.5:
        picture += rng.uniform(5, 30) * (octaves(rng, side) - 0.5)
    return torch.from_numpy(picture.clip(0, 255)).float()


def octaves(rng: np.random.Generator, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Smooth noise at scales of 4 to 64 px, in about 0..1."""
    total = torch.zeros(1, 1, side, side)
    for scale in (4, 8, 16, 32, 64):
        grid = torch.from_numpy(rng.standard_normal((1, 1, side // scale + 2, side // scale + 2))).float()
        total += F.interpolate(grid, (side, side), mode="bilinear") * float(rng.uniform(0.2, 1)) * scale**0.5
    low, high = total.min(), total.max()
    out: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = ((total - low) / (high - low))[0, 0].numpy()
    return out
