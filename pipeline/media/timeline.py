"""Decode times for packets that are joined from several encodes: pure arithmetic on ticks (units of a time base)."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

MAX_DEPTH = 16
"""Frames that H.264 and HEVC allow a decoder to hold back for reordering."""

T = TypeVar("T")


def nearest_ticks(seconds: Fraction, time_base: Fraction) -> int:
    """Seconds as the nearest tick (halves up), at most half a tick away."""
    return (seconds / time_base + Fraction(1, 2)).__floor__()


def reorder_depth(pts_in_decode_order: Iterable[int], window: int = 4 * MAX_DEPTH) -> int:
    """Most frames that are decoded before, but shown after, any one frame (0: no reordering).

    Looks back `window` frames only: memory does not grow with the stream.
    """
    recent: deque[int] = deque(maxlen=window)
    depth = 0
    for pts in pts_in_decode_order:
        depth = max(depth, sum(earlier > pts for earlier in recent))
        recent.append(pts)
    return depth


@dataclass(frozen=True, slots=True)
class Timed:
    """When to decode a packet and how long its frame is shown, in ticks."""

    dts: int
    duration: int


def lead_of(depth: int, shortest: int, longest: int) -> int:
    """Ticks by which decoding should lead display, for frames shown between `shortest` and `longest` ticks.

    MP4 counts a track's length in decode times: with a shorter lead, the last frames of a variable-rate video would be
    counted short. At a constant rate this is `depth` frames, as usual.
    """
    return (depth + 1) * longest - shortest if depth else 0


def retime(
    items: Iterable[T], pts_of: Callable[[T], int], depth: int, end_pts: int, lead: int | None = None
) -> Iterator[tuple[T, Timed]]:
    """Gives packets in decode order new dts (strictly increasing, never after their pts) and display durations.

    The dts of the i-th packet is the (i - depth)-th smallest pts, so it needs no knowledge of how the packets' own dts
    were made: those of separately encoded segments clash where they are joined. `end_pts` ends the last frame. `lead`:
    ticks from the first dts to the first pts (at least `depth`), by default `depth` times the first frame's duration.
    Holds back at most MAX_DEPTH + depth + 2 packets (one where depth is 0): a frame's successor on the screen may
    be decoded after MAX_DEPTH B-frames and `depth` frames of the next group. Raises ValueError where pts repeat, or
    frames are reordered further than `depth`.
    """
    ahead = MAX_DEPTH + depth + 2 if depth else 1
    waiting: deque[tuple[int, T]] = deque()  # in decode order, with their pts
    pending: list[int] = []  # heap: the pts that have not become a dts
    dts: deque[int] = deque()  # of `waiting`, as far as it is known
    shown: list[int] = []  # sorted pts, from the earliest one waiting
    started, dts_before = False, 0

    def settle(keep: int) -> None:
        nonlocal started, dts_before
        while len(pending) > keep:
            smallest = heapq.heappop(pending)
            if not started:
                started = True
                ahead_by = depth * max(1, (pending[0] if pending else end_pts) - smallest) if lead is None else lead
                dts.extend(smallest - ahead_by * (depth - k) // depth for k in range(depth))
            elif smallest <= dts_before:
                raise ValueError(f"pts {smallest} is reordered by more than {depth} frames")
            dts_before = smallest
            dts.append(smallest)

    def release(keep: int) -> Iterator[tuple[T, Timed]]:
        while len(waiting) > keep:
            pts, item = waiting.popleft()
            decode = dts.popleft()
            place = bisect_right(shown, pts)
            following = shown[place] if place < len(shown) else end_pts
            if decode > pts:
                raise ValueError(f"pts {pts} is reordered by more than {depth} frames")
            if following <= pts:
                raise ValueError(f"pts {pts} is not before the stream's end {end_pts}")
            yield item, Timed(decode, following - pts)
            del shown[: bisect_left(shown, min((other for other, _ in waiting), default=pts))]

    for item in items:
        pts = pts_of(item)
        place = bisect_left(shown, pts)
        if place < len(shown) and shown[place] == pts:
            raise ValueError(f"pts {pts} repeats")
        shown.insert(place, pts)
        waiting.append((pts, item))
        heapq.heappush(pending, pts)
        settle(depth)
        yield from release(ahead)
    settle(0)
    yield from release(0)
