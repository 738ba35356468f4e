"""Batches for detection: frames of labelled videos with others near them, and made scenes (detection_scenes.py).

A batch is a pure function of (seed, step, rank): a resumed run sees exactly the data that an uninterrupted one would.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.training.detection_recipe import DetectionRecipe
from pipeline.training.detection_scenes import place_in, scene, view_of
from pipeline.training.detection_shelves import Shelves
from pipeline.training.detection_sources import Labelled
from pipeline.training.segmentation_sampling import Light

UNKNOWN = 1e6  # px: flow that leaves the picture does not count


class DetectionBatch(NamedTuple):
    keys: Tensor  # [N,3,H,W] RGB 0..255
    views: Tensor  # [N,K,3,H,W]: the current frames
    objects: Tensor  # [N,1+K,M,6]: x1, y1, x2, y2, class, score; class -1: none; first the key frame's
    flow: Tensor  # [N,K,2,H,W] px, current to key; UNKNOWN where it is not

    def to(self, device: torch.device) -> DetectionBatch:
        return DetectionBatch(*(x.to(device, non_blocking=True) for x in self))


class DetectionSampler:
    """Draws batches by a recipe."""

    def __init__(self, labelled: Labelled, recipe: DetectionRecipe) -> None:
        self.labelled, self._recipe = labelled, recipe
        self._shelves = Shelves(labelled.sources, len(labelled.classes), recipe.data)

    def batch(self, step: int, rank: int = 0) -> DetectionBatch:
        """The batch of one process at one optimiser step."""
        data = self._recipe.data
        first = (step * self._recipe.workers + rank) * data.batch
        samples = [
            self._sample(np.random.default_rng([self._recipe.seed, number]))
            for number in range(first, first + data.batch)
        ]
        images = torch.stack([torch.stack(images) for images, _, _ in samples])
        most = max(1, max(len(objects) for _, lists, _ in samples for objects in lists))
        objects = torch.full((data.batch, data.followers + 1, most, 6), -1.0)
        for row, (_, lists, _) in enumerate(samples):
            for column, found in enumerate(lists):
                objects[row, column, : len(found)] = found
        return DetectionBatch(images[:, 0], images[:, 1:], objects, torch.stack([flow for _, _, flow in samples]))

    def _sample(self, rng: np.random.Generator) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """(images, key frame first; their objects; flows [K,2,H,W])."""
        data = self._recipe.data
        shelves = self._shelves
        if not shelves.videos or rng.random() < data.scenes:
            source, index, wanted = shelves.any(rng)
            picture, boxes = source.picture(index), source.objects[index]
            place = place_in(picture, boxes, data, rng, wanted)
            images, objects, flows = scene(picture, boxes, place, shelves, data, rng)
            flow = torch.stack(flows)
        else:
            source, index, wanted = shelves.moving(rng)
            near = source.near(index, data.offset) or [index]
            others = [int(near[rng.integers(len(near))]) for _ in range(data.followers)]
            place = place_in(source.picture(index), source.objects[index], data, rng, wanted)
            views = [view_of(source.picture(one), source.objects[one], data.crop, place) for one in (index, *others)]
            images, objects = [view.image for view, _ in views], [found for _, found in views]
            flow = torch.full((data.followers, 2, *data.crop), UNKNOWN)
        light = Light.draw(data.camera, rng)
        return [light.of(image, data.camera, rng) for image in images], objects, flow
