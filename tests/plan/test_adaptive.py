"""Patches fitted to a frame, choices at a price, budgets, and what runs together: for any scores and sizes."""

from __future__ import annotations

import itertools
from collections import Counter
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan.adaptive import (
    STATIC,
    Choice,
    Offer,
    batches,
    fitted_grid,
    fitted_windows,
    frontier,
    price_of,
    price_within,
    taken,
)
from pipeline.plan.patches import blend_weights

FOLDS = st.sampled_from([1, 8, 32])


@st.composite
def sides(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """(length, size, overlap, multiple) as the executor gives them."""
    fold = draw(FOLDS)
    overlap = fold * draw(st.integers(1, max(1, 32 // fold)))
    size = fold * draw(st.integers(2 * overlap // fold, 600 // fold))
    return fold * draw(st.integers(1, 3000 // fold)), size, overlap, fold


@given(sides())
def test_windows_cover_a_side_in_one_size_and_share_at_least_the_overlap(side: tuple[int, int, int, int]) -> None:
    length, size, overlap, fold = side
    starts, fitted = fitted_windows(length, size, overlap, fold)
    assert starts[0] == 0
    assert starts[-1] + fitted == length
    assert fitted % fold == 0
    for left, right in itertools.pairwise(starts):
        assert right % fold == 0
        assert left < right <= left + fitted - overlap


@given(sides())
def test_no_other_number_of_windows_comes_nearer_to_the_size_asked_for(side: tuple[int, int, int, int]) -> None:
    length, size, overlap, fold = side
    _, fitted = fitted_windows(length, size, overlap, fold)
    for count in range(1, 60):
        other = -(-(length + (count - 1) * overlap) // (count * fold)) * fold
        assert abs(fitted - size) <= abs(other - size) or (count > 1 and other >= length)


@pytest.mark.parametrize(("size", "most"), [((720, 1280), 1.14), ((1080, 1920), 1.15), ((2160, 3840), 1.15)])
def test_fitted_patches_overlap_little(size: tuple[int, int], most: float) -> None:
    patches = fitted_grid(*size, 256, 16, 8)
    assert {(patch.height, patch.width) for patch in patches} == {(patches[0].height, patches[0].width)}
    assert sum(patch.height * patch.width for patch in patches) / (size[0] * size[1]) < most


@given(rows=st.integers(1, 60), columns=st.integers(1, 60), size=st.sampled_from([64, 96, 256]))
def test_every_pixel_is_in_a_patch_and_has_weight(rows: int, columns: int, size: int) -> None:
    height, width = 8 * rows, 8 * columns
    total = np.zeros((height, width))
    for patch in fitted_grid(height, width, size, 16, 8):
        weights = blend_weights(patch, height, width, 16)
        total[patch.top : patch.top + patch.height, patch.left : patch.left + patch.width] += weights
    assert total.min() > 0


def test_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        fitted_windows(100, 64, 16, 8)
    with pytest.raises(ValueError, match="at most half"):
        fitted_windows(800, 64, 40, 8)


COSTS = st.integers(1, 3).flatmap(
    lambda scales: st.integers(1, 5).flatmap(
        lambda exits: st.lists(
            st.lists(st.floats(0.01, 1), min_size=exits, max_size=exits), min_size=scales, max_size=scales
        )
    )
)


@st.composite
def judged(draw: st.DrawFn) -> tuple[list[list[list[float]]], list[list[float]]]:
    """Scores of some patches, some of them alike, and the costs of the choices."""
    costs = draw(COSTS)
    score = st.one_of(st.floats(-30, 0), st.sampled_from([-1.0, -2.0]))
    row = st.lists(score, min_size=len(costs[0]), max_size=len(costs[0]))
    patch = st.lists(row, min_size=len(costs), max_size=len(costs))
    return draw(st.lists(patch, min_size=1, max_size=6)), costs


PRICES = st.one_of(st.floats(-1e4, 1e4), st.sampled_from([-inf, 0.0, inf]))


@given(judged(), PRICES)
def test_a_patch_takes_what_is_worth_most_at_the_price(
    given_: tuple[list[list[list[float]]], list[list[float]]], price: float
) -> None:
    patches, costs = given_
    choices = list(itertools.product(range(len(costs)), range(len(costs[0]))))
    for scores in patches:
        offer = taken(frontier(scores, costs), price)
        assert offer.cost == costs[offer.scale][offer.exit]
        if price in (-inf, inf):
            extreme = max if price < 0 else min
            assert offer.cost == extreme(costs[s][e] for s, e in choices)
        else:
            worth = max(scores[s][e] - price * costs[s][e] for s, e in choices)
            mine = scores[offer.scale][offer.exit] - price * offer.cost
            assert mine == pytest.approx(worth, abs=1e-6 * (1 + abs(price)))


@given(judged(), PRICES, PRICES)
def test_costs_never_rise_with_the_price(
    given_: tuple[list[list[list[float]]], list[list[float]]], one: float, other: float
) -> None:
    patches, costs = given_
    low, high = sorted((one, other))
    for scores in patches:
        path = frontier(scores, costs)
        assert taken(path, low).cost >= taken(path, high).cost


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_price_never_rises_with_quality(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert price_of(low) >= price_of(high)


def test_quality_in_the_middle_is_free_and_its_ends_are_final() -> None:
    assert price_of(0.5) == 0
    assert (price_of(0), price_of(1)) == (inf, -inf)
    with pytest.raises(ValueError, match="quality=1"):
        price_of(1.5)


@given(judged(), st.floats(-50, 50), st.floats(0, 8), st.integers(1, 5))
def test_a_budget_is_met_by_the_smallest_price_that_does(
    given_: tuple[list[list[list[float]]], list[list[float]]], least: float, budget: float, area: int
) -> None:
    patches, costs = given_
    paths = [frontier(scores, costs) for scores in patches]
    areas = [area + index for index in range(len(paths))]

    def spent(price: float) -> float:
        return sum(taken(path, price).cost * area for path, area in zip(paths, areas, strict=True))

    price = price_within(paths, areas, budget, least)
    assert price >= least
    if price == inf:
        steps = [offer.price for path in paths for offer in path]
        assert all(spent(step) > budget for step in steps if step >= least)
    else:
        assert spent(price) <= budget
        assert price == least or spent(np.nextafter(price, -inf)) > budget


def test_patches_alike_give_way_together() -> None:
    path = [Offer(-inf, 0, 1, 1.0), Offer(3.0, 0, 0, 0.4)]
    assert price_within([path, path], [10, 10], 19, 0) == 3.0
    assert [taken(path, price_within([path, path], [10, 10], 19, 0)).cost for _ in range(2)] == [0.4, 0.4]


def test_damaged_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="damaged"):
        frontier([[float("nan"), 0.0]], [[0.5, 1.0]])


CHOICES = st.one_of(st.just(STATIC), st.builds(Choice, st.sampled_from([1, 2, 4]), st.integers(1, 5)))
FRAMES = st.lists(st.lists(CHOICES, max_size=20), max_size=5)
MOST = st.fixed_dictionaries({scale: st.integers(1, 9) for scale in (1, 2, 4)})


@given(FRAMES, MOST)
def test_every_patch_that_moves_runs_once_at_its_own_choice_and_batches_are_bounded(
    frames: list[list[Choice]], most: dict[int, int]
) -> None:
    plan = batches(frames, most)
    run = Counter((piece.frame, piece.patch) for batch in plan for piece in batch.pieces)
    moving = {(f, p) for f, choices in enumerate(frames) for p, choice in enumerate(choices) if choice.depth}
    assert run == Counter(moving)
    for batch in plan:
        assert 1 <= len(batch.pieces) <= most[batch.scale]
        depths = [piece.depth for piece in batch.pieces]
        assert depths == sorted(depths, reverse=True), "those that exit leave at the batch's end"
        for piece in batch.pieces:
            assert frames[piece.frame][piece.patch] == Choice(batch.scale, piece.depth)


@given(FRAMES, MOST)
def test_a_frame_s_patches_come_in_one_order_whatever_runs_with_them(
    frames: list[list[Choice]], most: dict[int, int]
) -> None:
    together = batches(frames, most)
    for index, choices in enumerate(frames):
        alone = [piece.patch for batch in batches([choices], most) for piece in batch.pieces]
        assert [p.patch for batch in together for p in batch.pieces if p.frame == index] == alone


@given(FRAMES)
def test_where_all_fit_each_scale_is_one_batch(frames: list[list[Choice]]) -> None:
    plan = batches(frames, dict.fromkeys((1, 2, 4), 100))
    assert [batch.scale for batch in plan] == sorted({c.scale for choices in frames for c in choices if c.depth})
