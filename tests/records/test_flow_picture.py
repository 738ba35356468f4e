from __future__ import annotations

import flow_vis
import numpy as np
import pytest

from pipeline.records.flow_picture import legend, paint, usual_motion


def test_the_colours_are_middleburys() -> None:
    flow = np.random.default_rng(0).normal(scale=3, size=(2, 50, 60)).astype(np.float32)
    inside = np.hypot(*flow) < 9.9
    theirs = flow_vis.flow_uv_to_colors(flow[0] / 10, flow[1] / 10)
    difference = np.abs(paint(flow, 10).astype(int) - theirs)[inside]
    assert difference.mean() < 2
    assert np.quantile(difference, 0.99) <= 8


def test_directions_have_their_colours_and_rest_is_white() -> None:
    flow = np.zeros((2, 1, 5), np.float32)
    flow[0, 0, 1:3], flow[1, 0, 3:5] = (5, -5), (5, -5)
    rest, right, left, down, up = paint(flow, 5)[0].astype(int)
    assert (rest >= 250).all()
    assert right[0] == 255
    assert right[1:].max() < 20  # red
    assert left[0] < 20
    assert left[1:].min() > 120  # cyan
    assert down[2] < 60
    assert down[:2].min() > 180  # yellow
    assert up[2] > 240
    assert up[:2].max() < 140  # blue


def test_longer_motion_keeps_its_direction_and_nothing_strange_breaks_the_picture() -> None:
    flow = np.array([[[3, 3e6, np.nan, np.inf]], [[4, 4e6, 0, 0]]], np.float32)
    picture = paint(flow, 5)
    assert (picture[0, 0] == picture[0, 1]).all()
    assert (picture[0, 2] >= 250).all()


def test_invalid_pixels_are_dimmed_and_the_table_stays_as_it_is() -> None:
    flow = np.full((2, 2, 2), 3, np.float32)
    valid = np.array([[True, False], [True, True]])
    bright = paint(flow, 5)
    dimmed = paint(flow, 5, valid, dim=0.5)
    np.testing.assert_array_equal(dimmed[valid], bright[valid])
    np.testing.assert_array_equal(dimmed[~valid], bright[~valid] // 2)
    np.testing.assert_array_equal(paint(flow, 5), bright)


def test_the_scale_of_single_fields_ignores_outliers() -> None:
    flow = np.zeros((2, 100, 100), np.float32)
    flow[0], flow[1, 0, :5] = 8, 1e6
    assert usual_motion(flow) == pytest.approx(8)
    assert usual_motion(flow / 100) == 1
    with pytest.raises(ValueError, match="full_px=0"):
        paint(flow, 0)


def test_the_legend_is_a_round_wheel() -> None:
    picture = legend(101)
    assert picture.shape == (101, 101, 3)
    assert (picture[0, 0] == 255).all()
    assert (picture[50, 50] >= 250).all()
    assert picture[50, 99].tolist()[0] == 255
    assert max(picture[50, 99].tolist()[1:]) < 20
