"""Pictures of decisions: a finished frame with what each of its patches got (as figures 3 and 4 of the CAIN-SD paper).

Colour is the scale; its strength, the number and the outline's thickness are the depth; hatching is a patch without any
network.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from pipeline.plan.adaptive import Choice
from pipeline.plan.patches import Patch
from pipeline.records import lettering
from pipeline.records.decisions_schema import SYNTHESISED, DecisionRecord
from pipeline.records.lettering import Colour, Picture

SCALE_COLOURS: dict[int, Colour] = {1: (235, 70, 50), 2: (60, 200, 80), 4: (70, 130, 255)}
STATIC: Colour = (190, 190, 190)
_OTHER: Colour = (220, 90, 220)
_INK: Colour = (255, 255, 255)
_PAPER: Colour = (30, 30, 30)
OPACITY = 0.08
"""Of a patch's tint, for each exit: 0.08 at the first, 0.4 at the fifth."""
HATCH = 8
"""Pixels between the lines of a static patch, at a height of 360."""

Span = tuple[int, int]


def draw_decisions(rgb: Picture, record: DecisionRecord) -> Picture:
    """A copy of the frame [h,w,3] RGB, at its own or another size, with its record's patches and two legends.

    Where patches overlap, each is shown up to the middle of what it shares.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"frame {record.frame_index}: {rgb.dtype} {list(rgb.shape)}; uint8 RGB [h,w,3] is wanted")
    picture = rgb.copy()
    height, width = picture.shape[:2]
    unit = max(1, height // 360)
    down, across = height / record.height, width / record.width
    for (rows, columns), choice in zip(cells(record.patches), record.choices, strict=True):
        area = slice(*(round(edge * down) for edge in rows)), slice(*(round(edge * across) for edge in columns))
        _paint(picture[area], choice, unit)
    top = 0
    for text, paper in _legend(record):
        lettering.write(picture, text, top, 0, (0, 0, 0), paper, unit)
        top += lettering.size_of(text, unit)[0]
    text = _status(record)
    lettering.write(picture, text, height - lettering.size_of(text, unit)[0], 0, _INK, _PAPER, unit)
    return picture


def cells(patches: Iterable[Patch]) -> list[tuple[Span, Span]]:
    """(rows, columns) of each patch without its half of what it shares with neighbours: they tile the frame."""
    patches = list(patches)
    rows = _middles((patch.top, patch.top + patch.height) for patch in patches)
    columns = _middles((patch.left, patch.left + patch.width) for patch in patches)
    return [
        (rows[patch.top, patch.top + patch.height], columns[patch.left, patch.left + patch.width]) for patch in patches
    ]


def _middles(spans: Iterable[Span]) -> dict[Span, Span]:
    ordered = sorted(set(spans))
    edges = [(end + start) // 2 for (_, end), (start, _) in pairwise(ordered)]
    starts = [ordered[0][0], *edges] if ordered else []
    ends = [*edges, ordered[-1][1]] if ordered else []
    return dict(zip(ordered, zip(starts, ends, strict=True), strict=True))


def _paint(area: Picture, choice: Choice, unit: int) -> None:
    """Tints, frames and labels one cell [h,w,3], in place."""
    colour = _colour(choice)
    tint = np.array(colour, np.float32)
    height, width = area.shape[:2]
    if choice.depth == 0:
        y, x = np.mgrid[:height, :width]
        area[(x + y) % (HATCH * unit) < unit] = colour
    else:
        opacity = min(0.5, OPACITY * choice.depth)
        area[...] = ((1 - opacity) * area + opacity * tint).round().astype(np.uint8)
    line = max(1, unit * max(1, choice.depth) // 2)
    for edge in (area[:line], area[-line:], area[:, :line], area[:, -line:]):
        edge[...] = colour
    text = str(choice.depth) if choice.depth else "="
    tall, wide = lettering.size_of(text, 2 * unit)
    if tall < height and wide < width:
        lettering.write(area, text, (height - tall) // 2, (width - wide) // 2, (0, 0, 0), colour, 2 * unit)


def _colour(choice: Choice) -> Colour:
    return SCALE_COLOURS.get(choice.scale, _OTHER) if choice.depth else STATIC


def _legend(record: DecisionRecord) -> list[tuple[str, Colour]]:
    """A line for each scale that occurs, and for static patches, with its share of the patches."""
    shares: dict[tuple[str, Colour], float] = {}
    for choice, share in sorted(record.shares().items(), key=lambda item: (item[0].depth == 0, item[0].scale)):
        line = (f"scale {choice.scale}" if choice.depth else "static", _colour(choice))
        shares[line] = shares.get(line, 0.0) + share
    return [(f"{name} {share:.0%}", colour) for (name, colour), share in shares.items()]


def _status(record: DecisionRecord) -> str:
    if record.kind != SYNTHESISED:
        return record.kind.replace("_", " ")
    error = f" (off by {record.t_error})" if record.t_error else ""
    text = f"synthesised at {record.t}{error}"
    if record.flops is None:
        return text
    share = f", {record.flops / record.full_flops:.0%} of full depth" if record.full_flops else ""
    return f"{text}: {record.flops / 1e9:.1f} gflop{share}"
