"""Arithmetic of IFNet: multiply-accumulates of its convolutions for each pixel of the padded frame."""

from __future__ import annotations

from collections.abc import Sequence

from models.rife.checkpoint import Sizes

NATIVE = (8.0, 4.0, 2.0, 1.0)


def encode_macs(sizes: Sizes | None = None) -> float:
    """Of one frame's encoding, a pixel."""
    s = sizes or Sizes()
    # Three convolutions at half the sides; the transposed one meets its 4x4 kernel once for each cell there.
    return (9 * s.hidden * (3 + 2 * s.hidden) + 16 * s.hidden * s.features) / 4


def block_macs(index: int, scale: float, sizes: Sizes | None = None) -> float:
    """Of block `index` (from 0), a pixel, when it works at 1/scale of the frame's size."""
    s = sizes or Sizes()
    width = s.widths[index]
    channels = 2 * (3 + s.features) + 1 + (5 if index else 0)
    half = 9 * channels * (width // 2)  # at 1/2 of the block's size
    quarter = 9 * (width // 2) * width + s.convs * 9 * width**2 + 16 * width * 24  # at 1/4
    return (half / 4 + quarter / 16) / scale**2


def frame_macs(height: int, width: int, scales: Sequence[float] = NATIVE, sizes: Sizes | None = None) -> int:
    """Of one new frame of (height, width), without its neighbours' encoding."""
    area = padded_area(height, width, scales)
    return round(area * sum(block_macs(index, scale, sizes) for index, scale in enumerate(scales)))


def padded_area(height: int, width: int, scales: Sequence[float] = NATIVE) -> int:
    """Pixels that the network works on: both sides brought to multiples of 4 * the largest scale."""
    multiple = max(round(4 * max(scales)), 1)
    return -(-height // multiple) * multiple * -(-width // multiple) * multiple
