"""What a network must offer so that Deep Feature Flow can carry its features: three members, and their results.

Any torch segmentation or detection network that splits into features and a head fits (an example is in
tests/models/test_dff_protocol.py):

    class Mine(nn.Module):
        stride = 8                                   # pixels a feature cell
        def features(self, frames): ...              # the expensive part: key frames alone
        def head(self, features, size): ...          # the cheap part: every frame
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segmentation:
    """labels [N,H,W] uint8: the class of each pixel. Raises ValueError for another type or shape."""

    labels: Tensor

    def __post_init__(self) -> None:
        if self.labels.ndim != 3 or self.labels.dtype != torch.uint8:
            raise ValueError(f"labels must be uint8 [N,H,W]; got {self.labels.dtype} {list(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Segmentation(labels={list(self.labels.shape)})"


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects of one frame, any order. Raises ValueError where the lengths differ.

    boxes     [K,4] float32 px: x1, y1, x2, y2
    scores    [K] float32 in 0..1
    classes   [K] int64
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4) or self.scores.shape != (count,) or self.classes.shape != (count,):
            raise ValueError(
                "detections need boxes [K,4], scores [K] and classes [K]; got "
                f"{list(self.boxes.shape)}, {list(self.scores.shape)} and {list(self.classes.shape)}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, score: float) -> Detections:
        """Those with at least this score."""
        kept = self.scores >= score
        return Detections(self.boxes[kept], self.scores[kept], self.classes[kept])

    def __repr__(self) -> str:
        return f"Detections({len(self)})"


Prediction = Segmentation | Sequence[Detections]  # of N frames


@runtime_checkable
class FrameNetwork(Protocol):
    """A network for single frames, in two parts. What is between them is carried from key frames to the others.

    stride     pixels a feature cell, in both directions; cell (0, 0) covers the frame's first pixels
    features   frames [N,3,H,W], RGB in 0..255, uint8 or float -> [N,C,ceil(H/stride),ceil(W/stride)]
    head       features [N,C,h,w], and the frames' (H, W) -> Segmentation of N frames, or N Detections
    """

    stride: int

    def features(self, frames: Tensor) -> Tensor: ...

    def head(self, features: Tensor, size: tuple[int, int]) -> Prediction: ...


class PairFlow(Protocol):
    """Where the current frames' features lie in the key frames: FlowNet, or any other source of flow.

    current, key   frames [N,3,H,W], RGB in 0..255, uint8 or float (FlowNet alone is given them less the mean)
    Returns the flow in feature cells [N,2,h,w], current to key, and a scale [N,C,h,w] or None.
    """

    def __call__(self, current: Tensor, key: Tensor) -> tuple[Tensor, Tensor | None]: ...
