"""Fields at 1/2, 1/4 or 1/8 of the frame's size: means over blocks. Values stay in pixels of the full frame."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from pipeline.records.flow_codec import Bools, Floats


def stored_size(height: int, width: int, scale: Fraction) -> tuple[int, int]:
    """(H, W) of the stored field: every pixel is in a block, so odd sizes round up."""
    block = scale.denominator
    return -(-height // block), -(-width // block)


def reduced(
    flow: Floats, validity: Bools | None, confidence: Floats | None, scale: Fraction
) -> tuple[Floats, Bools | None, Floats | None]:
    """Flow [2,H,W], validity [H,W] and confidence [H,W], a block of 1/scale × 1/scale pixels to one.

    Flow is the mean over the block's valid pixels (over all of them where none is), so that what the occluded ones say
    does not leak into their neighbours. A block is valid when at least half of it is. Blocks at the right and lower
    edge may be smaller.
    """
    if scale == 1:
        return flow, validity, confidence
    block = scale.denominator
    area = _sums(np.ones(flow.shape[1:], np.float64), block)
    mean = _sums(flow, block) / area
    if validity is None:
        return mean.astype(np.float32), None, _mean(confidence, area, block)
    valid = _sums(validity, block)
    of_valid = _sums(np.where(validity, flow, np.float32(0)), block) / np.maximum(valid, 1)
    chosen = np.where(valid > 0, of_valid, mean).astype(np.float32)
    return chosen, 2 * valid >= area, _mean(confidence, area, block)


def _mean(values: Floats | None, area: np.ndarray, block: int) -> Floats | None:
    return None if values is None else (_sums(values, block) / area).astype(np.float32)


def _sums(values: np.ndarray, block: int) -> np.ndarray:
    """[...,H,W] -> float64 [...,ceil(H/block),ceil(W/block)]."""
    rows = np.add.reduceat(values, np.arange(0, values.shape[-2], block), axis=-2, dtype=np.float64)
    sums: np.ndarray = np.add.reduceat(rows, np.arange(0, values.shape[-1], block), axis=-1)
    return sums
