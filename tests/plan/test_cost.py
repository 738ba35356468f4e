from __future__ import annotations

from fractions import Fraction

import pytest

from pipeline.config import TargetConfig
from pipeline.plan.cost import SAMPLED, cain_macs, inner_frames, midpoint_passes
from pipeline.plan.grid import make_grid

FULL = {"channels": 192, "rcabs": 12, "shuffle": 8}


@pytest.mark.parametrize(("depth", "per_pixel"), [(1, 145_152), (2, 274_752), (3, 404_352), (4, 533_952), (5, 663_552)])
def test_the_full_network_costs_what_the_paper_s_table_implies(depth: int, per_pixel: int) -> None:
    assert cain_macs(256, 256, **FULL, exit_depth=depth, multiple=8) == 65536 * per_pixel


def test_a_2k_frame_is_counted_on_the_padded_frame() -> None:
    assert 2 * cain_macs(1080, 2048, **FULL, exit_depth=5, multiple=128) == pytest.approx(3.131e12, rel=1e-3)
    assert 2 * cain_macs(720, 1280, **FULL, exit_depth=5, multiple=128) == pytest.approx(1.305e12, rel=1e-3)


@pytest.mark.parametrize(("factor", "each"), [(2, 1), (4, 3), (8, 7)])
def test_a_power_of_two_needs_a_pass_for_each_new_frame(factor: int, each: int) -> None:
    pts = [0, 3, 4, 9, 12]
    grid = make_grid(TargetConfig(factor=factor), Fraction(1, 25), 0)
    assert midpoint_passes(pts, grid, Fraction(1, 16), 4) == each * 4


def test_long_videos_are_extrapolated_and_single_frames_cost_nothing() -> None:
    grid = make_grid(TargetConfig(factor=2), Fraction(1, 25), 0)
    assert midpoint_passes(range(5 * SAMPLED), grid, Fraction(0), 1) == 5 * SAMPLED - 1
    assert midpoint_passes([7], grid, Fraction(0), 1) == 0


def test_a_model_of_any_time_needs_a_pass_for_each_frame_between_two() -> None:
    pts = list(range(0, 50, 2))
    doubled = make_grid(TargetConfig(factor=2), Fraction(1, 50), 0)
    assert inner_frames(pts, doubled) == 24
    # 25 to 60 frames a second: of 12 frames in 5 intervals, one falls onto a source frame.
    sixty = make_grid(TargetConfig(fps=Fraction(60)), Fraction(1, 50), 0)
    assert inner_frames(pts[:6], sixty) == 11
    assert inner_frames([7], doubled) == 0
