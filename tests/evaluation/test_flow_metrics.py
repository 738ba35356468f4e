"""Figures of known flows, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.flow_metrics import pooled, score


def fields(errors: list[float], lengths: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row of pixels: true motion down by `lengths`, predicted too far right by `errors`."""
    truth = np.array([[[0.0] * len(lengths)], [lengths]], np.float32)
    flow = truth + np.array([[errors], [[0.0] * len(errors)]], np.float32)
    return flow, truth, np.ones((1, len(errors)), bool)


def test_each_figure_is_what_its_definition_says() -> None:
    # 4 px off 100 px is more than 3 px, but less than 5 %: no outlier.
    found = score(*fields([0.0, 1.0, 2.0, 4.0, 4.0], [5.0, 5.0, 20.0, 100.0, 20.0]))["all"]
    assert found.pixels == 5
    assert found.epe == pytest.approx(11 / 5)
    assert found.px1 == pytest.approx(60)
    assert found.fl == pytest.approx(20)
    assert found.zero == pytest.approx(30)


def test_classes_part_the_pixels_by_the_length_of_the_true_motion() -> None:
    found = score(*fields([1.0, 2.0, 3.0, 4.0], [0.0, 10.0, 39.0, 40.0]))
    assert [found[name].pixels for name in ("s0-10", "s10-40", "s40+")] == [1, 2, 1]
    assert found["s10-40"].epe == pytest.approx(2.5)
    assert found["s40+"].epe == pytest.approx(4)
    nothing = score(*fields([1.0], [0.0]))["s40+"]
    assert nothing.pixels == 0
    assert math.isnan(nothing.epe)


def test_wauc_is_100_for_the_truth_and_falls_with_the_error() -> None:
    truth = score(*fields([0.0, 0.0], [1.0, 1.0]))["all"].wauc
    near, far = (score(*fields([error], [1.0]))["all"].wauc for error in (1.0, 6.0))
    assert truth == pytest.approx(100)
    assert far == 0
    # Within the limits from 1 px on: weights 0.81, 0.80, … 0.01 of 1, 0.99, … 0.01.
    assert near == pytest.approx(100 * sum(k / 100 for k in range(1, 82)) / 50.5)


def test_pixels_without_truth_do_not_count_and_predictions_that_are_no_numbers_do() -> None:
    flow, truth, known = fields([1.0, 500.0], [1.0, 1.0])
    known[0, 1] = False
    assert score(flow, truth, known)["all"].epe == pytest.approx(1)
    flow[0, 0, 0] = np.nan
    found = score(flow, truth, known)["all"]
    assert found.epe == np.inf
    assert (found.px1, found.fl, found.wauc) == (100, 100, 0)


def test_shapes_that_differ_are_refused() -> None:
    flow, truth, known = fields([1.0, 2.0], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"\[2, 1, 1\]"):
        score(flow[..., :1], truth, known)


@given(st.lists(st.floats(0, 50), min_size=2, max_size=20), st.integers(1, 19))
def test_pooled_parts_are_the_whole(errors: list[float], cut: int) -> None:
    flow, truth, known = fields(errors, [7.0] * len(errors))
    cut = min(cut, len(errors) - 1)
    parts = [score(x[..., s], y[..., s], k[..., s])["all"] for s in (slice(cut), slice(cut, None))
             for x, y, k in [(flow, truth, known)]]  # fmt: skip
    whole, together = score(flow, truth, known)["all"], pooled(parts)
    for name in ("pixels", "epe", "px1", "fl", "wauc", "zero"):
        assert getattr(together, name) == pytest.approx(getattr(whole, name), abs=1e-6)
