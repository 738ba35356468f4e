"""Initial weights from which a compact CAIN learns within an hour on a CPU, not within days."""

from __future__ import annotations

import torch
from torch import nn

from models.cain_sd import CAIN

AVERAGE_GAIN = 4.0
DIFFERENCE_GAIN = 16.0


@torch.no_grad()
def start_as_average(network: CAIN) -> None:
    """Weights with which the network's output is exactly the frame average, and its body sees signals of unit size.

    The head's first channels carry the average, the next the difference of both frames, the rest random mixtures of
    the difference; a group adds nothing at first; the tail reads the average. The difference, a few hundredths in
    frames of 0..1, is amplified, because what is to be learned (where is motion?) is a nonlinear function of it; a
    large average read by a small tail lets the body learn fast without shaking the picture.
    """
    folded = 3 * network.shuffle**2
    channels = network.head.out_channels
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.shape[-1] == 3:
            nn.init.kaiming_normal_(parameter, a=0.2)
    for group in network.groups:
        assert isinstance(group.conv, nn.Conv2d)
        group.conv.weight.zero_()

    head, tail = network.head.weight, network.tail.weight  # (C, 2 folded, 3, 3), (folded, C, 3, 3)
    noise = torch.randn(channels, folded, 3, 3) * DIFFERENCE_GAIN / (9 * folded) ** 0.5
    head[:, :folded], head[:, folded:] = -noise, noise
    head[: 2 * folded] = 0
    tail.zero_()
    for k in range(folded):
        head[k, [k, folded + k], 1, 1] = AVERAGE_GAIN / 2
        tail[k, k, 1, 1] = 0.5 / AVERAGE_GAIN  # half, because the long skip adds the same again
    for k in range(min(folded, channels - folded)):
        head[folded + k, k, 1, 1] = -DIFFERENCE_GAIN / 2
        head[folded + k, folded + k, 1, 1] = DIFFERENCE_GAIN / 2
