"""Colours for classes: the usual ones for the usual things, and far-apart ones for all others."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.records.rle import VOID

_KNOWN = {
    "road": (128, 64, 128), "pavement": (244, 35, 232), "sidewalk": (244, 35, 232), "building": (70, 70, 70),
    "wall": (102, 102, 156), "fence": (190, 153, 153), "pole": (153, 153, 153), "traffic light": (250, 170, 30),
    "sign symbol": (220, 220, 0), "traffic sign": (220, 220, 0), "tree": (107, 142, 35), "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152), "sky": (70, 130, 180), "pedestrian": (220, 20, 60), "person": (220, 20, 60),
    "rider": (255, 0, 0), "bicyclist": (255, 0, 0), "car": (0, 0, 142), "truck": (0, 0, 70), "bus": (0, 60, 100),
    "train": (0, 80, 100), "motorcycle": (0, 0, 230), "bicycle": (119, 11, 32),
}  # fmt: skip
"""As street scenes are usually painted."""


def class_palette(classes: Sequence[str]) -> NDArray[np.uint8]:
    """RGB [256, 3]: row i is the colour of class i, black for values without a class. It depends on the names alone."""
    colours = np.zeros((VOID + 1, 3), np.uint8)
    for place, name in enumerate(classes):
        colours[place] = _KNOWN.get(name.lower().replace("_", " "), _made(place))
    return colours


def _made(place: int) -> tuple[int, int, int]:
    # The golden ratio goes round the hues without ever coming near an earlier one; brightness alternates.
    hue, value = (0.11 + place * 0.618034) % 1, (0.95, 0.7, 0.85)[place % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75 if place % 2 else 0.55, value)
    return round(red * 255), round(green * 255), round(blue * 255)
