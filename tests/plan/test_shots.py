"""Cuts are told from motion on pictures made by code; the threshold is the configuration's default."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import CutsConfig
from pipeline.plan.shots import HEIGHT, WIDTH, cut_score, is_cut

Picture = NDArray[np.float32]
THRESHOLD = CutsConfig().threshold


def scene(seed: int, dx: float = 0, dy: float = 0, zoom: float = 1, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Picture:
    """A sum of waves and soft discs seen through a moving camera, 0..255."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float64)
    y, x = (y - size[0] / 2) / zoom + dy, (x - size[1] / 2) / zoom + dx
    image = np.full(size, 115.0)
    for _ in range(6):
        angle, length, phase = random.uniform(0, np.pi), random.uniform(5, 25), random.uniform(0, 6)
        image += 13 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / length + phase)
    for _ in range(14):
        cx, cy = random.uniform(-60, 60), random.uniform(-40, 40)
        radius, level = random.uniform(4, 16), random.uniform(-90, 90)
        image = image + level / (1 + np.exp(np.hypot(x - cx, y - cy) - radius))
    return image.clip(0, 255).astype(np.float32)


def cut(earlier: Picture, later: Picture) -> bool:
    return is_cut(earlier, later, THRESHOLD)


@pytest.mark.parametrize("pair", [(1, 2), (2, 3), (3, 7), (11, 5), (8, 13)])
def test_another_scene_is_a_cut_in_both_directions(pair: tuple[int, int]) -> None:
    first, second = scene(pair[0]), scene(pair[1])
    assert cut(first, second)
    assert cut(second, first)


@pytest.mark.parametrize("move", [(0, 0), (1, 0), (5, 0), (0, 4), (-7, 3), (7.5, -6)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_pan_is_no_cut(seed: int, move: tuple[float, float]) -> None:
    assert not cut(scene(seed), scene(seed, *move))


@pytest.mark.parametrize("zoom", [0.9, 1.05, 1.12])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_zoom_is_no_cut(seed: int, zoom: float) -> None:
    assert not cut(scene(seed), scene(seed, zoom=zoom))


@pytest.mark.parametrize("change", [0.85, 0.95, 1.1])
def test_a_step_of_a_fade_is_no_cut(change: float) -> None:
    assert not cut(scene(1), (scene(1) * change).clip(0, 255).astype(np.float32))


def test_a_slow_fade_from_black_is_no_cut_after_its_first_frames() -> None:
    frames = [scene(4) * np.float32(step / 24) for step in range(6, 25)]
    assert not any(cut(a, b) for a, b in pairwise(frames))


def test_noise_on_a_still_or_a_flat_picture_is_no_cut() -> None:
    random = np.random.default_rng(0)
    for still in (scene(1), np.full((HEIGHT, WIDTH), 16, np.float32), np.full((HEIGHT, WIDTH), 128, np.float32)):
        # Thumbnails average many pixels: noise of 4 steps here would be over 40 in a 1080p frame.
        a, b = (still + random.normal(0, 4, still.shape).astype(np.float32) for _ in range(2))
        assert not cut(a, b)


def test_a_faint_flash_is_no_cut_and_a_glaring_one_is_held_like_one() -> None:
    assert not cut(scene(1), (scene(1) + 12).clip(0, 255))
    assert cut(scene(1), np.full((HEIGHT, WIDTH), 255, np.float32))


def test_flat_frames_are_a_cut_only_when_the_level_jumps() -> None:
    black, dark, white = (np.full((HEIGHT, WIDTH), level, np.float32) for level in (16, 19, 235))
    assert not cut(black, black)
    assert not cut(black, dark)
    assert cut(black, white)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (16, 96), (56, 20)])
def test_tiny_and_narrow_frames_are_judged_too(size: tuple[int, int]) -> None:
    assert not cut(scene(1, size=size), scene(1, dx=1, size=size))
    score = cut_score(scene(1, size=size), 255 - scene(2, size=size))
    assert score > cut_score(scene(1, size=size), scene(1, dx=1, size=size))


@given(st.integers(0, 99), st.integers(0, 99), st.floats(0.02, 0.98))
def test_the_short_cut_never_changes_the_verdict(first: int, second: int, threshold: float) -> None:
    a, b = scene(first), scene(second)
    score = cut_score(a, b)
    assert 0 <= score <= 1
    assert is_cut(a, b, threshold) == (score >= threshold)
