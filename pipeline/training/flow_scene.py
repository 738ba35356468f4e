"""Scenes made on the fly, with exact flow: objects over a background, as in FlyingChairs and FlyingThings.

Every layer has a picture, a motion and, but for the background, an outline, all given in the middle frame. A frame is
drawn by asking for each pixel and layer where it was in the middle frame; the flows of the middle frame are the
motions' own formulas at its pixels. They are exact where a thing is hidden or leaves the frame, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.training import flow_motion
from pipeline.training.flow_motion import Motion
from pipeline.training.flow_recipe import MotionRecipe
from pipeline.training.flow_textures import Pyramid, pattern

PIXEL_STEP = 1.4  # picture px a frame px at most: more would flicker


class Triplet(NamedTuple):
    frames: Tensor  # [3,3,H,W] RGB 0..255: previous, middle, next
    flow: Tensor  # [2,2,H,W] px: backward, forward


@dataclass(frozen=True, eq=False)
class Placed:
    """A picture [C,h,w] laid on the middle frame: frame px (x, y) reads picture px matrix @ (x, y) + shift."""

    picture: Tensor
    matrix: Tensor
    shift: Tensor
    padding: str

    def __call__(self, at: Tensor) -> Tensor:
        """Bilinear reads at points [2,H,W] of the middle frame -> [C,H,W]."""
        height, width = self.picture.shape[-2:]
        # From picture px to grid_sample's -1..1 (align_corners=False), in the same linear map.
        size = torch.tensor([width, height], dtype=torch.float32)
        x, y = flow_motion.affine(self.matrix * (2 / size)[:, None], at, (2 * self.shift + 1) / size - 1)
        out = F.grid_sample(
            self.picture[None], torch.stack([x, y], -1)[None], padding_mode=self.padding, align_corners=False
        )
        return out[0]


@dataclass(frozen=True, eq=False)
class Outline:
    """Coverage of an object: nothing of it is farther than `radius` px from `motion.centre` in the middle frame."""

    shape: Placed
    radius: float


@dataclass(frozen=True, eq=False)
class Layer:
    motion: Motion
    texture: Placed
    outline: Outline | None  # None: everywhere

    def window(self, time: float, size: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the frame at `time` outside of which nothing of the layer is."""
        if self.outline is None:
            return slice(0, size[0]), slice(0, size[1])
        x, y, reach = self.motion.disc(self.outline.radius, time)
        rows, columns = (
            slice(min(extent, max(0, int(c - reach))), min(extent, max(0, int(c + reach) + 2)))
            for c, extent in ((y, size[0]), (x, size[1]))
        )
        return rows, columns


@dataclass(frozen=True, eq=False)
class Scene:
    """Layers from the background to the front."""

    layers: Sequence[Layer]
    size: tuple[int, int]  # height, width

    def draw(self, time: float) -> Tensor:
        """[3,H,W] in 0..255"""
        grid = pixel_grid(self.size)
        out = torch.zeros(3, *self.size)
        for layer in self.layers:
            rows, columns = layer.window(time, self.size)
            here = out[:, rows, columns]
            if not here.numel():
                continue
            at = layer.motion.origin(grid[:, rows, columns], time)
            colour = layer.texture(at)
            if layer.outline is not None:
                colour = torch.lerp(here, colour, layer.outline.shape(at))
            here.copy_(colour)
        return out

    def draw_blurred(self, time: float, shutter: float, samples: int = 3) -> Tensor:
        """The mean over an exposure of `shutter` frames around `time`."""
        times = np.linspace(-0.5, 0.5, samples) * shutter + time
        return torch.stack([self.draw(float(t)) for t in times]).mean(0)

    def flow(self) -> Tensor:
        """[2,2,H,W] px from the middle frame to the previous and to the next."""
        grid = pixel_grid(self.size)
        out = torch.zeros(2, 2, *self.size)
        for layer in self.layers:
            rows, columns = layer.window(0.0, self.size)
            here, at = out[..., rows, columns], grid[:, rows, columns]
            if not here.numel():
                continue
            moved = torch.stack([layer.motion.displacement(at, time) for time in (-1.0, 1.0)])
            if layer.outline is not None:
                moved = torch.where(layer.outline.shape(at) > 0.5, moved, here)
            here.copy_(moved)
        return out


def pixel_grid(size: tuple[int, int]) -> Tensor:
    """Coordinates [2,H,W] (x, y) of pixel centres."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    return torch.stack([x, y])


def make_scene(
    pictures: Sequence[Pyramid],
    shapes: Tensor,
    recipe: MotionRecipe,
    reach: float,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Scene:
    """A random scene. pictures: at least one; shapes [K,1,S,S] coverage (flow_shapes.py); reach: px a frame."""
    camera = flow_motion.draw(rng, recipe, reach, size)
    layers = [Layer(camera, _texture(pictures, recipe, reach, size, rng), None)]
    for _ in range(int(rng.integers(recipe.objects + 1))):
        own = flow_motion.draw(rng, recipe, reach * recipe.object_reach, size)
        outline, own = _outline(shapes, own, size, rng)
        motion = flow_motion.combined(camera, own) if rng.random() < recipe.carried else own
        layers.append(Layer(motion, _texture(pictures, recipe, reach, size, rng), outline))
    return Scene(layers, size)


def _texture(
    pictures: Sequence[Pyramid], recipe: MotionRecipe, reach: float, size: tuple[int, int], rng: np.random.Generator
) -> Placed:
    """A window of a random picture, turned, mirrored and scaled; beyond its border it is mirrored on and on."""
    if rng.random() < recipe.textures_by_code:
        picture, zoom = pattern(rng), float(np.exp(rng.uniform(np.log(0.5), np.log(1.2))))
    else:
        levels = pictures[int(rng.integers(len(pictures)))]
        step = float(np.exp(rng.uniform(np.log(0.8), np.log(4.0))))  # px of the finest level a frame px
        level = min(len(levels) - 1, int(np.ceil(max(0.0, np.log2(step / PIXEL_STEP)))))
        zoom = min(step / 2**level, PIXEL_STEP)
        side = int(zoom * (1.3 * max(size) + 2 * min(reach, max(size) / 2)))
        whole = levels[level]
        top, left = (int(rng.integers(max(1, extent - side + 1))) for extent in whole.shape[1:])
        picture = whole[:, top : top + side, left : left + side].float()
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.normal(0, 0.1)
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    mirror = rng.choice([-1.0, 1.0])
    matrix = torch.tensor([[mirror * cos, -mirror * sin], [sin, cos]], dtype=torch.float32)
    frame_centre = torch.tensor([size[1], size[0]]) / 2
    picture_centre = torch.tensor([picture.shape[2], picture.shape[1]]) / 2
    return Placed(picture, matrix, picture_centre - matrix @ frame_centre, "reflection")


def _outline(shapes: Tensor, own: Motion, size: tuple[int, int], rng: np.random.Generator) -> tuple[Outline, Motion]:
    """A shape somewhere on the frame, and the motion turning and growing about its middle."""
    shape = shapes[rng.integers(len(shapes))]
    height, width = size
    radius = float(np.exp(rng.uniform(np.log(0.08), np.log(0.55)))) * min(size)
    stretch = float(np.exp(rng.normal(0, 0.25)))
    angle = rng.uniform(0, 2 * np.pi)
    scale = shape.shape[-1] / (2 * radius)  # shape px a frame px
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = torch.tensor(
        [[scale * stretch * cos, scale * stretch * sin], [-scale / stretch * sin, scale / stretch * cos]]
    ).float()
    centre = torch.from_numpy(rng.uniform(-0.05, 1.05, 2) * (width, height)).float()
    middle = torch.full((2,), (shape.shape[-1] - 1) / 2)
    turned = Motion(centre, own.translation, own.linear, own.bend, own.curl, own.elastic)
    placed = Placed(shape, matrix, middle - matrix @ centre, "zeros")
    return Outline(placed, 2**0.5 * radius * max(stretch, 1 / stretch)), turned
