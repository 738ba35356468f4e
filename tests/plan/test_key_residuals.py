"""Residuals of thumbnails made by code: what they must order rightly, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.plan.key_residuals import measure
from tests.plan.test_shots import Picture, scene


def pan(frames: int, step: float) -> list[Picture]:
    return [scene(1, dx=index * step) for index in range(frames)]


def test_identical_frames_have_none_and_other_scenes_nearly_all() -> None:
    table = measure([scene(1), scene(1), scene(7)], 2)
    assert table.of(0, 1) == table.of(1, 0) == table.of(2, 2) == 0
    assert min(table.of(1, 2), table.of(2, 1), table.of(0, 2)) > 0.3
    assert (table.values[np.isfinite(table.values)] < 1).all()


def test_frames_further_away_in_time_are_explained_worse() -> None:
    table = measure(pan(7, 3.0), 6)
    residuals = [table.of(0, frame) for frame in range(7)]
    assert residuals == sorted(residuals)
    assert residuals[6] > 2 * residuals[1] > 0


def test_motion_is_followed_where_a_plain_difference_sees_only_change() -> None:
    still, moved = scene(3), scene(3, dx=4)
    noisy = still + np.random.default_rng(0).normal(0, np.abs(moved - still).mean() * 1.25, still.shape)
    assert np.abs(noisy - still).mean() >= np.abs(moved - still).mean() * 0.9
    panned = measure([still, moved], 1).of(0, 1)
    replaced = measure([still, scene(4)], 1).of(0, 1)
    assert panned < replaced / 2


def test_contrast_and_brightness_change_little() -> None:
    bright, dim = pan(4, 4.0), [frame * np.float32(0.5) + 20 for frame in pan(4, 4.0)]
    first, second = (measure(frames, 3).of(0, 3) for frames in (bright, dim))
    assert second == pytest.approx(first, rel=0.35)


def test_a_pair_is_judged_alike_wherever_its_window_begins_and_whatever_lies_around() -> None:
    frames = pan(9, 2.0)
    whole, part = measure(frames, 4), measure(frames[3:7], 4)
    for key in range(4):
        for frame in range(4):
            assert part.of(key, frame) == whole.of(key + 3, frame + 3)
    assert whole.of(0, 5) == float("inf")
    assert np.isinf(whole.values[0, :4]).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (16, 16), (17, 31), (56, 20)])
def test_tiny_and_narrow_frames_are_judged_too(size: tuple[int, int]) -> None:
    table = measure([scene(1, size=size), scene(1, size=size), 255 - scene(2, size=size)], 2)
    assert table.of(0, 1) == 0
    assert 0 < table.of(0, 2) < 1


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        measure([], 3)
    with pytest.raises(ValueError, match="reach 0"):
        measure([scene(1)], 0)
