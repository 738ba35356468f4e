"""Deep Feature Flow for video recognition (Zhu, Xiong, Dai, Yuan, Wei, CVPR 2017, arXiv 1611.07715).

The expensive feature network runs on key frames alone. To any other frame, the features of a key frame are carried
along a flow field and scaled, both from a far cheaper network; the task's head runs on every frame. Each frame is
warped directly from its key frame, never from a warped one.

Which frames are key frames, and which key frame serves a frame, is the caller's choice (`keys`): the paper's fixed
schedule and look-ahead planning are both lists of frame numbers (pipeline/plan).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.dff.dense_head import DenseHead
from models.dff.flownet import FlowNet
from models.dff.protocol import FrameNetwork, PairFlow, Prediction, Segmentation
from models.dff.resnet import STRIDE, FeatureNet, subtract_mean
from models.dff.rfcn import RFCNHead
from models.dff.segmentation import Mode, SegHead
from models.dff.warp import warp


class PaperNetwork(nn.Module):
    """A feature network and a head of the paper as one FrameNetwork."""

    stride = STRIDE

    def __init__(
        self, backbone: nn.Module, task: SegHead | RFCNHead | DenseHead, mode: Mode = "exact", step: int = 4
    ) -> None:
        """backbone: images [N,3,H,W] -> features at stride 16; mode and step: see SegHead.labels.

        A backbone that normalises frames by itself (resnet_v2) says so with `takes_frames = True`.
        """
        super().__init__()
        self.backbone, self.task, self.mode, self.step = backbone, task, mode, step
        self.takes_frames = bool(getattr(backbone, "takes_frames", False))

    def features(self, frames: Tensor) -> Tensor:
        features: Tensor = self.backbone(frames if self.takes_frames else subtract_mean(frames))
        return features

    def head(self, features: Tensor, size: tuple[int, int]) -> Prediction:
        if isinstance(self.task, SegHead):
            return Segmentation(self.task.labels(features, size, self.mode, self.step))
        found: Prediction = self.task(features, size)
        return found


class DeepFeatureFlow(nn.Module):
    """A network for frames, and a flow that carries its features.

    network   any FrameNetwork
    flow      FlowNet, or any PairFlow in the network's cells
    """

    def __init__(self, network: FrameNetwork, flow: PairFlow) -> None:
        super().__init__()
        if not isinstance(network, FrameNetwork):
            raise TypeError(
                f"{type(network).__name__} is no FrameNetwork: it needs stride, features(frames) and "
                "head(features, size) (models/dff/protocol.py)"
            )
        if isinstance(flow, FlowNet) and network.stride != STRIDE:
            raise ValueError(
                f"FlowNet's flow is in cells of {STRIDE} px; {type(network).__name__}'s are {network.stride} px: "
                "give a flow of its own (warp.cells_from_pixels makes one from a flow of pixels)"
            )
        self.network, self.flow = network, flow

    def forward(self, key: Tensor, current: Tensor, same: Tensor | None = None) -> Tensor:
        """Features of the current frames, carried from their key frames: what training differentiates.

        key, current   frames [N,3,H,W], RGB 0..255
        same           bool [N]: the current frame is the key frame itself, and takes its features as they are,
                       neither warped nor scaled (specs/dff.md, section 7); None: nowhere
        """
        features = self.network.features(key)
        if same is not None and bool(same.all()):
            return features
        carried = self.carried(features, key, current)
        return carried if same is None else torch.where(same[:, None, None, None], features, carried)

    def carried(self, features: Tensor, key: Tensor, current: Tensor) -> Tensor:
        """Key features [1 or N,C,h,w] and key frames [1 or N,3,H,W] -> features of current frames [N,3,H,W]."""
        if isinstance(self.flow, FlowNet):
            key, current = subtract_mean(key), subtract_mean(current)
        flow, scale = self.flow(current, key.expand(len(current), -1, -1, -1))
        return warp(features, flow, scale)

    @torch.no_grad()
    def clip_features(self, frames: Tensor, keys: Sequence[int]) -> Tensor:
        """Features [T,C,h,w] of a clip's frames [T,3,H,W], given for each frame the number of its key frame.

        A frame whose key is itself is a key frame. Raises ValueError where a frame's key frame is none.
        """
        check_keys(keys, len(frames))
        numbers = sorted(set(keys))
        of_keys = self.network.features(frames[numbers])
        result = of_keys.new_empty(len(frames), *of_keys.shape[1:])
        for row, number in enumerate(numbers):
            result[number] = of_keys[row]
            followers = [i for i, key in enumerate(keys) if key == number and i != number]
            if followers:
                result[followers] = self.carried(of_keys[row : row + 1], frames[number : number + 1], frames[followers])
        return result

    @torch.no_grad()
    def predict(self, frames: Tensor, keys: Sequence[int]) -> Prediction:
        """What the head finds in each frame of a clip; `keys` as in clip_features."""
        return self.network.head(self.clip_features(frames, keys), (frames.shape[-2], frames.shape[-1]))

    def freeze_as_published(self) -> None:
        """What published training leaves as it is: conv1 and conv2, and the scale's bias (specs/dff.md, 3 and 7)."""
        backbone = getattr(self.network, "backbone", None)
        if isinstance(backbone, FeatureNet):
            backbone.freeze_stem()
        if isinstance(self.flow, FlowNet) and self.flow.Convolution5_scale is not None:
            cast("nn.Parameter", self.flow.Convolution5_scale.bias).requires_grad_(False)


def check_keys(keys: Sequence[int], frames: int) -> None:
    if len(keys) != frames:
        raise ValueError(f"{len(keys)} key numbers for {frames} frames: give one for each frame")
    for frame, key in enumerate(keys):
        if not 0 <= key < frames or keys[key] != key:
            raise ValueError(f"frame {frame} takes its features from frame {key}, which is no key frame of this clip")


def fixed_keys(frames: int, interval: int) -> list[int]:
    """The paper's schedule: frame 0 is a key frame, and each interval-th after it, for itself and those that follow."""
    if interval < 1:
        raise ValueError(f"the key interval is {interval}; it must be 1 or more")
    return [frame - frame % interval for frame in range(frames)]


def from_reference(tensors: Mapping[str, Any], *, folded: bool = True) -> DeepFeatureFlow:
    """The whole published model: feature network, flow network, and whichever head the checkpoint has.

    Raises KeyError for names, ValueError for shapes.
    """
    segments = any(name.removeprefix("arg:").startswith("score") for name in tensors)
    head = SegHead.from_reference(tensors) if segments else RFCNHead.from_reference(tensors)
    backbone = FeatureNet.from_reference(tensors, folded=folded)
    return DeepFeatureFlow(PaperNetwork(backbone, head), FlowNet.from_reference(tensors)).eval()
