"""Scenes for detection: a labelled picture with objects of others pasted into it, and views of it in motion.

The background moves as a driving camera sees it, each pasted thing by itself too, so that followers of a key frame have
boxes and flow that are known exactly. Patches of anything else are pasted in the same way: an outline alone is no
object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.training.detection_recipe import DetectionDataRecipe
from pipeline.training.detection_shelves import SMALLEST, Shelves, useful
from pipeline.training.segmentation_motion import Place, View, camera_flow, draw_place, look

SHOWN = 0.35  # share of a box that must be seen for it to be an object
SEEN = 0.5  # share of a box that later pastes must leave


@dataclass(frozen=True, eq=False)
class Cutout:
    """Part of a picture, with a soft outline."""

    pixels: Tensor  # [3,h,w] 0..255
    alpha: Tensor  # [1,h,w] 0..1
    kind: float  # class; -1: nothing


def view_of(
    picture: Tensor, objects: Tensor, crop: tuple[int, int], place: Place, flow: Tensor | None = None
) -> tuple[View, Tensor]:
    """A picture [3,H,W] through a place and a field, and its objects [K,6] there."""
    field = torch.zeros(2, *crop) if flow is None else flow
    nothing = torch.zeros(picture.shape[-2:], dtype=torch.uint8)
    view = look(picture, nothing, crop, place, field, 0)
    return view, kept(moved(placed(objects, place), flow), crop)


def placed(objects: Tensor, place: Place) -> Tensor:
    """Boxes of the picture in pixels of the place."""
    x = (objects[:, [0, 2]] - place.x) / (place.zoom * place.side)
    y = (objects[:, [1, 3]] - place.y) / place.zoom
    left, right = x.amin(1, True), x.amax(1, True)
    return torch.cat([left, y[:, :1], right, y[:, 1:], objects[:, 4:]], 1)


def moved(objects: Tensor, flow: Tensor | None) -> Tensor:
    """Boxes where a field [2,H,W], which points back, has taken the middles of their sides."""
    if flow is None or not len(objects):
        return objects
    x1, y1, x2, y2 = objects[:, :4].unbind(1)
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    sides = []
    for axis, x, y in ((0, x1, middle_y), (1, middle_x, y1), (0, x2, middle_y), (1, middle_x, y2)):
        where = torch.stack([x, y])
        now = where
        for _ in range(3):  # what was at `where` is now where now + flow(now) = where
            now = where - at(flow, now)
        sides.append(now[axis])
    return torch.cat([torch.stack(sides, 1), objects[:, 4:]], 1)


def at(flow: Tensor, where: Tensor) -> Tensor:
    """The field's value at the pixels nearest to `where` [2,K]."""
    x = where[0].round().long().clamp(0, flow.shape[-1] - 1)
    y = where[1].round().long().clamp(0, flow.shape[-2] - 1)
    return flow[:, y, x]


def kept(objects: Tensor, crop: tuple[int, int]) -> Tensor:
    """Boxes cut to the crop; what is hardly inside or too small has score 0: it is left out of the loss."""
    limits = torch.tensor([crop[1], crop[0], crop[1], crop[0]], dtype=torch.float32)
    cut = torch.minimum(objects[:, :4].clamp(min=0), limits)
    size, whole = cut[:, 2:] - cut[:, :2], (objects[:, 2:4] - objects[:, :2]).prod(1).clamp(min=1)
    inside = (size > 0).all(1)
    counts = inside & (size.prod(1) / whole >= SHOWN) & (size.amin(1) >= SMALLEST)
    score = torch.where(counts, objects[:, 5], torch.zeros(()))
    return torch.cat([cut, objects[:, 4:5], score[:, None]], 1)[inside]


def cutout(shelves: Shelves, recipe: DetectionDataRecipe, rng: np.random.Generator, real: bool) -> Cutout:
    """An object of a random frame, or (real False, or where it has none) a patch of it; at a random size."""
    source, index, wanted = shelves.pasted(rng, real)
    picture = source.picture(index)
    height, width = picture.shape[-2:]
    objects = source.objects[index]
    sure = objects[useful(objects, recipe.sure, wanted)]
    kind = -1.0
    if real and len(sure):
        chosen = sure[rng.integers(len(sure))]
        x1, y1, x2, y2 = (int(value) for value in chosen[:4].round())
        kind = float(chosen[4])
    else:
        w, h = (int(rng.uniform(0.1, 0.5) * side) for side in (width, height))
        x1, y1 = int(rng.integers(width - w)), int(rng.integers(height - h))
        x2, y2 = x1 + w, y1 + h
        middle = (objects[:, :2] + objects[:, 2:4]) / 2
        if ((middle > torch.tensor([x1, y1])) & (middle < torch.tensor([x2, y2]))).all(1).any():
            kind = -2.0  # a part of something: pasted, and left out of the loss
    part = picture[:, max(0, y1) : y2, max(0, x1) : x2].float()
    low, high = recipe.pasted_side
    side = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    factor = min(side / max(part.shape[-2:]), recipe.enlarged)
    size = [max(2, round(factor * extent)) for extent in part.shape[-2:]]
    pixels = F.interpolate(part[None], size, mode="bilinear", antialias=factor < 1)[0]
    if rng.random() < 0.5:
        pixels = pixels.flip(-1)
    gain = rng.uniform(0.5, 1.4) * rng.uniform(0.6, 1.4, (3, 1, 1))  # few objects are labelled: of other colours too
    pixels = (pixels * torch.from_numpy(gain).float()).clamp(0, 255)
    y, x = (torch.linspace(-1, 1, extent) for extent in size)
    power = float(rng.uniform(3, 10))
    distance = x.abs().pow(power)[None] + y.abs().pow(power)[:, None]
    return Cutout(pixels, ((1.1 - distance) * 5).clamp(0, 1)[None], kind)


def scene(
    picture: Tensor,
    objects: Tensor,
    place: Place,
    shelves: Shelves,
    recipe: DetectionDataRecipe,
    rng: np.random.Generator,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """A key frame and its followers: (images [3,h,w], objects [K,6], flows [2,h,w] of the followers to the key)."""
    crop = recipe.crop
    pasted = [
        cutout(shelves, recipe, rng, real)
        for real, most in ((False, recipe.pasted), (True, recipe.pasted))
        for _ in range(int(rng.integers(most + 1)))
    ]
    spots = [(rng.uniform(0, crop[1]), rng.uniform(0.15 * crop[0], crop[0])) for _ in pasted]
    images, boxes, flows = [], [], []
    for number in range(recipe.followers + 1):
        field = None if number == 0 else camera_flow(crop, recipe.camera, rng)
        view, found = view_of(picture, objects, crop, place, field)
        flow = view.flow.clone()
        own = []
        for one, (x, y) in zip(pasted, spots, strict=True):
            push = rng.uniform(-recipe.speed, recipe.speed, 2) if number else np.zeros(2)
            now = _carried(x, y, field, push)
            box = paste(view.image, flow, one, now, (x, y))
            own.append(box)
            if box is not None:
                found = covered(found, box)
        for place_of, (one, box) in enumerate(zip(pasted, own, strict=True)):
            if box is None or one.kind == -1:
                continue
            hidden = sum(float(_share(box, over)) for over in own[place_of + 1 :] if over is not None)
            score = 1.0 if one.kind >= 0 and hidden < SEEN else 0.0
            line = torch.tensor([[*box.tolist(), max(one.kind, 0.0), score]])
            found = torch.cat([found, kept(line, crop)])
        images.append(view.image)
        boxes.append(found)
        if number:
            flows.append(flow)
    return images, boxes, flows


def _carried(x: float, y: float, field: Tensor | None, push: NDArray[np.float64]) -> tuple[float, float]:
    """Where something at (x, y) px of the key frame is now."""
    if field is None:
        return x, y
    back = at(field, torch.tensor([[x], [y]], dtype=torch.float32))[:, 0]
    return x - float(back[0]) + float(push[0]), y - float(back[1]) + float(push[1])


def paste(
    image: Tensor, flow: Tensor, one: Cutout, middle: tuple[float, float], before: tuple[float, float]
) -> Tensor | None:
    """Draws into the image and the flow, in place; the box [4], which may reach beyond, or None where none is seen.

    middle: of the thing, px; before: the same in the key frame.
    """
    height, width = one.pixels.shape[-2:]
    left, top = (round(at_ - extent / 2) for at_, extent in zip(middle, (width, height), strict=True))
    origin = [round(at_ - extent / 2) for at_, extent in zip(before, (width, height), strict=True)]
    x1, y1 = max(0, left), max(0, top)
    x2, y2 = min(image.shape[-1], left + width), min(image.shape[-2], top + height)
    if x1 >= x2 or y1 >= y2:
        return None
    part = (slice(None), slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))
    alpha, target = one.alpha[part], (slice(None), slice(y1, y2), slice(x1, x2))
    image[target] = torch.lerp(image[target], one.pixels[part], alpha)
    step = torch.tensor([origin[0] - left, origin[1] - top], dtype=torch.float32)[:, None, None]
    flow[target] = torch.where(alpha > 0.5, step, flow[target])
    return torch.tensor([left, top, left + width, top + height], dtype=torch.float32)


def covered(objects: Tensor, box: Tensor) -> Tensor:
    """Objects with score 0 where a pasted box hides most of them."""
    if not len(objects):
        return objects
    hidden = torch.stack([_share(one[:4], box) for one in objects])
    score = torch.where(hidden > SEEN, torch.zeros(()), objects[:, 5])
    return torch.cat([objects[:, :5], score[:, None]], 1)


def _share(box: Tensor, over: Tensor) -> Tensor:
    """Of the box that the other covers."""
    low, high = torch.maximum(box[:2], over[:2]), torch.minimum(box[2:4], over[2:4])
    return (high - low).clamp(min=0).prod() / (box[2:4] - box[:2]).prod().clamp(min=1)


def place_in(
    picture: Tensor, objects: Tensor, recipe: DetectionDataRecipe, rng: np.random.Generator, wanted: int | None = None
) -> Place:
    """A random place whose crop lies inside the picture: what a border reflects has no boxes.

    With `closeups`, one about an object, of the class that is wanted where there are such.
    """
    full, crop = (picture.shape[-2], picture.shape[-1]), recipe.crop
    most = min((whole - 1) / (side - 1) for whole, side in zip(full, crop, strict=True))
    zoom = min(recipe.zoom[0], most), min(recipe.zoom[1], most)
    if recipe.closeups and rng.random() < recipe.closeups:
        found = objects[useful(objects, recipe.sure, wanted)]
        if len(found):
            return _about(found[rng.integers(len(found)), :4].numpy(), full, zoom, recipe, rng)
    return draw_place(full, crop, zoom, rng)


def _about(
    box: NDArray[np.float32],
    full: tuple[int, int],
    zoom: tuple[float, float],
    recipe: DetectionDataRecipe,
    rng: np.random.Generator,
) -> Place:
    """A place in which the box fills a random share of the crop, at a random spot of it."""
    height, width = recipe.crop
    low, high = recipe.filled
    share = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    factor = float(np.clip(max((box[2] - box[0]) / width, (box[3] - box[1]) / height) / share, *zoom))
    start = []
    for middle, side, whole in ((box[[0, 2]].mean(), width, full[1]), (box[[1, 3]].mean(), height, full[0])):
        room = whole - 1 - factor * (side - 1)
        start.append(float(np.clip(middle - factor * side * rng.uniform(0.25, 0.75), 0, max(room, 0))))
    mirrored = rng.random() < 0.5
    return Place(start[0] + factor * (width - 1) if mirrored else start[0], start[1], factor, -1 if mirrored else 1)
