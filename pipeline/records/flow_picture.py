"""Flow in colours: Middlebury's wheel (Baker et al., IJCV 2011), direction as hue and length as saturation."""

from __future__ import annotations

import functools

import flow_vis
import numpy as np
from numpy.typing import NDArray

from pipeline.records.flow_codec import Bools, Floats

Picture = NDArray[np.uint8]

_GRID = 255
"""Vectors a side that the wheel is tabulated for: neighbours differ by less than the eye sees."""


def paint(flow: Floats, full_px: float, validity: Bools | None = None, *, dim: float = 0.35) -> Picture:
    """flow [2,H,W] px -> RGB [H,W,3]: white stands still, full colour moves by `full_px` or more.

    Pixels that are not valid keep `dim` of their brightness. Give one `full_px` to all frames of a video, or its
    colours pump. ValueError unless it is above 0.
    """
    if not full_px > 0:
        raise ValueError(f"full_px={full_px}: the motion of full colour, in px, above 0")
    half = (_GRID - 1) / 2
    length = np.hypot(flow[0], flow[1])
    # What is longer keeps its direction; NaN and infinity are painted as standing still.
    scale = np.float32(half) / np.maximum(length, np.float32(full_px))
    with np.errstate(invalid="ignore"):  # infinite times zero
        place = np.nan_to_num(flow * scale + np.float32(half + 0.5), nan=half).astype(np.intp)
    picture: Picture = np.take(_wheel(), place[1] * _GRID + place[0], axis=0)
    if validity is not None:
        picture[~validity] = (picture[~validity] * dim).astype(np.uint8)
    return picture


def usual_motion(flow: Floats, least_px: float = 1.0) -> float:
    """px that 99 % of the pixels stay below, but at least `least_px`: a scale for pictures of single fields."""
    return max(float(np.nanpercentile(np.hypot(flow[0], flow[1]), 99)), least_px)


def legend(size: int) -> Picture:
    """The wheel itself, RGB [size,size,3], white outside: the colour at a place is that of the vector to it."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    picture = paint(np.stack([x, y]), 1.0)
    picture[np.hypot(x, y) > 1] = 255
    return picture


@functools.cache
def _wheel() -> Picture:
    """Colours of the vectors -1..1 × -1..1, [y·x,3]."""
    axis = np.linspace(-1, 1, _GRID)
    x, y = np.meshgrid(axis, axis)
    shrink = np.maximum(np.hypot(x, y), 1)  # flow_vis darkens what is longer than 1
    table: Picture = flow_vis.flow_uv_to_colors(x / shrink, y / shrink).reshape(-1, 3)
    table.setflags(write=False)
    return table
