"""The output's times: exact, without drift, and the same wherever a video is cut."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import TargetConfig
from pipeline.plan.grid import MAX_TIMESCALE, FactorGrid, Grid, RateGrid, frames_before, make_grid, note

TIME_BASES = st.sampled_from(
    [Fraction(1, 1000), Fraction(1, 240), Fraction(1001, 30000), Fraction(2, 75), Fraction(1, 24), Fraction(1, 90)]
)
RATES = st.sampled_from(
    [Fraction(60), Fraction(60000, 1001), Fraction(24000, 1001), Fraction(2997, 100), Fraction(1), Fraction(1, 7)]
)
TARGETS = st.one_of(
    st.integers(2, 64).map(lambda factor: TargetConfig(factor=factor)), RATES.map(lambda fps: TargetConfig(fps=fps))
)


@st.composite
def source_times(draw: st.DrawFn) -> list[int]:
    """Increasing pts of 1 to 8 frames, and the end of the last one's display time."""
    first = draw(st.integers(-5000, 5000))
    steps = draw(st.lists(st.integers(1, 80), min_size=1, max_size=8))
    times = [first]
    for step in steps:
        times.append(times[-1] + step)
    return times


def outputs(grid: Grid, times: list[int]) -> list[tuple[int, Fraction]]:
    """(tick, exact time in seconds) of all output frames of the intervals between `times`."""
    base = grid.source_time_base
    return [
        (out.pts, (left + out.t * (right - left)) * base)
        for left, right in pairwise(times)
        for out in grid.between(left, right)
    ]


@given(times=source_times(), target=TARGETS, base=TIME_BASES)
def test_output_times_increase_and_are_exactly_those_of_the_target(
    times: list[int], target: TargetConfig, base: Fraction
) -> None:
    grid = make_grid(target, base, times[0])
    made = outputs(grid, times)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(made))
    if target.factor is not None:
        expected = [
            (left + Fraction(step, target.factor) * (right - left)) * base
            for left, right in pairwise(times)
            for step in range(target.factor)
        ]
    else:
        assert target.fps is not None
        number, expected = 0, []
        while (time := times[0] * base + number / target.fps) < times[-1] * base:
            expected.append(time)
            number += 1
    assert [time for _, time in made] == expected
    assert grid.time_base.numerator == 1
    if grid.time_base.denominator <= MAX_TIMESCALE:
        assert [tick * grid.time_base for tick, _ in made] == expected, "ticks say the exact time"


@given(times=source_times(), target=TARGETS, base=TIME_BASES, data=st.data())
def test_cutting_a_video_anywhere_changes_no_output_time(
    times: list[int], target: TargetConfig, base: Fraction, data: st.DataObject
) -> None:
    grid = make_grid(target, base, times[0])
    whole = outputs(grid, times)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(times) - 2)), max_size=4)))
    pieces, start = [], 0
    for cut in [*cuts, len(times) - 1]:
        # A clip knows the grid's origin and its own frames' times only.
        pieces += outputs(make_grid(target, base, times[0]), times[start : cut + 1])
        start = cut
    assert pieces == whole


@given(times=source_times(), target=TARGETS, base=TIME_BASES)
def test_places_lie_in_their_interval_and_counts_are_known_beforehand(
    times: list[int], target: TargetConfig, base: Fraction
) -> None:
    grid = make_grid(target, base, times[0])
    made = 0
    for index, (left, right) in enumerate(pairwise(times)):
        assert frames_before(grid, left, index) == made
        places = [out.t for out in grid.between(left, right)]
        assert all(0 <= t < 1 for t in places)
        made += len(places)
    assert frames_before(grid, times[-1], len(times) - 1) == made


@pytest.mark.parametrize("base", [Fraction(1, 24000), Fraction(1, 90000)])
def test_ten_hours_from_24000_1001_to_60000_1001_end_without_drift(base: Fraction) -> None:
    ticks = round(Fraction(1001, 24000) / base)  # 1001, or 3754 of 90 kHz (rounded, as TS muxers do)
    frames = 10 * 3600 * 24000 // 1001
    fps = Fraction(60000, 1001)
    grid = RateGrid(fps, base, origin=777)
    last = 777 + (frames - 1) * ticks
    number = frames_before(grid, last, frames - 1)
    out = next(iter(grid.between(last, last + ticks)))
    origin = Fraction(777) * base
    assert last * base + out.t * ticks * base == origin + number / fps
    assert out.pts * grid.time_base == origin + number / fps
    assert number > 2_150_000


def test_doubling_24000_1001_gives_every_source_frame_and_the_middle_of_each_pair() -> None:
    grid = FactorGrid(2, Fraction(1, 24000))
    assert [(out.pts, out.t) for out in grid.between(1001, 2002)] == [(2002, 0), (3003, Fraction(1, 2))]
    assert grid.time_base == Fraction(1, 48000)
    assert grid.end(3003, last=5005) * grid.time_base == Fraction(3003, 24000)


def test_avi_time_bases_become_one_over_a_whole_number() -> None:
    grid = FactorGrid(2, Fraction(1001, 30000))
    assert grid.time_base == Fraction(1, 60000)
    assert [out.pts for out in grid.between(7, 8)] == [14014, 15015]
    assert grid.end(8, last=15015) == 16016


def test_a_lower_rate_leaves_intervals_without_a_frame() -> None:
    grid = RateGrid(Fraction(10), Fraction(1, 30), origin=0)
    assert [len(list(grid.between(pts, pts + 1))) for pts in range(6)] == [1, 0, 0, 1, 0, 0]
    assert grid.end(6, last=3) == 4, "the last frame is shown for one period of the new rate"


def test_variable_frame_rate_is_kept_by_a_factor_and_evened_out_by_a_rate() -> None:
    base = Fraction(1, 1000)
    by_factor = outputs(FactorGrid(2, base), [0, 40, 140])
    assert [time * 1000 for _, time in by_factor] == [0, 20, 40, 90]
    by_rate = outputs(RateGrid(Fraction(50), base, 0), [0, 40, 140])
    assert [time * 1000 for _, time in by_rate] == [0, 20, 40, 60, 80, 100, 120]


def test_where_no_timescale_holds_the_origin_steps_stay_exact_and_it_moves_less_than_a_tick() -> None:
    base, fps = Fraction(1, 1_000_003), Fraction(60000, 1001)
    grid = RateGrid(fps, base, origin=5)
    assert grid.time_base == Fraction(1, 60000)
    made = outputs(grid, [5, 500_000])
    assert all(b[0] - a[0] == 1001 for a, b in pairwise(made))
    assert all(abs(tick * grid.time_base - time) <= grid.time_base / 2 for tick, time in made)
    assert {tick * grid.time_base - time for tick, time in made} == {grid.shift}
    assert note(grid) == (
        "all frames are 5 µs early: no time base holds both target.fps=60000/1001 and the first frame's time"
    )


def test_an_exact_grid_has_nothing_to_note() -> None:
    assert note(RateGrid(Fraction(60000, 1001), Fraction(1, 90000), origin=7)) is None
    assert note(FactorGrid(2, Fraction(1, 1_000_003))) is None
