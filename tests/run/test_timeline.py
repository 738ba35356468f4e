"""Totals over time, in at most 500 points."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.run.timeline import FIRST_STEP_S, POINTS, Timeline


def test_a_short_run_keeps_each_second() -> None:
    timeline = Timeline()
    for number in range(1, 11):
        timeline.add(number, 10 * number, number, {"model": 0.5 * number})
    points = timeline.points()
    assert [point["t"] for point in points] == list(range(11))
    assert points[-1] == {"t": 10, "frames": 100, "clips": 10, "seconds": {"model": 5.0}}


def test_points_closer_than_the_step_are_one() -> None:
    timeline = Timeline()
    for number in range(1, 101):
        timeline.add(number / 100, number, number, {})
    points = timeline.points()
    assert [point["t"] for point in points] == [0, 1]
    assert points[-1]["frames"] == 100


@pytest.mark.parametrize("every", [0.01, 1.0, 7.5, 3600.0])
def test_a_long_run_is_coarsened_and_keeps_its_beginning_its_end_and_its_shape(every: float) -> None:
    timeline = Timeline()
    count = 20_000
    for number in range(1, count + 1):
        timeline.add(number * every, 3 * number, number, {"model": float(number)})
        if number % 997 == 0:
            assert len(timeline.points()) <= POINTS
    points = timeline.points()
    assert POINTS / 5 < len(points) <= POINTS
    assert (points[0]["t"], points[0]["frames"]) == (0, 0)
    assert points[-1]["frames"] == 3 * count
    times = [point["t"] for point in points]
    assert times == sorted(set(times))
    assert all(point["frames"] == 3 * point["clips"] for point in points)
    gaps = [after - before for before, after in pairwise(times[:-1])]
    assert max(gaps) <= 4 * max(timeline.step, every)
    assert timeline.step >= FIRST_STEP_S
