"""Labelled pictures, and batches of key frames with moved views of them.

A batch is a pure function of (seed, step, rank): a resumed run sees exactly the data that an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.training.segmentation_motion import camera_flow, draw_place, look
from pipeline.training.segmentation_recipe import CameraRecipe, SegmentationRecipe

PICTURES = (".jpg", ".png")
IGNORED = 255  # the label of what is outside a picture


class Labelled(NamedTuple):
    name: str
    picture: Tensor  # [3,H,W] uint8 RGB
    labels: Tensor  # [H,W] uint8


class SegmentationBatch(NamedTuple):
    keys: Tensor  # [N,3,H,W] RGB 0..255
    key_labels: Tensor  # [N,H,W] uint8
    views: Tensor  # [N,K,3,H,W]: the current frames
    labels: Tensor  # [N,K,H,W] uint8
    flow: Tensor  # [N,K,2,H,W] px, current to key

    def to(self, device: torch.device) -> SegmentationBatch:
        return SegmentationBatch(*(x.to(device, non_blocking=True) for x in self))


def load_labelled(folders: Sequence[Path], subset: str = "train") -> list[Labelled]:
    """FOLDER/train/NAME.jpg|png with FOLDER/train_labels/NAME.png, class indices as grey values. Raises ConfigError."""
    found = []
    for folder in folders:
        names = sorted(path for path in (folder / subset).glob("*") if path.suffix.lower() in PICTURES)
        for path in names:
            labels = folder / f"{subset}_labels" / f"{path.stem}.png"
            if not labels.is_file():
                raise ConfigError(f"{path}: no labels; expected at {labels}")
            item = Labelled(path.stem, read(path, "rgb24").permute(2, 0, 1).contiguous(), read(labels, "gray"))
            if item.picture.shape[1:] != item.labels.shape:
                raise ConfigError(
                    f"{path}: {list(item.picture.shape[1:])} px, its labels are {list(item.labels.shape)}: same sizes"
                )
            found.append(item)
    if not found:
        raise ConfigError(
            f"no labelled pictures: need FOLDER/{subset}/*.jpg beside FOLDER/{subset}_labels/*.png in one of "
            f"{', '.join(map(str, folders))}"
        )
    return found


def read(path: Path, form: str) -> Tensor:
    try:
        with av.open(str(path)) as container:
            return torch.from_numpy(next(container.decode(video=0)).to_ndarray(format=form))
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise ConfigError(f"{path}: no picture can be read ({type(error).__name__}: {error})") from None


class PairSampler:
    """Draws batches by a recipe."""

    def __init__(self, pictures: Sequence[Labelled], recipe: SegmentationRecipe) -> None:
        self._pictures, self._recipe = pictures, recipe

    def frequencies(self) -> Tensor:
        """Share of the labelled pixels that each class has, [classes]."""
        count = len(self._recipe.classes)
        total = sum(torch.bincount(one.labels.flatten(), minlength=256)[:count].double() for one in self._pictures)
        assert isinstance(total, Tensor)
        return total / total.sum()

    def batch(self, step: int, rank: int = 0) -> SegmentationBatch:
        """The batch of one process at one optimiser step."""
        stage = self._recipe.stage(step / self._recipe.schedule.steps)
        number = (step * self._recipe.workers + rank) * stage.batch
        parts = []
        for index in range(number, number + stage.batch):
            epoch, place = divmod(index, len(self._pictures))  # every picture once an epoch
            order = np.random.default_rng([self._recipe.seed, epoch]).permutation(len(self._pictures))
            rng = np.random.default_rng([self._recipe.seed, epoch, place])
            parts.append(make_pairs(self._pictures[order[place]], stage.crop, self._recipe.data, rng))
        return SegmentationBatch(*(torch.stack(part) for part in zip(*parts, strict=True)))


def make_pairs(
    labelled: Labelled, crop: tuple[int, int], recipe: CameraRecipe, rng: np.random.Generator
) -> tuple[Tensor, ...]:
    """A key frame and its followers, as SegmentationBatch has them without N."""
    _, picture, labels = labelled
    place = draw_place((labels.shape[0], labels.shape[1]), crop, recipe.zoom, rng)
    fields = [camera_flow(crop, recipe, rng) for _ in range(recipe.followers)]
    key = look(picture, labels, crop, place, torch.zeros(2, *crop), IGNORED)
    views = [look(picture, labels, crop, place, field, IGNORED) for field in fields]
    light = Light.draw(recipe, rng)
    images = [light.of(key.image, recipe, rng), *(light.of(view.image, recipe, rng) for view in views)]
    return (
        images[0], key.labels, torch.stack(images[1:]), torch.stack([view.labels for view in views]),
        torch.stack([view.flow for view in views]),
    )  # fmt: skip


class Light(NamedTuple):
    """Brightness, contrast, gamma and colour, the same for a key frame and its followers, nearly."""

    gain: Tensor  # [3,1,1]
    gamma: float
    contrast: float

    @classmethod
    def draw(cls, recipe: CameraRecipe, rng: np.random.Generator) -> Light:
        gain = rng.uniform(recipe.dark, 1.3) * rng.uniform(0.9, 1.1, (3, 1, 1))
        return cls(torch.from_numpy(gain).float(), float(rng.uniform(0.75, 1.35)), float(rng.uniform(0.75, 1.25)))

    def of(self, image: Tensor, recipe: CameraRecipe, rng: np.random.Generator) -> Tensor:
        image = (image / 255).clamp(0, 1).pow(self.gamma)
        image = (image - image.mean()) * self.contrast + image.mean()
        lit = 255 * image * self.gain * float(rng.uniform(0.96, 1.04))
        if recipe.noise:
            generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
            lit = lit + torch.randn(lit.shape, generator=generator) * float(rng.uniform(0, recipe.noise))
        return lit.clamp(0, 255)
