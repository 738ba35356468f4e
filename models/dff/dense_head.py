"""A detection head that asks each place directly: ours, not the paper's.

R-FCN's two stages want large feature networks and long training. Here each of 2x2 places a cell says which object it
lies in the middle of and how far that object's four sides are (as FCOS does: Tian et al., ICCV 2019), and its score is
trained to be the box's IoU (Li et al., Generalized Focal Loss, NeurIPS 2020). It starts with a norm and a ReLU, because
ResNet-50 v2's features are a residual stream that has had neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoint import checked
from models.dff.batch import one_by_one
from models.dff.boxes import clip
from models.dff.checkpoint import adopt
from models.dff.fine_head import conv
from models.dff.fold import StoredNorm
from models.dff.protocol import Detections
from models.dff.rfcn import best
from models.memfof.precision import full_precision

CELL = 16  # px
FINER = 2  # places a cell, in both directions
PLACE = CELL // FINER  # px
UNIT = 32.0  # px that a distance of e^0 is
MARK = "dense_"  # of its tensors' names in files
DILATIONS = (1, 2, 3, 6)  # of the neighbourhoods: the first three see 13 cells on a side, all of them 25
CANDIDATES = 300  # best places that enter suppression
OVERLAP = 0.55  # IoU above which the worse of two boxes of a class is dropped
RARE = -3.9  # a score's logit before training: objects are rare (2 %)


class DenseHead(nn.Module):
    """Features [N,channels,h,w] at stride 16 -> objects.

    width      channels between
    contexts   neighbourhoods that a place sees, the first of DILATIONS
    """

    stride = CELL

    def __init__(self, classes: int = 2, channels: int = 1024, width: int = 128, contexts: int = 3) -> None:
        super().__init__()
        self.sizes = {"classes": classes, "channels": channels, "width": width, "contexts": contexts}
        self.classes = classes
        self.norm = StoredNorm(channels)
        self.reduce = conv(channels, width, 1)
        self.contexts = nn.ModuleList(conv(width, width, 3, dilation) for dilation in DILATIONS[:contexts])
        self.score = nn.Conv2d(width, (classes + 4) * FINER**2, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        bias = torch.zeros(classes + 4, FINER**2)
        bias[:classes] = RARE
        with torch.no_grad():
            self.score.bias.copy_(bias.flatten())  # type: ignore[union-attr]

    def raw(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(logits [N,classes,2h,2w], boxes [N,4,2h,2w] xyxy px, which may reach beyond the frame); fp32."""
        x = F.relu(self.reduce(F.relu(self.norm(features))))  # (N, width, h, w)
        for context in self.contexts:
            x = x + F.relu(context(x))
        found = F.pixel_shuffle(self.score(x), FINER).float()
        return found[:, : self.classes], boxes_of(found[:, self.classes :])

    def forward(self, features: Tensor, size: tuple[int, int]) -> list[Detections]:
        """Objects of each frame; features are of images of `size` (H, W) px. ValueError where they do not fit."""
        cells = [-(-side // CELL) for side in size]
        if features.ndim != 4 or list(features.shape[-2:]) != cells:
            raise ValueError(
                f"features are {list(features.shape)}; a frame of {size[0]}x{size[1]} px has {cells} cells"
            )
        if one_by_one(self, features):
            return [found for one in torch.split(features, 1) for found in self(one, size)]
        with full_precision(features):  # boxes are pixels, and suppression compares them
            logits, boxes = self.raw(features.float())
        return [
            self.chosen(scores, clip(places, size))
            for scores, places in zip(
                logits.sigmoid().flatten(2).transpose(1, 2), boxes.flatten(2).transpose(1, 2), strict=True
            )
        ]

    def chosen(self, scores: Tensor, boxes: Tensor) -> Detections:
        """One frame's places, scores [P,classes] and boxes [P,4] -> the best of them, suppressed within classes."""
        order = torch.sort(scores.amax(1), descending=True, stable=True).indices[:CANDIDATES]
        return best(boxes[order], scores[order], OVERLAP)

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any]) -> DenseHead:
        """The head of a file's tensors (dense_….weight). Raises KeyError for names, ValueError for shapes."""
        given = {name.removeprefix(MARK): value for name, value in tensors.items()}
        for name in ("score.bias", "reduce.weight"):
            if name not in given:
                raise KeyError(f"not a checkpoint of DenseHead: it has no tensor {MARK + name!r}, which tells its size")
        width, channels = given["reduce.weight"].shape[:2]
        contexts = sum(name.startswith("contexts.") and name.endswith(".weight") for name in given)
        head = cls(given["score.bias"].shape[0] // FINER**2 - 4, channels, width, contexts)
        adopt(head, checked(given, head.state_dict(), "DenseHead"))
        return head.eval()

    def to_reference(self) -> dict[str, Tensor]:
        """The inverse of from_reference."""
        return {MARK + name: value for name, value in self.state_dict().items()}


def centres(height: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """(x [1,width], y [height,1]) px of places' middles."""
    x, y = ((torch.arange(count, device=device, dtype=torch.float32) + 0.5) * PLACE - 0.5 for count in (width, height))
    return x[None], y[:, None]


def boxes_of(distances: Tensor) -> Tensor:
    """What the head says of the sides left, above, right and below [N,4,h,w], in logarithms -> xyxy px [N,4,h,w]."""
    x, y = centres(distances.shape[-2], distances.shape[-1], distances.device)
    left, above, right, below = (UNIT * distances.clamp(-5, 4).exp()).unbind(1)
    return torch.stack([x - left, y - above, x + right, y + below], 1)
