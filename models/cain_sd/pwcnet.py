"""PWC-Net (the "DC" variant): optical flow by pyramid, warping and cost volume (Sun et al., CVPR 2018).

CAIN-SD estimates motion with it on small frames, to choose each patch's scale. From the coarsest level down, the second
frame's features are warped by the flow so far, compared with the first's within 4 cells, and a densely connected
decoder reads the flow off the costs; at the finest level a dilated context network corrects it.

Departures from the official code, same output: a picture and the mask of a warp are sampled together; frames whose
sides are no multiple of 64 are resized here, which the official script does before calling the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoint import checked
from models.enlarge import Enlarge

WIDTHS = (16, 32, 64, 96, 128, 196)  # of the pyramid's levels 1 to 6
RADIUS = 4  # cells that the cost volume looks in each direction
DECODER = (128, 128, 96, 64, 32)
CONTEXT = ((128, 1), (128, 2), (128, 4), (96, 8), (64, 16), (32, 1))  # channels, dilation
UNIT = 20.0  # the network's flow times this is pixels
MULTIPLE = 64  # of the sides it works on: six halvings


def conv(channels: int, width: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride, dilation, dilation), nn.LeakyReLU(0.1))


def cost_volume(first: Tensor, second: Tensor, radius: int = RADIUS) -> Tensor:
    """Mean over channels of first(y, x) * second(y + dy, x + dx), [N,C,H,W] twice -> [N,(2r+1)²,H,W].

    Channel (2r+1) * (dy + r) + (dx + r); zeros outside the second.
    """
    height, width = first.shape[-2:]
    padded = F.pad(second, (radius,) * 4)
    shifts = range(2 * radius + 1)
    costs = [
        (first * padded[..., dy : dy + height, dx : dx + width]).mean(1, keepdim=True) for dy in shifts for dx in shifts
    ]
    return torch.cat(costs, 1)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """`x` [N,C,H,W] sampled at (column + flow 0, row + flow 1), flow [N,2,H,W] in cells; zero where it left the frame.

    Zero also where the sample reaches past the border at all: the official code masks by the warp of a plane of ones.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, flow = x.float(), flow.float()
        height, width = x.shape[-2:]
        columns = torch.arange(width, device=x.device, dtype=torch.float32) + flow[:, 0]
        rows = torch.arange(height, device=x.device, dtype=torch.float32)[:, None] + flow[:, 1]
        # A side of one cell has no extent to divide by.
        position = torch.stack([2 * columns / max(width - 1, 1) - 1, 2 * rows / max(height - 1, 1) - 1], 3)
        ones = x.new_ones(x.shape[0], 1, height, width)
        # One sampling for both; the mask needs the same zeros outside.
        sampled = F.grid_sample(torch.cat([x, ones], 1), position, padding_mode="zeros", align_corners=True)
        return sampled[:, :-1] * (sampled[:, -1:] >= 0.9999)


class PWCNet(nn.Module):
    """Flow of the first frame to the second. Attributes carry the published checkpoints' names."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for level, width in enumerate(WIDTHS, 1):
            # Level 6 has its strided convolution under another name than the rest.
            names = ("a", "aa", "b") if level < 6 else ("aa", "a", "b")
            for name, stride in zip(names, (2, 1, 1), strict=True):
                setattr(self, f"conv{level}{name}", conv(channels, width, stride))
                channels = width
        for level in range(6, 1, -1):
            channels = (2 * RADIUS + 1) ** 2 + (WIDTHS[level - 1] + 4 if level < 6 else 0)
            for index, width in enumerate(DECODER):
                setattr(self, f"conv{level}_{index}", conv(channels, width))
                channels += width
            setattr(self, f"predict_flow{level}", nn.Conv2d(channels, 2, 3, 1, 1))
            setattr(self, f"deconv{level}", Enlarge(2, 2))  # level 2's is never used
            if level > 2:
                setattr(self, f"upfeat{level}", Enlarge(channels, 2))
        for index, (width, dilation) in enumerate(CONTEXT, 1):
            setattr(self, f"dc_conv{index}", conv(channels, width, dilation=dilation))
            channels = width
        self.dc_conv7 = nn.Conv2d(channels, 2, 3, 1, 1)

    def forward(self, frame0: Tensor, frame1: Tensor) -> Tensor:
        """Flow from frame0 to frame1, [N,2,H,W] px (x right, y down), from [N,3,H,W] RGB in 0..1.

        Sides that are no multiple of 64 are worked on at the next one, and the flow is brought back to the frame's
        size and pixels. Raises ValueError for shapes.
        """
        if frame0.shape != frame1.shape or frame0.ndim != 4 or frame0.shape[1] != 3:
            raise ValueError(
                f"PWCNet takes two frames of one shape [N,3,H,W]; got {list(frame0.shape)} and {list(frame1.shape)}"
            )
        height, width = frame0.shape[-2:]
        fitted = (-(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE)
        flow = UNIT * self.levels(_resize(frame0, fitted), _resize(frame1, fitted))[2].float()  # (N, 2, h/4, w/4)
        stretch = flow.new_tensor([width / fitted[1], height / fitted[0]])[:, None, None]
        return _resize(_resize(flow, fitted), (height, width)) * stretch

    def levels(self, frame0: Tensor, frame1: Tensor) -> dict[int, Tensor]:
        """The network's own outputs at levels 6 to 2: [N,2,H/2^level,W/2^level], times 20 for pixels.

        Sides are multiples of 64, frames as in `forward`.
        """
        first, second = self.pyramid(frame0.flip(1)), self.pyramid(frame1.flip(1))  # RGB to the BGR it was trained on
        flows: dict[int, Tensor] = {}
        up_flow = up_feat = features = frame0[:, :0]
        for level in range(6, 1, -1):
            if level == 6:
                features = F.leaky_relu(cost_volume(first[6], second[6]), 0.1)
            else:
                moved = warp(second[level], up_flow * (UNIT / 2**level))  # cells of this level
                costs = F.leaky_relu(cost_volume(first[level], moved), 0.1)
                features = torch.cat([costs, first[level], up_flow, up_feat], 1)
            for index in range(len(DECODER)):
                features = torch.cat([self._layer(f"conv{level}_{index}", features), features], 1)
            flows[level] = self._layer(f"predict_flow{level}", features)
            if level > 2:
                up_flow = self._layer(f"deconv{level}", flows[level])
                up_feat = self._layer(f"upfeat{level}", features)
        for index in range(1, len(CONTEXT) + 2):
            features = self._layer(f"dc_conv{index}", features)
        flows[2] = flows[2] + features
        return flows

    def pyramid(self, x: Tensor) -> dict[int, Tensor]:
        """Features of one frame by level, [N,WIDTHS[level-1],H/2^level,W/2^level]."""
        levels = {}
        for level in range(1, len(WIDTHS) + 1):
            for name in ("a", "aa", "b") if level < 6 else ("aa", "a", "b"):
                x = self._layer(f"conv{level}{name}", x)
            levels[level] = x
        return levels

    def _layer(self, name: str, x: Tensor) -> Tensor:
        result: Tensor = getattr(self, name)(x)
        return result

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any]) -> PWCNet:
        """The network of a published checkpoint's tensors, under their published names.

        Raises KeyError for missing or unknown names, ValueError for shapes.
        """
        network = cls()
        network.load_state_dict(checked(tensors, network.state_dict(), "PWC-Net"))
        return network.eval()

    def to_reference(self) -> dict[str, Tensor]:
        """The tensors under their published names: the inverse of from_reference."""
        return dict(self.state_dict())


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
