"""A clip's key frames from what it has decoded: cuts, residuals and schedule of its windows, from thumbnails alone.

Two clips of a video that see the same window schedule it alike, so that the video may be cut into clips anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.config import CutsConfig
from pipeline.config_recognize import KeyFramesConfig
from pipeline.plan.key_frames import Carried, plan_window
from pipeline.plan.key_residuals import Picture, measure
from pipeline.plan.key_windows import windows
from pipeline.plan.shots import is_cut


@dataclass(frozen=True, slots=True)
class ClipSchedule:
    """What to do with each frame of a clip. Frames are counted from the video's first."""

    frames: tuple[Carried, ...]
    """The clip's own, in order."""
    keys: tuple[int, ...]
    """Key frames whose features these need, in order: some may lie in the halo."""
    starts: frozenset[int]
    """Those of the clip's frames that begin a shot: the video's first, and each after a cut."""


def schedule_clip(
    clip: range, total: int, first: int, thumbnails: Sequence[Picture], cuts: CutsConfig, config: KeyFramesConfig
) -> ClipSchedule:
    """The schedule of the clip's frames in a video of `total` frames.

    `thumbnails` are those of the decoded frames from frame `first` on: luma, shots.HEIGHT x WIDTH, 8-bit steps. They
    must hold the clip with its `key_windows.halo`; one frame more before it tells whether the clip begins a shot. Where
    decoding ended early, the frames that are there are scheduled as if the video ended with them.
    """
    seen = range(first, first + len(thumbnails))
    held = windows(clip.start, clip.stop, total, config.window_frames)
    if first > held[0].start or not thumbnails:
        raise ValueError(f"thumbnails of frames {seen} for windows from frame {held[0].start}: decode the halo too")
    flags = [False]
    flags += [cuts.detect and is_cut(before, after, cuts.threshold) for before, after in pairwise(thumbnails)]
    schedule: list[Carried] = []
    for window in held:
        there = range(window.start, min(window.stop, seen.stop))
        if there:
            inside = slice(there.start - first, there.stop - first)
            table = measure(thumbnails[inside], config.max_gap) if config.schedule == "lookahead" else None
            schedule += plan_window(there, flags[inside], table, config)
    own = tuple(carried for carried in schedule if carried.frame in clip)
    needed = {carried.key for carried in own} | {carried.other for carried in own if carried.other is not None}
    starts = frozenset(frame for frame in clip if frame == 0 or (frame in seen and flags[frame - first]))
    return ClipSchedule(own, tuple(sorted(needed)), starts)
