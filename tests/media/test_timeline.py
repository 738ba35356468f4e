"""Exact ticks, and decode times that any decoder accepts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.timeline import lead_of, reorder_depth, retime


def new_dts(order: list[int], depth: int) -> list[int]:
    return [timed.dts for _, timed in retime(order, lambda pts: pts, depth, max(order) + 1)]


@st.composite
def decode_orders(draw: st.DrawFn) -> list[int]:
    """pts of a VFR stream in the decode order of (hierarchical) B-frames: mini-GOPs of 1 to 17 frames."""
    gaps = draw(st.lists(st.integers(1, 5000), min_size=1, max_size=120))
    shown, order = draw(st.integers(-5000, 5000)), []
    times = [shown := shown + gap for gap in gaps]

    def split(part: list[int]) -> None:
        if part:
            order.append(part.pop(len(part) // 2 if pyramid else 0))
            middle = len(part) // 2
            split(part[:middle]) if pyramid else None
            split(part[middle:] if pyramid else part)

    while times:
        size, pyramid = draw(st.integers(1, 17)), draw(st.booleans())
        group, times = times[:size], times[size:]
        order.append(group.pop())
        split(group)
    return order


@given(decode_orders())
def test_new_dts_increase_strictly_and_never_pass_the_pts(order: list[int]) -> None:
    dts = new_dts(order, reorder_depth(order))
    assert len(dts) == len(order)
    assert all(a < b for a, b in pairwise(dts))
    assert all(d <= p for d, p in zip(dts, order, strict=True))


@given(decode_orders(), st.integers(1, 9999))
def test_durations_tile_the_time_line_to_its_end(order: list[int], last: int) -> None:
    end = max(order) + last
    timed = list(retime(order, lambda pts: pts, reorder_depth(order), end))
    assert [pts for pts, _ in timed] == order
    spans = sorted((pts, pts + t.duration) for pts, t in timed)
    assert [b for _, b in spans] == [a for a, _ in spans[1:]] + [end]


@given(decode_orders(), decode_orders())
def test_two_streams_joined_end_to_start_still_decode_in_order(first: list[int], second: list[int]) -> None:
    shift = max(first) + 1 - min(second)
    joined = first + [pts + shift for pts in second]
    depth = max(reorder_depth(first), reorder_depth(second))
    assert depth == reorder_depth(joined)
    dts = new_dts(joined, depth)
    assert all(a < b for a, b in pairwise(dts))
    assert all(d <= p for d, p in zip(dts, joined, strict=True))


def test_packets_are_handed_out_while_the_stream_still_runs() -> None:
    taken = 0

    def endless():
        nonlocal taken
        while True:
            for pts in (3, 1, 2):
                yield taken // 3 * 3 + pts
                taken += 1

    stream = retime(endless(), lambda pts: pts, 1, 10**9)
    for n in range(3000):
        next(stream)
        assert taken <= n + 24


def test_deeper_reordering_than_declared_and_repeated_pts_are_refused() -> None:
    with pytest.raises(ValueError, match="reordered by more than 1"):
        new_dts([4, 3, 2, 1], 1)
    with pytest.raises(ValueError, match="pts 2 repeats"):
        new_dts([1, 2, 2], 0)


@given(st.lists(st.integers(1, 50_000), min_size=2, max_size=40), st.integers(1, 3))
def test_decode_times_count_a_track_in_full_however_uneven_its_frames(gaps: list[int], bframes: int) -> None:
    # MP4 readers take the smaller of the display length and the sum of decode durations.
    times = [0]
    for gap in gaps:
        times.append(times[-1] + gap)
    end = times.pop()
    order = [0]
    for start in range(0, len(times) - 1, bframes + 1):
        anchor = min(start + bframes + 1, len(times) - 1)
        order += [anchor, *range(start + 1, anchor)]
    depth = reorder_depth([times[i] for i in order])
    lead = lead_of(depth, min(gaps), max(gaps))
    timed = list(retime([times[i] for i in order], lambda pts: pts, depth, end, lead))
    decoded = timed[-1][1].dts + timed[-1][1].duration - timed[0][1].dts
    assert decoded >= end - times[0]
    assert all(later[1].dts > earlier[1].dts for earlier, later in pairwise(timed))
    assert all(when.dts <= pts for pts, when in timed)
    assert sum(when.duration for _, when in timed) == end - times[0]


def test_a_constant_rate_leads_by_the_reorder_depth_alone() -> None:
    assert lead_of(2, 512, 512) == 2 * 512
    assert lead_of(0, 512, 512) == 0
