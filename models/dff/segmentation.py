"""The segmentation head: one 1x1 convolution (paper, section 4), and labels from its scores without their full size.

Upsampling 19 classes to the frame and taking the argmax costs more than FlowNet Half (specs/dff.md, section 9). Scores
between four cells are their weighted means, so a class that wins in all four wins everywhere between them: only where
the four disagree, along the objects' outlines, must anything be upsampled to know the labels exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dff.checkpoint import fill, own_part, reference, shape_of
from models.memfof.precision import full_precision

STRIDE = 16
PART = "segmentation head"
MARGIN = 1e-5  # of the largest score: a win by less in a corner could be lost to rounding between corners
WORTH = 0.15  # of all squares and classes: where more can win, upsampling everything is quicker
CHUNK = 512  # squares between cells that are upsampled at a time: 10 MB for 19 classes at stride 16
Mode = Literal["exact", "reduced"]
Placement = Literal["frame", "cells"]


class SegHead(nn.Module):
    """Features -> scores of each class, and labels.

    placement   where cells lie on a frame whose sides are no multiples of the stride. "frame": spread over it evenly,
                as `interpolate` to its size does and the expected outputs have it; "cells": each covers its own
                stride x stride pixels and the last are cut, as the deconvolution and crop of DeepLab's graphs do
    """

    def __init__(
        self, classes: int = 19, channels: int = 1024, stride: int = STRIDE, placement: Placement = "frame"
    ) -> None:
        super().__init__()
        if not 1 <= classes <= 255:
            raise ValueError(f"classes is {classes}; labels are bytes and 255 means `ignore`, so 1 to 255 fit")
        self.sizes = {"classes": classes, "channels": channels, "stride": stride}
        self.stride, self.placement = stride, placement
        self.score = nn.Conv2d(channels, classes, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Scores before the softmax: [N,classes,h,w], or upsampled to `size` (H, W) px, [N,classes,H,W]."""
        scores: Tensor = self.score(features)
        return scores if size is None else upsampled(scores, self.grid(scores, size))

    def labels(self, features: Tensor, size: tuple[int, int], mode: Mode = "exact", step: int = 4) -> Tensor:
        """uint8 [N,H,W]. `exact`: the argmax of the upsampled scores. `reduced`: in the middle of each step x step
        pixels, repeated over them; outlines move by up to step / 2 px."""
        with full_precision(features):  # of bf16 scores, too many are equal
            scores: Tensor = self(features.float())
        grid = self.grid(scores, size)
        return exact_labels(scores, grid) if mode == "exact" else reduced_labels(scores, grid, step)

    def grid(self, scores: Tensor, size: tuple[int, int]) -> Grid:
        """Raises ValueError where scores and size do not belong together."""
        cells = (-(-size[0] // self.stride), -(-size[1] // self.stride))
        if scores.ndim != 4 or list(scores.shape[-2:]) != list(cells):
            raise ValueError(
                f"features are {list(scores.shape[-2:])} cells; a frame of {size[0]}x{size[1]} px has "
                f"{cells[0]}x{cells[1]} cells of {self.stride} px"
            )
        return Grid(size, cells, None if self.placement == "frame" else self.stride)

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any]) -> SegHead:
        """The head of a published checkpoint's tensors (`score`). Raises KeyError for names, ValueError for shapes."""
        own = own_part(PART, tensors)
        with torch.device("meta"):
            head = cls(shape_of(own, "score_weight", PART)[0], shape_of(own, "score_weight", PART)[1])
        fill(head, own, lambda name: name.replace(".", "_"), PART)
        return head.eval()

    def to_reference(self) -> dict[str, Tensor]:
        """The tensors under their published names: the inverse of from_reference."""
        return reference(self, lambda name: name.replace(".", "_"))


@dataclass(frozen=True)
class Grid:
    """Cells on a frame. stride: pixels a cell, from the frame's corner on; None: the cells share the frame evenly."""

    size: tuple[int, int]  # (H, W) px
    cells: tuple[int, int]
    stride: int | None = None

    def axis(self, which: int, pixels: Tensor) -> Axis:
        """Where these pixels' centres lie among the cells' centres; beyond the outermost they count as there."""
        per_pixel = self.cells[which] / self.size[which] if self.stride is None else 1 / self.stride
        place = ((pixels + 0.5) * per_pixel - 0.5).clamp(0, self.cells[which] - 1)
        low = place.floor().long()
        return Axis(low, (low + 1).clamp(max=self.cells[which] - 1), place - low)

    def axes(self, device: torch.device) -> tuple[Axis, Axis]:
        """Of all rows, and of all columns."""
        rows, columns = (torch.arange(side, device=device, dtype=torch.float32) for side in self.size)
        return self.axis(0, rows), self.axis(1, columns)


@dataclass(frozen=True, eq=False)
class Axis:
    """For each of n pixels: the cell before it, the cell after it, and its way from one to the other in 0..1."""

    low: Tensor  # int64 (n,)
    high: Tensor
    way: Tensor  # fp32 (n,)


def upsampled(scores: Tensor, grid: Grid) -> Tensor:
    """Scores [N,C,h,w] -> [N,C,H,W], bilinear."""
    if grid.stride is None:
        return F.interpolate(scores, grid.size, mode="bilinear", align_corners=False)
    full = F.interpolate(scores, scale_factor=grid.stride, mode="bilinear", align_corners=False)
    return full[..., : grid.size[0], : grid.size[1]]


def between(low: Tensor, high: Tensor, way: Tensor) -> Tensor:
    return low * (1 - way) + high * way


def best_class(scores: Tensor) -> Tensor:
    """Argmax over dimension 1 as uint8; the first of equals. [N,C,...] -> [N,...].

    Class by class: torch's own argmax over a dimension that is not the last is several times slower on the CPU.
    """
    best, label = scores[:, 0], torch.zeros_like(scores[:, 0], dtype=torch.uint8)
    for index in range(1, scores.shape[1]):
        label.masked_fill_(scores[:, index] > best, index)
        best = torch.maximum(best, scores[:, index])
    return label


def dense_labels(scores: Tensor, grid: Grid) -> Tensor:
    """The definition: the argmax of scores upsampled to the frame. [N,C,h,w] -> uint8 [N,H,W]."""
    return torch.cat([best_class(upsampled(one, grid)) for one in torch.split(scores, 1)])


def exact_labels(scores: Tensor, grid: Grid) -> Tensor:
    """dense_labels, upsampling only what can win. Scores [N,C,h,w] -> uint8 [N,H,W].

    The two may differ where classes are equal to rounding, and nowhere else.
    """
    return torch.stack([exact_labels_of(one, grid) for one in scores])


def exact_labels_of(scores: Tensor, grid: Grid) -> Tensor:
    """Of one frame: scores [C,h,w] -> uint8 [H,W]."""
    rows, columns = grid.axes(scores.device)
    width = grid.cells[1]
    # Square (i, j) has the centres of cells (i, j) and (i+1, j+1) as its corners; the outermost have no further cells.
    quads = torch.stack(corners(scores), -1).permute(1, 2, 0, 3).flatten(0, 1)  # (h * w, C, 4)
    possible = candidates(quads, MARGIN * scores.abs().max())  # (h * w, C)
    shown = occupied(rows, grid.cells[0])[:, None] & occupied(columns, width)
    count = possible.sum(1) * shown.flatten()
    if int(count[count > 1].sum()) > WORTH * possible.numel():
        return dense_labels(scores[None], grid)[0]
    classes = torch.sort(possible.byte(), dim=1, descending=True, stable=True).indices  # possible ones first, in order
    first = classes[:, 0].to(torch.uint8).reshape(grid.cells)
    labels = first[rows.low[:, None], columns.low]  # (H, W), final where one class is possible

    undecided = torch.argsort(count)[int((count < 2).sum()) :]
    for part in range(0, len(undecided), CHUNK):
        squares = undecided[part : part + CHUNK]
        some = classes[squares, : int(count[squares[-1]])]  # (K, c): no square of the chunk has more than c
        at_corners = quads[squares].gather(1, some[..., None].expand(-1, -1, 4))[..., None, :]  # (K, c, 1, 4)
        y, x = span(rows, squares // width), span(columns, squares % width)  # (K, rows), (K, columns)
        across, down = columns.way[x][:, None, :], rows.way[y][:, None, :, None]
        above = between(at_corners[..., 0], at_corners[..., 1], across)  # (K, c, columns)
        below = between(at_corners[..., 2], at_corners[..., 3], across)
        winner = best_class(between(above[:, :, None], below[:, :, None], down))  # (K, rows, columns), of `some`
        label = some.to(torch.uint8).gather(1, winner.flatten(1).long())
        labels[y[:, :, None], x[:, None]] = label.reshape(winner.shape)
    return labels


def candidates(quads: Tensor, margin: Tensor | float) -> Tensor:
    """Which classes can win anywhere in a square: corners' scores [K,C,4] -> bool [K,C].

    The best class is at least the mean of the four corners' winners everywhere, and that mean is bilinear like the
    scores: a class below it in all four corners is below it, and so below the best, between them too.
    """
    winners = quads.argmax(1)  # (K, 4)
    mean = quads.gather(1, winners[..., None].expand(-1, -1, 4)).mean(1)  # (K, 4)
    return (quads >= (mean - margin)[:, None]).any(-1)


def corners(x: Tensor) -> list[Tensor]:
    """Values [...,h,w] of each cell and of its neighbours right, below and right below; the border's are its own."""
    padded = F.pad(x, (0, 1, 0, 1), mode="replicate")
    return [padded[..., :-1, :-1], padded[..., :-1, 1:], padded[..., 1:, :-1], padded[..., 1:, 1:]]


def occupied(axis: Axis, cells: int) -> Tensor:
    """bool (cells,): whether any pixel lies after this cell's centre; a last cell that is cut may have none."""
    return torch.bincount(axis.low, minlength=cells) > 0


def span(axis: Axis, cells: Tensor) -> Tensor:
    """The pixels between each of these cells' centres and the next ones': int64 [K,n].

    Squares have up to one pixel more or less than others; a shorter one repeats its last pixel.
    """
    first = torch.searchsorted(axis.low, cells)
    last = torch.searchsorted(axis.low, cells, right=True) - 1
    pixels = first[:, None] + torch.arange(int((last - first).max()) + 1, device=cells.device)
    return torch.minimum(pixels, last[:, None])


def reduced_labels(scores: Tensor, grid: Grid, step: int = 4) -> Tensor:
    """The argmax in the middle of each step x step pixels, repeated over them; step 1 is dense_labels."""
    if step < 1:
        raise ValueError(f"step is {step} px; it must be 1 or more")
    rows, columns = (
        grid.axis(which, torch.arange(0, side, step, device=scores.device) + (step - 1) / 2)
        for which, side in enumerate(grid.size)
    )
    tall = between(scores[:, :, rows.low], scores[:, :, rows.high], rows.way[:, None])  # (N, C, H/step, w)
    label = best_class(between(tall[..., columns.low], tall[..., columns.high], columns.way))
    full = label[:, :, None, :, None].expand(-1, -1, step, -1, step).flatten(3).flatten(1, 2)
    return full[:, : grid.size[0], : grid.size[1]].contiguous()
