"""Initial weights from which a compact MEMFOF learns within an hour on a CPU, not within days.

Two things are put in by hand: feature maps whose correlations tell cells apart, and a path through the update that
already follows them. Everything is trained from there; the rest begins at random as usual.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.memfof import MEMFOF
from models.memfof.corr import all_pairs
from models.memfof.update import Refine
from pipeline.training.flow_sampling import FlowBatch

LAYER_SCALE = 0.3  # of refinement blocks; the published start, 1e-6, takes thousands of steps to leave
SPREAD = 1.0  # standard deviation of correlations
THRESHOLD = 6.0  # of correlations that count as matches: trained features spread by 2.7 and match at 7 above
SLOPE = 0.25
GAIN = 0.03  # of what the readings ask for: little, as many are false at first
REACH, LEVELS = 2, 2  # window of the readings: cells of a level, and levels


@torch.no_grad()
def start_calibrated(network: MEMFOF, batch: FlowBatch) -> None:
    """Centre and scale feature maps by what the random encoders make of one batch, and lay the reading path."""
    was_training = network.training
    network.train()
    images, _ = network.padded(batch.frames)
    _centre_features(network, images)
    _centre_context(network, images)
    for block in network.update_block.refine:
        assert isinstance(block, Refine)
        block.gamma.fill_(LAYER_SCALE)
    _lay_path(network)
    for module in network.modules():  # what this batch left behind
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    network.train(was_training)


def _centre_features(network: MEMFOF, images: Tensor) -> None:
    """A random encoder's maps share a large mean, and so does every correlation: what differs is lost in it."""
    maps: Tensor = network.fnet(images[:, 1])  # (N, 2 dim, h, w)
    mean = maps.mean((0, 2, 3))
    spread = float(all_pairs(maps - mean[:, None, None], maps - mean[:, None, None]).std())
    factor = (SPREAD / spread) ** 0.5  # a correlation is a product of two maps
    final = network.fnet.final_conv
    final.get_parameter("bias").sub_(mean).mul_(factor)
    final.weight.mul_(factor)


def _centre_context(network: MEMFOF, images: Tensor) -> None:
    maps: Tensor = network.cnet(images.flatten(1, 2))
    final = network.cnet.final_conv
    final.get_parameter("bias").sub_(maps.mean((0, 2, 3))).div_(maps.std())
    final.weight.div_(maps.std())


def _lay_path(network: MEMFOF) -> None:
    """High correlations read as forces: each pulls the flow towards its own offset.

    The motion encoder's first layer passes what exceeds a threshold, cell by cell of a small window on the two finest
    levels. From there on the readings are sums over offsets, for each direction, level and axis, which go through
    the ReLUs as pairs of a positive and a negative part to the hidden state and the head.
    """
    sizes, update = network.sizes, network.update_block
    radius, encoder = sizes.corr_radius, update.encoder
    near = [(x, y) for x in range(-REACH, REACH + 1) for y in range(-REACH, REACH + 1)]
    taps = [(direction, level, *offset) for direction in (0, 1) for level in range(LEVELS) for offset in near]
    readings = [
        (d, level, axis, sign) for d in (0, 1) for level in range(LEVELS) for axis in (0, 1) for sign in (1, -1)
    ]
    if len(taps) > 2 * sizes.dim or radius < REACH or sizes.corr_levels < LEVELS:
        raise ValueError(
            f"a calibrated start needs dim >= {len(taps) // 2}, corr_radius >= {REACH} and corr_levels >= {LEVELS}; "
            f"they are {sizes.dim}, {radius} and {sizes.corr_levels}"
        )
    side = 2 * radius + 1
    _clear(encoder.convc1, len(taps))
    for tap, (direction, level, x, y) in enumerate(taps):
        place = (direction * sizes.corr_levels + level) * side * side + (x + radius) * side + (y + radius)
        scale = SLOPE * 2**level  # pooled correlations are flatter
        encoder.convc1.weight[tap, place] = scale
        encoder.convc1.get_parameter("bias")[tap] = -scale * THRESHOLD / 2**level
    for conv in (encoder.convc2, encoder.conv):
        _clear(conv, len(readings))
    for reading, (direction, level, axis, sign) in enumerate(readings):
        for tap, (d, at, *offset) in enumerate(taps):
            if (d, at) == (direction, level):
                encoder.convc2.weight[reading, tap, 1, 1] = sign * offset[axis] * 2**level / 2
        encoder.conv.weight[reading, reading, 1, 1] = 1
    for block in update.refine:
        assert isinstance(block, Refine)
        _clear(block.final, 8)
        block.gamma[2 * sizes.dim : 2 * sizes.dim + len(readings)] *= 0.1  # motion's place in the block's input
        for reading, (direction, _, axis, sign) in enumerate(readings):
            block.final.weight[_channel(direction, axis, sign), 2 * sizes.dim + reading] = 1
    first, last = network.flow_head[0], network.flow_head[2]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    _clear(first, 8)
    last.weight.mul_(0.1)  # first flows near zero
    for direction in (0, 1):
        for axis in (0, 1):
            for sign in (1, -1):
                channel = _channel(direction, axis, sign)
                first.weight[channel, channel, 1, 1] = 1
                last.weight[6 * direction + axis, channel, 1, 1] = sign * GAIN


def _clear(conv: nn.Conv2d, rows: int) -> None:
    conv.weight[:rows] = 0
    conv.get_parameter("bias")[:rows] = 0


def _channel(direction: int, axis: int, sign: int) -> int:
    return 4 * direction + 2 * axis + (sign < 0)
