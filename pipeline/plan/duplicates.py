"""Which source frames to replace because they repeat the one before (telecine, dropped-frame capture, animation).

A run of repeats is replaced by interpolated frames at the same times, unless it is so long that it is a still picture.
Whether a frame is replaced depends only on `max_run` + 1 frames on either side of it: any cut into clips agrees.
"""

from __future__ import annotations

from collections.abc import Sequence


def replaced(repeats: Sequence[bool], max_run: int) -> list[bool]:
    """For each frame: is it one of a run of at most `max_run` repeats that ends in a new picture?

    `repeats[i]` says that frame i repeats frame i - 1 (False for the first frame). A run that touches the last frame
    has no new picture to move towards and stays.
    """
    result = [False] * len(repeats)
    start: int | None = None
    for index, repeat in enumerate([*repeats, False]):
        if repeat and start is None:
            start = index
        elif not repeat and start is not None:
            if index < len(repeats) and index - start <= max_run:
                result[start:index] = [True] * (index - start)
            start = None
    return result
