"""Arithmetic of the networks of CAIN-SD, counted from their sizes: what the resource loss and the plans weigh.

Multiply-accumulates (MAC) of the convolutions; the paper's FLOPs are twice that. Its Table 1 (3.133 T for CAIN at
2048x1080) counts the frame reflect-padded to multiples of 128, and adds biases, activations and the pooled elements of
the channel attention, all together 0.06 %: `paper_flops`.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.cain_sd import carn, light_sr, pwcnet

SCALES = (1, 2, 4)
"""What a patch's sides may be divided by."""

CAIN_SIZES = {"channels": 192, "rcabs": 12, "groups": 5, "shuffle": 8, "reduction": 16}


def cain_macs_per_pixel(depth: int, channels: int = 192, rcabs: int = 12, shuffle: int = 8) -> float:
    """Of CAIN with exit `depth`, for each pixel of the padded frame: head, `depth` groups and tail."""
    ends = 9 * channels * 3 * (3 * shuffle**2)
    return (ends + depth * (2 * rcabs + 1) * 9 * channels**2) / shuffle**2


def paper_flops(height: int, width: int, depth: int = 5, cain: dict[str, int] | None = None) -> int:
    """FLOPs of CAIN, full-size or of other sizes, on one pair of frames, as the paper's Table 1 counts them."""
    s = CAIN_SIZES | (cain or {})
    channels, rcabs, shuffle = s["channels"], s["rcabs"], s["shuffle"]
    cells = -(-height // 128) * -(-width // 128) * (128 // shuffle) ** 2
    macs = round(cain_macs_per_pixel(depth, channels, rcabs, shuffle) * shuffle**2) * cells
    body, attentions = depth * (2 * rcabs + 1) + 1, depth * rcabs  # the head has as many outputs as a convolution of it
    # A bias for each convolution's output; one LeakyReLU and one pooling of the same size in each RCAB. The 1x1
    # convolutions on pooled values, and the means, are too small to show.
    return 2 * macs + ((body + 2 * attentions) * channels + 3 * shuffle**2) * cells


def carn_macs_per_pixel(scale: int, sizes: carn.Sizes | None = None) -> float:
    """Of CARN-M, for each pixel of its enlarged output."""
    s = sizes or carn.Sizes()
    grouped, mix = 9 * s.width**2 // s.groups, s.width**2
    unit = 2 * grouped + mix
    fusions = (2 + 3 + 4) * mix
    trunk = 9 * 3 * s.width + 3 * (3 * unit + fusions) + fusions  # for each pixel of the small picture
    steps = (2, 2) if scale == 4 else (scale,)
    side, upsampling = 1, 0
    for step in steps:
        upsampling += side**2 * step**2 * grouped
        side *= step
    shift = 9  # the mean taken away and added again, as 1x1 convolutions
    return (trunk + upsampling + shift) / scale**2 + 9 * s.width * 3 + shift


def light_sr_macs_per_pixel(scale: int, sizes: light_sr.LightSizes | None = None) -> float:
    """Of LightSR, for each pixel of its enlarged output, with the bicubic enlargement of its three channels."""
    width = (sizes or light_sr.LightSizes()).width
    return 9 * (6 * scale**2 * width + width**2 + width * 3 * scale**2) / scale**2 + 3 * light_sr.TAPS


def finder_macs(
    height: int,
    width: int,
    scales: int = 3,
    depths: int = 5,
    widths: tuple[int, int] = (16, 32),
    seen: tuple[int, int] = (1, 3),
) -> int:
    """Of ScaleNet and DepthNet, which see so many channels each, on small frames of (height, width)."""
    halves = -(-height // 2) * -(-width // 2)
    quarters = -(-height // 4) * -(-width // 4)
    return sum(
        9 * (channels * widths[0] * halves + (widths[0] * widths[1] + widths[1] * choices) * quarters)
        for channels, choices in zip(seen, (scales, depths), strict=True)
    )


def pwcnet_macs(height: int, width: int) -> int:
    """Of PWC-Net, one direction: convolutions and cost volumes, on the frame brought to multiples of 64."""
    height, width = (-(-side // pwcnet.MULTIPLE) * pwcnet.MULTIPLE for side in (height, width))
    total, channels = 0, 3
    for level, features in enumerate(pwcnet.WIDTHS, 1):  # of both frames
        total += 2 * 9 * (channels + 2 * features) * features * (height * width >> 2 * level)
        channels = features
    for level in range(6, 1, -1):
        cells = height * width >> 2 * level
        channels = (2 * pwcnet.RADIUS + 1) ** 2 + (pwcnet.WIDTHS[level - 1] + 4 if level < 6 else 0)
        for features in pwcnet.DECODER:
            total += 9 * channels * features * cells
            channels += features
        total += (9 * channels * 2 + (2 * pwcnet.RADIUS + 1) ** 2 * pwcnet.WIDTHS[level - 1]) * cells
        if level > 2:
            total += 16 * (2 + channels) * 2 * cells  # up_flow and up_feat: each input cell meets the whole kernel
    for features, _ in pwcnet.CONTEXT:
        total += 9 * channels * features * cells
        channels = features
    return total + 9 * channels * 2 * cells


def patch_flops_per_pixel(
    depths: int = 5,
    cain: dict[str, int] | None = None,
    super_resolution: carn.Sizes | light_sr.LightSizes | None = None,
    scales: Sequence[int] = SCALES,
) -> list[list[float]]:
    """C of the paper's section 3.4: FLOPs for each pixel of a patch, [scale][depth], convolutions counted twice a MAC.

    Scales above 1 include the way back, CARN-M's or LightSR's by the sizes given.
    """
    s = CAIN_SIZES | (cain or {})
    table = []
    for scale in scales:
        if scale == 1:
            back = 0.0
        elif isinstance(super_resolution, light_sr.LightSizes):
            back = light_sr_macs_per_pixel(scale, super_resolution)
        else:
            back = carn_macs_per_pixel(scale, super_resolution)
        row = (cain_macs_per_pixel(depth, s["channels"], s["rcabs"], s["shuffle"]) for depth in range(1, depths + 1))
        table.append([2 * (each / scale**2 + back) for each in row])
    return table
