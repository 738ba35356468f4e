"""How triplets of a set are changed before MEMFOF learns from them (Bargatin et al., ICCV 2025, by its configurations).

Colours, then rectangles that hide parts of an outer frame, then one look at the scene: both sides enlarged, mirrored
and cropped. Dense flow is interpolated; sparse flow is not, as its gaps would spread: every known vector goes to the
pixel in which its point comes to lie. The look is taken in one step, so that only the pixels of the crop are computed.

Ours: the hue turns in YIQ and the four changes of colour have a fixed order (sampling.colour_jitter); a dense frame
that is smaller than the crop is always enlarged to hold it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.training.flow_datasets import Example
from pipeline.training.flow_recipe import DatasetRecipe
from pipeline.training.sampling import colour_jitter

ENLARGED, STRETCHED, ERASED, MIRRORED = 0.8, 0.8, 0.5, 0.5  # shares of triplets
RECTANGLE = (50, 100)  # px of the picture as it is stored: sides from, and below
FASTEST = 1000.0  # px a component: dense flow at or beyond it is no truth


@dataclass(frozen=True)
class Style:
    """What depends on whether a set's flow is dense."""

    jitter: float
    """Brightness, contrast and saturation, factors 1 ± this."""
    hue: float
    """Turns."""
    apart: float
    """Share of triplets whose frames change colour each on its own."""
    erased: tuple[int, ...]
    """Frames that may lose rectangles."""
    stretch: float
    """Largest power of 2 by which one axis is enlarged more than the other."""
    upset: float
    """Share of triplets mirrored upside down."""
    spare: int
    """px a side that an enlarged frame has beyond the crop, at least."""
    margin: tuple[int, int]
    """px that a crop's place is drawn beyond the bottom, and beyond both sides; then it is moved inside."""
    sparse: bool


DENSE = Style(0.4, 0.5 / 3.14, 0.2, (0, 2), 0.2, 0.1, 8, (0, 0), False)
SPARSE = Style(0.3, 0.3 / 3.14, 0.0, (2,), 0.0, 0.0, 1, (20, 50), True)
STYLES = {"things": DENSE, "sintel": DENSE, "spring": DENSE, "tartanair": SPARSE, "kitti": SPARSE, "hd1k": SPARSE}
"""Of each layout. TartanAir counts as sparse for its masks."""


class Augmented(NamedTuple):
    frames: Tensor  # [3,3,H,W] RGB 0..255 of the crop
    flow: Tensor  # [2,2,H,W] px
    valid: Tensor  # [2,H,W], 1 where there is a target


def augmented(
    example: Example, recipe: DatasetRecipe, crop: tuple[int, int], rng: np.random.Generator, style: Style | None = None
) -> Augmented:
    """One random change of all three frames and both flows. style: the layout's unless given."""
    style = style or STYLES[recipe.layout]
    frames = erased(recoloured(example.frames, style, rng), style, rng)
    height, width = frames.shape[-2:]
    look = draw_look((height, width), recipe, style, crop, rng)
    pixels = look.of(torch.cat([frames.flatten(0, 1), *([] if style.sparse else [_planes(example)])]))
    seen = pixels[:9].view(3, 3, *crop) * look.inside()
    if style.sparse:
        return Augmented(seen, *look.scattered(example))
    flow = pixels[9:13].view(2, 2, *crop) * look.vector
    known = pixels[13:] > 0.999  # of a pixel between known and unknown ones nothing is known
    known &= (flow.abs() < FASTEST).all(1) & look.inside()
    return Augmented(seen, flow * known[:, None], known.float())


def _planes(example: Example) -> Tensor:
    return torch.cat([example.flow.flatten(0, 1), example.known.float()])


def recoloured(frames: Tensor, style: Style, rng: np.random.Generator) -> Tensor:
    """[3,3,H,W] in 0..255"""
    scaled = frames / 255
    if rng.random() < style.apart:
        return 255 * torch.cat([colour_jitter(frame[None], rng, style.jitter, style.hue) for frame in scaled])
    return 255 * colour_jitter(scaled, rng, style.jitter, style.hue)


def erased(frames: Tensor, style: Style, rng: np.random.Generator) -> Tensor:
    """One or two rectangles of a frame's mean colour, in each of the style's frames with probability one half."""
    frames = frames.clone()
    height, width = frames.shape[-2:]
    for index in style.erased:
        if rng.random() >= ERASED:
            continue
        mean = frames[index].mean((1, 2))[:, None, None]
        for _ in range(int(rng.integers(1, 3))):
            top, left = int(rng.integers(height)), int(rng.integers(width))
            h, w = (int(side) for side in rng.integers(*RECTANGLE, 2))
            frames[index, :, top : top + h, left : left + w] = mean
    return frames


@dataclass(frozen=True)
class Look:
    """A crop of an enlarged, mirrored picture. Pairs are (of rows, of columns)."""

    factors: tuple[float, float]
    """Crop px a picture px."""
    canvas: tuple[int, int]
    """Size of the enlarged picture, with what pads it at the bottom and on the right before it is mirrored."""
    content: tuple[int, int]
    """Size of the enlarged picture alone."""
    mirrored: tuple[bool, bool]
    start: tuple[int, int]
    """The crop's first row and column on the mirrored canvas."""
    crop: tuple[int, int]

    def places(self, axis: int) -> Tensor:
        """Which row (axis 0) or column of the canvas each one of the crop is."""
        places = torch.arange(self.crop[axis]) + self.start[axis]
        return self.canvas[axis] - 1 - places if self.mirrored[axis] else places

    def inside(self) -> Tensor:
        """[H,W] bool: what is picture, not padding."""
        rows, columns = (self.places(axis) < self.content[axis] for axis in (0, 1))
        return rows[:, None] & columns

    @property
    def vector(self) -> Tensor:
        """[2,1,1]: what the components of a flow (x, y) are multiplied by."""
        y, x = (-f if mirrored else f for f, mirrored in zip(self.factors, self.mirrored, strict=True))
        return torch.tensor([x, y])[:, None, None]

    def of(self, planes: Tensor) -> Tensor:
        """Bilinear reads [C,H,W] of planes [C,h,w]; beyond their border the border's own values."""
        axes = []
        for axis, extent in enumerate(planes.shape[-2:]):
            source = (self.places(axis).double() + 0.5) / self.factors[axis]  # px from the border
            axes.append((source * (2 / extent) - 1).float())
        grid = torch.stack([axes[1].expand(self.crop), axes[0][:, None].expand(self.crop)], -1)
        out = F.grid_sample(planes[None], grid[None], padding_mode="border", align_corners=False)
        return out[0]

    def scattered(self, example: Example) -> tuple[Tensor, Tensor]:
        """Flow [2,2,H,W] and valid [2,H,W]: each known vector of the example in the pixel that its point falls into."""
        flow, valid = torch.zeros(2, 2, *self.crop), torch.zeros(2, *self.crop)
        for direction in (0, 1):
            points = example.known[direction].nonzero()  # (P, 2) row, column
            moved = ((points.double() + 0.5) * torch.tensor(self.factors)).long()
            for axis in (0, 1):
                if self.mirrored[axis]:
                    moved[:, axis] = self.canvas[axis] - 1 - moved[:, axis]
                moved[:, axis] -= self.start[axis]
            kept = ((moved >= 0) & (moved < torch.tensor(self.crop))).all(1)
            (y, x), (to_y, to_x) = points[kept].T.numpy(), moved[kept].T.numpy()
            # In numpy the last of several points in one pixel stays: always the same one.
            flow[direction].numpy()[:, to_y, to_x] = (example.flow[direction].numpy() * self.vector.numpy())[:, y, x]
            valid[direction].numpy()[to_y, to_x] = 1
        return flow, valid


def draw_look(
    size: tuple[int, int], recipe: DatasetRecipe, style: Style, crop: tuple[int, int], rng: np.random.Generator
) -> Look:
    """A random look at a picture of `size` (height, width) that gives a crop."""
    before = 2.0**recipe.pre_scale
    content = [round(side * before) for side in size]
    canvas = [max(side, wanted) for side, wanted in zip(content, crop, strict=True)] if style.sparse else content
    least = max((wanted + style.spare) / side for side, wanted in zip(canvas, crop, strict=True))
    if rng.random() < ENLARGED:
        factors = np.full(2, 2.0 ** rng.uniform(*recipe.scale))
        if rng.random() < STRETCHED:
            factors *= 2.0 ** rng.uniform(-style.stretch, style.stretch, 2)
        factors = np.maximum(factors, least)
    else:
        factors = np.full(2, max(1.0, *(wanted / side for side, wanted in zip(canvas, crop, strict=True))))
    mirrored = bool(recipe.mirror and rng.random() < MIRRORED)
    upset = bool(rng.random() < style.upset)
    whole = [max(wanted, round(side * factor)) for side, wanted, factor in zip(canvas, crop, factors, strict=True)]
    free = whole[0] - crop[0], whole[1] - crop[1]
    below, beside = style.margin
    top = min(int(rng.integers(free[0] + below + 1)), free[0])
    left = min(max(int(rng.integers(-beside, free[1] + beside + 1)), 0), free[1])
    total = before * factors
    return Look(
        (float(total[0]), float(total[1])), (whole[0], whole[1]),
        (round(content[0] * factors[0]), round(content[1] * factors[1])), (upset, mirrored), (top, left), crop,
    )  # fmt: skip
