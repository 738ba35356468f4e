"""A segmentation head that tells places within a cell apart: ours, not the paper's.

At stride 16 on frames of 480x360 px, poles and signs are narrower than a cell, and what the paper's head does between
cells (bilinear) cannot show them. This one looks at a neighbourhood of cells and scores 4x4 places in each. It starts
with a norm and a ReLU, because ResNet-50 v2's features are a residual stream that has had neither. It costs about 2 %
of that network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoint import checked
from models.dff.batch import one_by_one
from models.dff.checkpoint import adopt
from models.dff.fold import StoredNorm
from models.dff.segmentation import STRIDE, Grid, SegHead, upsampled

FINER = 4  # places a cell, in both directions
MARK = "fine_"  # of its tensors' names in files
DILATION = 2  # of the second neighbourhood: 3 + 2 * 2 cells in all


class FineHead(SegHead):
    """Features [N,channels,h,w] at stride 16 -> scores at stride 4.

    width   channels between. Scores have 4x the features' cells; those below and right of the frame are cut.
    """

    def __init__(self, classes: int = 11, channels: int = 1024, width: int = 128) -> None:
        super().__init__(classes, channels, STRIDE, "cells")
        self.sizes["width"] = width
        self.norm = StoredNorm(channels)
        self.reduce = conv(channels, width, 1)
        self.context1 = conv(width, width, 3)
        self.context2 = conv(width, width, 3, DILATION)
        self.score = nn.Conv2d(width, classes * FINER**2, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Scores before the softmax: [N,classes,4h,4w], or upsampled to `size` (H, W) px, [N,classes,H,W]."""
        if one_by_one(self, features):
            return torch.cat([self(one, size) for one in torch.split(features, 1)])
        x = F.relu(self.reduce(F.relu(self.norm(features))))  # (N, width, h, w)
        x = x + F.relu(self.context1(x))
        x = x + F.relu(self.context2(x))
        scores = F.pixel_shuffle(self.score(x), FINER)  # (N, classes, 4h, 4w)
        return scores if size is None else upsampled(scores, self.grid(scores, size))

    def grid(self, scores: Tensor, size: tuple[int, int]) -> Grid:
        """Raises ValueError where scores and size do not belong together."""
        cells = tuple(FINER * -(-side // STRIDE) for side in size)
        if scores.ndim != 4 or tuple(scores.shape[-2:]) != cells:
            raise ValueError(
                f"scores are {list(scores.shape[-2:])}; a frame of {size[0]}x{size[1]} px has {list(cells)} places"
            )
        return Grid(size, (cells[0], cells[1]), STRIDE // FINER)

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any]) -> FineHead:
        """The head of a file's tensors (fine_….weight). Raises KeyError for names, ValueError for shapes."""
        given = {name.removeprefix(MARK): value for name, value in tensors.items()}
        for name in ("score.bias", "reduce.weight"):
            if name not in given:
                raise KeyError(f"not a checkpoint of FineHead: it has no tensor {MARK + name!r}, which tells its size")
        width, channels = given["reduce.weight"].shape[:2]
        with torch.device("meta"):
            head = cls(given["score.bias"].shape[0] // FINER**2, channels, width)
        adopt(head, checked(given, head.state_dict(), "FineHead"))
        return head.eval()

    def to_reference(self) -> dict[str, Tensor]:
        """The inverse of from_reference."""
        return {MARK + name: value for name, value in self.state_dict().items()}


def conv(channels_in: int, channels: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(channels_in, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
