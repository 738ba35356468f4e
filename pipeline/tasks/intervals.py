"""From decoded frames to the intervals that the output's pictures are made from.

Each source frame owns the output times from its own pts up to the next frame's. Usually a picture at such a time lies
between those two frames; where repeats are replaced, between the two kept frames around it; across a cut, and after
the last frame, it is the earlier frame held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pipeline.config import CutsConfig, DuplicatesConfig
from pipeline.errors import CorruptVideo
from pipeline.media.frame import Frame, luma8, same_picture
from pipeline.plan import shots
from pipeline.plan.duplicates import replaced
from pipeline.plan.grid import Grid
from pipeline.types import ClipRef


@dataclass(frozen=True, slots=True)
class Interval:
    """Output times that one source frame owns, and the two pictures to make them from."""

    left: Frame
    right: Frame | None
    """None: hold the left picture (a cut, identical pictures, or the end of the video)."""
    outputs: tuple[tuple[int, Fraction], ...]
    """(pts in the grid's time_base, place between left and right in 0..1)"""
    reason: str
    """Why the left picture is held: "cut", "same" or "end"; else "motion"."""


def halo(duplicates: DuplicatesConfig) -> tuple[int, int]:
    """Frames that must be seen before and after a clip, so that its intervals do not depend on where it was cut."""
    if duplicates.mode == "keep":
        return 0, 1
    return duplicates.max_run + 1, duplicates.max_run + 1


@dataclass(slots=True)
class _Seen:
    frame: Frame
    repeat: bool
    cut: bool
    """Whether a cut lies between the frame before and this one."""


def intervals(
    frames: Iterable[Frame], clip: ClipRef, grid: Grid, cuts: CutsConfig, duplicates: DuplicatesConfig
) -> Iterator[Interval]:
    """The intervals of the clip's own frames, in order, from its frames and halo (in pts order).

    When decoding fails, the last good frame is yielded as an interval of its own before the error goes on.
    """
    before, after = halo(duplicates)
    window: list[_Seen] = []
    owned = clip.halo_before  # index in the window of the next frame to give an interval to
    done = 0
    thumbnail: NDArray[np.float32] | None = None

    def take() -> Interval:
        nonlocal owned, done
        end = window[owned + 1].frame.pts if owned + 1 < len(window) else clip.end_pts
        interval = _interval(window, owned, end, grid, duplicates)
        done += 1
        if owned < before:
            owned += 1
        else:
            del window[0]
        return interval

    try:
        for frame in frames:
            thumb = luma8(frame, shots.WIDTH, shots.HEIGHT) if cuts.detect else None
            previous = window[-1].frame if window else None
            repeat = previous is not None and _repeats(previous, frame, duplicates)
            cut = (
                not repeat
                and thumb is not None
                and thumbnail is not None
                and shots.is_cut(thumbnail, thumb, cuts.threshold)
            )
            thumbnail = thumb
            window.append(_Seen(frame, repeat, cut))
            while owned + after < len(window) and done < clip.frames:
                yield take()
    except CorruptVideo:
        while owned + 1 < len(window) and done < clip.frames:
            yield take()
        if owned < len(window) and done < clip.frames:
            last = window[owned].frame
            first = next(iter(grid.between(last.pts, last.pts + 1)), None)
            if first is not None and first.t == 0:
                yield Interval(last, None, ((first.pts, first.t),), "end")
        raise
    while done < clip.frames and owned < len(window):
        yield take()


def _repeats(previous: Frame, frame: Frame, config: DuplicatesConfig) -> bool:
    if config.mode == "keep":
        return False
    if same_picture(previous, frame):
        return True
    if config.residual == 0 or previous.format != frame.format:
        return False
    difference = np.abs(previous.planes[0].astype(np.int32) - frame.planes[0].astype(np.int32)).mean()
    return bool(difference <= config.residual * (1 << (frame.format.bits - 8)))


def _interval(window: list[_Seen], index: int, end: int, grid: Grid, config: DuplicatesConfig) -> Interval:
    here = window[index].frame
    times = [(out.pts, out.t) for out in grid.between(here.pts, end)]
    low = max(0, index - config.max_run)
    gone = replaced([seen.repeat for seen in window[low : index + config.max_run + 2]], config.max_run)
    left, right = index, index + 1
    while left > low and gone[left - low]:
        left -= 1
    while right < len(window) and right - low < len(gone) and gone[right - low]:
        right += 1
    first = window[left].frame
    if right >= len(window):
        return Interval(here, None, tuple(times), "end")
    second = window[right].frame
    # Where nothing can be put between, the source's own frame stays, also one that only nearly repeats.
    if any(seen.cut for seen in window[left + 1 : right + 1]):
        return Interval(here, None, tuple(times), "cut")
    if same_picture(first, second):
        return Interval(here, None, tuple(times), "same")
    length = Fraction(second.pts - first.pts)
    places = tuple((pts, (here.pts + t * (end - here.pts) - first.pts) / length) for pts, t in times)
    return Interval(first, second, places, "motion")
