"""A compact IFNet's start: random weights, but for filters that compare both frames at nine displacements.

From random weights alone the coarse blocks stayed at no motion at all for 2,500 steps (batches of 8 crops of 160 px):
before filters that compare the frames exist, every flow but none makes the picture worse. So the encoder starts as a
low-pass filter (a block at 1/8 of the size would see nothing but aliasing else), each block's first convolution holds
differences of one frame and the other, moved against each other, and its last one moves the flows towards the smallest.
That is all that is known at the start; it is gradient descent on block matching, and training takes it from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from models.enlarge import Enlarge
from models.rife import IFNet
from models.rife.ifnet import Block, Encoder, ResidualConv

NOISE = 0.3
"""Of the usual random weights, what is left around the encoder's filters."""
BILINEAR = torch.tensor([0.25, 0.75, 0.75, 0.25])[:, None] * torch.tensor([0.25, 0.75, 0.75, 0.25])
"""Kernel that enlarges twofold."""
GAIN = 4.0
"""Of the differences: grey levels differ by a few hundredths where frames do not match."""
QUIET = 0.05
"""Of the usual random weights, what is left where flows are written: they would move what stands still."""
PULL = 0.7
"""Pixels of a block's size that the flows move for a cost of 1 less at a displacement of 1."""
PLACES = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]
"""(rows, columns) that both frames are moved by, against each other; a narrow block has the first five."""


@torch.no_grad()
def start_as_matcher(network: IFNet) -> None:
    """Changes a network with random weights; it needs 4 features, 4 hidden channels and widths from 20."""
    sizes = network.sizes
    if sizes.features < 4 or sizes.hidden < 4 or min(sizes.widths) < 20:
        raise ValueError(f"{sizes}: comparing frames needs 4 features, 4 hidden channels and widths from 20")
    _blur(network.encode)
    for index, width in enumerate(sizes.widths):
        places = PLACES if width // 2 >= 2 * len(PLACES) else PLACES[:5]
        block: Block = getattr(network, f"block{index}")
        _compare(block, sizes.features, places)
        _follow(block, places)


def _blur(encode: Encoder) -> None:
    """Features 0 to 3: red, green, blue and grey, blurred over about 10 px."""
    for parameter in encode.parameters():
        parameter.mul_(NOISE)
    binomial = torch.tensor([0.25, 0.5, 0.25])
    small = binomial[:, None] * binomial
    colours = torch.cat([torch.eye(3), torch.full((1, 3), 1 / 3)])
    encode.cnn0.weight[:4] += colours[:, :, None, None] * small
    for k in range(4):
        for conv in (encode.cnn1, encode.cnn2):
            conv.weight[k, k] += small
        encode.cnn3.weight[k, k] += BILINEAR


def _compare(block: Block, features: int, places: Sequence[tuple[int, int]]) -> None:
    """Channels 0 to 8 (or 4): mean absolute difference of the frames' grey, moved by 1 px of the block's each."""
    first, pool = _conv(block, 0), _conv(block, 1)
    grey = torch.zeros(first.in_channels)
    grey[:3], grey[3:6] = 1 / 6, -1 / 6
    grey[6 + 3], grey[6 + features + 3] = 1 / 2, -1 / 2  # both frames' features follow the images
    for k, (row, column) in enumerate(places):
        kernel = torch.zeros_like(first.weight[k])
        kernel[:, 1 - row, 1 - column] += GAIN * grey.clamp_min(0)
        kernel[:, 1 + row, 1 + column] += GAIN * grey.clamp_max(0)
        pool.weight[k] = 0
        # The positive part of a difference and of its opposite are its absolute value; a leaky one leaves 0.8 of it.
        for channel, sign in ((2 * k, 1), (2 * k + 1, -1)):
            first.weight[channel], first.bias[channel] = sign * kernel, 0  # type: ignore[index]
            pool.weight[k, channel] = 1 / 9 / 0.8
        pool.bias[k] = 0  # type: ignore[index]


def _follow(block: Block, places: Sequence[tuple[int, int]]) -> None:
    """The flows start towards the displacements of least difference: minus the sum of places times differences."""
    for index, layer in enumerate(block.convblock):
        assert isinstance(layer, ResidualConv)
        layer.conv.weight[: len(places)], layer.conv.bias[: len(places)] = 0, 0  # type: ignore[index]
        for k in range(len(places) if not index else 0):  # the first one averages the differences over 3x3 cells
            layer.conv.weight[k, k] = 1 / 9
            layer.conv.weight[k, k, 1, 1] -= 1
    last = block.lastconv[0]
    assert isinstance(last, Enlarge)
    for parameter in last.parameters():
        parameter.mul_(QUIET)
    last.weight[: len(places)] = 0
    for k, (row, column) in enumerate(places):
        # Backwards into the first frame, forwards into the second; four channels of the shuffle to each of them.
        for flow, way in enumerate((column, row, -column, -row)):
            last.weight[k, 4 * flow : 4 * flow + 4] = PULL * way * BILINEAR


def _conv(block: Block, index: int) -> nn.Conv2d:
    stage = block.conv0[index]
    assert isinstance(stage, nn.Sequential)
    conv = stage[0]
    assert isinstance(conv, nn.Conv2d)
    return conv
