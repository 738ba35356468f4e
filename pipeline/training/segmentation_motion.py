"""Motion of a camera that drives, as a flow field: what a labelled picture is turned into pairs with.

Labelled frames of driving videos are seconds apart, without the frames between. So a pair is one picture and a view of
it that is moved, by a field that looks like driving: things spread from a point on the horizon, the nearer the faster,
on a plane below it and along walls beside it; turns, bumps and a smooth deformation are added.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.training.segmentation_recipe import CameraRecipe


def camera_flow(size: tuple[int, int], recipe: CameraRecipe, rng: np.random.Generator, reach: float = 1.0) -> Tensor:
    """A field [2,H,W] in px (x, y): what is at p in the moved view is at p + flow in the picture.

    reach: factor on every motion's largest value.
    """
    height, width = size
    if rng.random() < recipe.still:
        return torch.zeros(2, height, width)
    x = torch.linspace(-0.5, 0.5, width)
    y = torch.linspace(-0.5, 0.5, height)[:, None]
    aim_x, aim_y = rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.05)  # where the camera drives to, on the horizon
    ground = (y - aim_y).clamp(min=0) * rng.uniform(1.5, 2.5)
    walls = (x - aim_x).abs() * rng.uniform(0.5, 2.0)
    nearness = torch.maximum(ground.expand(height, width), walls.expand(height, width)).clamp(max=1.0)
    forward = nearness * float(rng.uniform(-1, 1)) * recipe.forward * reach
    roll, turn = (reach * limit * float(rng.uniform(-1, 1) * rng.random()) for limit in (recipe.roll, recipe.turn))
    bump = reach * recipe.bump * float(rng.uniform(-1, 1))
    across, down = (x - aim_x) * width, (y - aim_y) * height  # px from the aim
    field = torch.stack([forward * across - roll * down + turn, forward * down + roll * across + bump])
    coarse = torch.from_numpy(rng.uniform(-1, 1, (1, 2, 4, 5))).float() * recipe.elastic * reach * float(rng.random())
    return field + F.interpolate(coarse, size, mode="bicubic", align_corners=True)[0]


class View(NamedTuple):
    image: Tensor  # [3,H,W] RGB 0..255
    labels: Tensor  # [H,W] uint8
    flow: Tensor  # [2,H,W] px, to the unmoved view


def look(picture: Tensor, labels: Tensor, size: tuple[int, int], place: Place, flow: Tensor, void: int) -> View:
    """The picture [3,H,W] and its labels [H,W], seen through `place` and a field [2,h,w]; what is outside is void."""
    height, width = size
    x = (torch.arange(width) + flow[0]) * place.zoom * place.side + place.x
    y = (torch.arange(height)[:, None] + flow[1]) * place.zoom + place.y
    full = picture.shape[-2:]
    grid = torch.stack([2 * x / (full[1] - 1) - 1, 2 * y / (full[0] - 1) - 1], -1)[None]
    image = F.grid_sample(picture[None].float(), grid, padding_mode="reflection", align_corners=True)[0]
    inside = (grid.abs() <= 1).all(-1)[0]
    nearest = F.grid_sample(labels[None, None].float(), grid, mode="nearest", padding_mode="border", align_corners=True)
    return View(image, torch.where(inside, nearest[0, 0].to(torch.uint8), torch.tensor(void, dtype=torch.uint8)), flow)


class Place(NamedTuple):
    """Which part of a picture a view shows: pixel (0, 0) is at (x, y); side -1 mirrors it."""

    x: float
    y: float
    zoom: float
    side: int = 1


def draw_place(
    full: tuple[int, int], size: tuple[int, int], zoom: tuple[float, float], rng: np.random.Generator
) -> Place:
    """Anywhere in the picture; centred where it is too small."""
    factor, side = float(rng.uniform(*zoom)), int(rng.choice([-1, 1]))
    free_x, free_y = full[1] - 1 - factor * (size[1] - 1), full[0] - 1 - factor * (size[0] - 1)
    x = rng.uniform(0, free_x) if free_x > 0 else free_x / 2
    y = rng.uniform(0, free_y) if free_y > 0 else free_y / 2
    return Place(float(x) if side > 0 else full[1] - 1 - float(x), float(y), factor, side)
