"""Reaching a time by halving: near enough, shallow, and every pass after those it stands on."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.plan.midpoints import NoMidpoint, nearest_node, passes

PLACES = st.fractions(0, 1, max_denominator=2000)
DEPTHS = st.integers(1, 8)


@given(t=PLACES, depth=DEPTHS, share=st.fractions(1, 8, max_denominator=16))
def test_the_node_is_within_the_error_and_no_shallower_one_is(t: Fraction, depth: int, share: Fraction) -> None:
    limit = share * Fraction(1, 2 ** (depth + 1))  # what the deepest level always meets, or more
    node = nearest_node(t, limit, depth)
    assert 0 <= node <= 1
    assert abs(node - t) <= limit
    assert 2**depth % node.denominator == 0
    if node != t:
        for shallower in range(node.denominator.bit_length() - 1):
            steps = 2**shallower
            assert all(abs(Fraction(k, steps) - t) > limit for k in range(steps + 1))


@given(depth=DEPTHS, data=st.data(), limit=st.fractions(0, 1))
def test_a_multiple_of_a_power_of_two_within_reach_is_met_exactly(
    depth: int, data: st.DataObject, limit: Fraction
) -> None:
    t = Fraction(data.draw(st.integers(0, 2**depth)), 2**depth)
    assert nearest_node(t, limit, depth) == t


@given(t=PLACES, depth=st.integers(1, 4))
def test_a_time_out_of_reach_is_refused(t: Fraction, depth: int) -> None:
    best = min(abs(t - Fraction(k, 2**depth)) for k in range(2**depth + 1))
    assume(best > 0)
    with pytest.raises(NoMidpoint, match="no midpoint"):
        nearest_node(t, best - Fraction(1, 10**9), depth)
    assert abs(nearest_node(t, best, depth) - t) <= best


@pytest.mark.parametrize("t", [Fraction(-1, 4), Fraction(5, 4)])
def test_a_time_outside_the_interval_is_refused(t: Fraction) -> None:
    with pytest.raises(ValueError, match="outside"):
        nearest_node(t, Fraction(1), 4)


@given(first=PLACES, second=PLACES)
def test_with_the_default_bound_later_times_never_get_earlier_nodes(first: Fraction, second: Fraction) -> None:
    low, high = sorted((first, second))
    assert nearest_node(low, Fraction(1, 16), 4) <= nearest_node(high, Fraction(1, 16), 4)


@given(st.lists(st.tuples(st.integers(0, 32), st.just(32)).map(lambda pair: Fraction(*pair)), max_size=8))
def test_passes_come_after_what_they_need_and_none_is_needless(nodes: list[Fraction]) -> None:
    steps = passes(nodes)
    done = {Fraction(0), Fraction(1)}
    for step in steps:
        assert {step.left, step.right} <= done, "both ends are finished before"
        assert step.node not in done, "none is made twice"
        assert step.node - step.left == step.right - step.node > 0
        done.add(step.node)
    assert set(nodes) <= done
    used = {side for step in steps for side in (step.left, step.right)} | set(nodes)
    assert {step.node for step in steps} <= used, "each is wanted, or another stands on it"


def test_four_frames_for_one_take_three_passes_the_middle_first() -> None:
    quarters = [Fraction(k, 4) for k in range(4)]
    assert [(s.left, s.node, s.right) for s in passes(quarters)] == [
        (0, Fraction(1, 2), 1),
        (0, Fraction(1, 4), Fraction(1, 2)),
        (Fraction(1, 2), Fraction(3, 4), 1),
    ]
    assert len(passes([Fraction(3, 8)])) == 3
    assert passes([Fraction(0), Fraction(1)]) == []
