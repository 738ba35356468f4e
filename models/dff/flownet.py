"""The flow network with its scale field: FlowNet-Simple (Dosovitskiy et al., ICCV 2015) at stride 16.

As Deep Feature Flow uses it (Zhu et al., CVPR 2017, section 4; specs/dff.md, section 3): it looks at half-size images,
and its last features, pooled to the feature network's grid, give a flow in that grid's cells and a scale for each
channel of the features that the flow carries. FlowNet Half (Table 7) is width 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dff.batch import one_by_one
from models.dff.checkpoint import fill, own_part, reference, shape_of
from models.dff.packed import PackedConv2d, PackedConvTranspose2d
from models.memfof.precision import full_precision

CELLS = 2.5  # flow/20 is what FlowNet was trained on; 20 half-image px / 8 half-image px a cell
SLOPE = 0.1  # of the leaky ReLUs
PART = "flow network"


def conv(channels_in: int, channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    layer = PackedConv2d(channels_in, channels, kernel, stride, padding=kernel // 2)
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def deconv(channels_in: int, channels: int) -> nn.ConvTranspose2d:
    """Twice the size, and two pixels more; `crop` cuts it to the skip connection's."""
    layer = PackedConvTranspose2d(channels_in, channels, 4, stride=2)
    nn.init.normal_(layer.weight, std=(2 / (4 * channels_in)) ** 0.5)  # 4 of the 16 taps reach each output
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def crop(x: Tensor, like: Tensor) -> Tensor:
    """From pixel 1 on, to the size of `like`: padding 1 where that is even, and right where it is odd."""
    return x[..., 1 : 1 + like.shape[-2], 1 : 1 + like.shape[-1]]


def halved(x: Tensor) -> Tensor:
    """Means of 2x2 pixels, and of what a last row or column has."""
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        return F.avg_pool2d(x, 2, ceil_mode=True)
    return F.interpolate(x, scale_factor=0.5, mode="bilinear")  # the same, in a quarter of the time on the CPU


def active(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


class FlowNet(nn.Module):
    """Two images -> where the current frame's features lie in the key frame, and by how much to scale them.

    width            factor on the published channel counts: 1 is FlowNet, 0.5 FlowNet Half
    scale_channels   channels of the features to scale: 1024 is published; None for no scale field
    """

    def __init__(self, width: float = 1.0, scale_channels: int | None = 1024) -> None:
        super().__init__()
        if not 1 / 64 <= width <= 4:
            raise ValueError(f"width is {width}; it is a factor, 1 for FlowNet and 0.5 for FlowNet Half: 1/64 to 4")
        c64, c128, c256, c512, c1024 = (round(width * channels) for channels in (64, 128, 256, 512, 1024))
        self.sizes = {"width": c64 / 64, "scale_channels": scale_channels}
        self.flow_conv1 = conv(6, c64, 7, 2)
        self.conv2 = conv(c64, c128, 5, 2)
        self.conv3 = conv(c128, c256, 5, 2)
        self.conv3_1 = conv(c256, c256, 3)
        self.conv4 = conv(c256, c512, 3, 2)
        self.conv4_1 = conv(c512, c512, 3)
        self.conv5 = conv(c512, c512, 3, 2)
        self.conv5_1 = conv(c512, c512, 3)
        self.conv6 = conv(c512, c1024, 3, 2)
        self.conv6_1 = conv(c1024, c1024, 3)

        self.Convolution1 = conv(c1024, 2, 3)
        self.deconv5 = deconv(c1024, c512)
        self.upsample_flow6to5 = deconv(2, 2)
        self.Convolution2 = conv(c512 + c512 + 2, 2, 3)
        self.deconv4 = deconv(c512 + c512 + 2, c256)
        self.upsample_flow5to4 = deconv(2, 2)
        self.Convolution3 = conv(c512 + c256 + 2, 2, 3)
        self.deconv3 = deconv(c512 + c256 + 2, c128)
        self.upsample_flow4to3 = deconv(2, 2)
        self.Convolution4 = conv(c256 + c128 + 2, 2, 3)
        self.deconv2 = deconv(c256 + c128 + 2, c64)
        self.upsample_flow3to2 = deconv(2, 2)
        self.Convolution5 = conv(c128 + c64 + 2, 2, 3)
        self.Convolution5_scale: nn.Conv2d | None = None
        if scale_channels is not None:  # starts as one everywhere; the published bias stays there (not trained)
            self.Convolution5_scale = PackedConv2d(c128 + c64 + 2, scale_channels, 1)
            nn.init.zeros_(self.Convolution5_scale.weight)
            nn.init.ones_(self.Convolution5_scale.bias)  # type: ignore[arg-type]

    def forward(self, current: Tensor, key: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images [N,3,H,W] of both frames (RGB 0..255 less the mean, as the feature network takes them) ->

        flow    [N,2,h,w] in cells of 16 px (x right, y down), h = ceil(H/16): the features of cell p of the current
                frame lie at p + flow in the key frame; fp32
        scale   [N,scale_channels,h,w], one for `features as they are`; None without a scale field
        Raises ValueError for other shapes. On the CPU in evaluation, pairs are computed one by one.
        """
        if current.shape != key.shape or current.ndim != 4 or current.shape[1] != 3 or 0 in current.shape:
            raise ValueError(
                f"FlowNet takes two images of one shape [N,3,H,W]; got {list(current.shape)} and {list(key.shape)}"
            )
        if one_by_one(self, current):
            parts = [self(*pair) for pair in zip(torch.split(current, 1), torch.split(key, 1), strict=True)]
            flows, scales = [flow for flow, _ in parts], [scale for _, scale in parts if scale is not None]
            return torch.cat(flows), torch.cat(scales) if scales else None
        x = halved(torch.cat([current, key], 1)) / 255  # (N, 6, H/2, W/2)
        x = F.avg_pool2d(self.decoded(x), 2, ceil_mode=True)  # (N, 194, h, w), from 1/8 of the image
        with full_precision(x):  # bf16 counts in eighths of a cell at 16 cells
            flow = CELLS * self.Convolution5(x.float())
        scale = None if self.Convolution5_scale is None else self.Convolution5_scale(x)
        return flow, scale

    def decoded(self, x: Tensor) -> Tensor:
        """Both half-size images [N,6,H,W] -> features [N,194,H/4,W/4]: level 2's skip, deconvolution and flow."""
        x = active(self.flow_conv1(x))
        skip2 = active(self.conv2(x))
        skip3 = active(self.conv3_1(active(self.conv3(skip2))))
        skip4 = active(self.conv4_1(active(self.conv4(skip3))))
        skip5 = active(self.conv5_1(active(self.conv5(skip4))))
        x = active(self.conv6_1(active(self.conv6(skip5))))  # (N, 1024, H/64, W/64)
        for skip, to_flow, up, upsample in (
            (skip5, self.Convolution1, self.deconv5, self.upsample_flow6to5),
            (skip4, self.Convolution2, self.deconv4, self.upsample_flow5to4),
            (skip3, self.Convolution3, self.deconv3, self.upsample_flow4to3),
            (skip2, self.Convolution4, self.deconv2, self.upsample_flow3to2),
        ):
            x = torch.cat([skip, active(crop(up(x), skip)), crop(upsample(to_flow(x)), skip)], 1)
        return x

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any]) -> FlowNet:
        """The network of a published checkpoint's tensors, under their published names (checkpoint.py).

        Width and scale channels are read off the tensors. Raises KeyError for names, ValueError for shapes.
        """
        own = own_part(PART, tensors)
        scaled = "Convolution5_scale_bias" in own or "Convolution5_scale_weight" in own
        with torch.device("meta"):
            network = cls(
                shape_of(own, "flow_conv1_weight", PART)[0] / 64,
                shape_of(own, "Convolution5_scale_bias", PART)[0] if scaled else None,
            )
        fill(network, own, published_name, PART)
        return network.eval()

    def to_reference(self) -> dict[str, Tensor]:
        """The tensors under their published names: the inverse of from_reference."""
        return reference(self, published_name)


def published_name(name: str) -> str:
    """conv3_1.weight -> conv3_1_weight."""
    layer, which = name.split(".")
    return f"{layer}_{which}"
