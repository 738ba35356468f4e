"""Key frames against brute force, and what every schedule must hold: budget, coverage, shots, clips."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config_recognize import KeyFramesConfig
from pipeline.plan import key_frames
from pipeline.plan.key_frames import IMPOSSIBLE, Carried, ResidualTable, best_keys, key_indices, plan_window
from pipeline.plan.key_windows import allowance, halo, windows

INF = float("inf")


def table_of(seed: int, frames: int, reach: int) -> ResidualTable:
    """Residuals of a made-up video: they grow with distance, unevenly, differ by direction, and are now and then 0."""
    random = np.random.default_rng(seed)
    steps = np.cumsum(random.choice([0, 0.01, 0.05, 0.2], frames))
    values = np.full((frames, 2 * reach + 1), np.inf, np.float32)
    for key in range(frames):
        for frame in range(max(0, key - reach), min(frames, key + reach + 1)):
            noise = random.choice([0.0, 0.03])
            values[key, reach + frame - key] = abs(steps[key] - steps[frame]) + noise * (key != frame)
    return ResidualTable(values)


@st.composite
def videos(draw: st.DrawFn, most: int = 40) -> tuple[int, list[bool], ResidualTable]:
    """(frames, cut before each frame, residuals)"""
    frames = draw(st.integers(1, most))
    cuts = [draw(st.sampled_from([False] * 9 + [True])) for _ in range(frames)]
    return frames, cuts, table_of(draw(st.integers(0, 999)), frames, draw(st.integers(1, 12)))


def config(**changes: object) -> KeyFramesConfig:
    return KeyFramesConfig.model_validate({"promote_above": None, "window": 1000, **changes})


def shots(cuts: list[bool]) -> list[int]:
    return [sum(cuts[1 : index + 1]) for index in range(len(cuts))]


def plan(video: tuple[int, list[bool], ResidualTable], **changes: object) -> tuple[Carried, ...]:
    frames, cuts, table = video
    return plan_window(range(frames), cuts, table, config(**changes))


def worth(keys: tuple[int, ...], costs: np.ndarray) -> int:
    """Total cost of a choice of key frames, straight from the definition."""
    count, reach = costs.shape[0], costs.shape[1] // 2

    def cost(key: int, frame: int) -> int:
        return int(costs[key, reach + frame - key]) if abs(frame - key) <= reach else IMPOSSIBLE

    total = 0
    for frame in range(count):
        if frame not in keys:
            before = [key for key in keys if key < frame][-1:]
            after = [key for key in keys if key > frame][:1]
            total += min(cost(key, frame) for key in before + after)
    return total


@given(st.data())
def test_no_choice_of_key_frames_within_the_budget_is_better(data: st.DataObject) -> None:
    count, reach = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 4))
    cell = st.one_of(st.integers(0, 9), st.integers(0, 9), st.just(IMPOSSIBLE))
    size = count * (2 * reach + 1)
    costs = np.array(data.draw(st.lists(cell, min_size=size, max_size=size)), np.int64).reshape(count, -1)
    budget = data.draw(st.integers(0, count))
    found = best_keys(costs, budget)
    every = {keys: worth(keys, costs) for size in range(1, count + 1) for keys in combinations(range(count), size)}
    possible = {keys: total for keys, total in every.items() if total < IMPOSSIBLE}
    fewest = min(len(keys) for keys in possible)
    allowed = {keys: total for keys, total in possible.items() if len(keys) <= max(budget, fewest)}
    assert worth(tuple(found), costs) == min(allowed.values())
    equals = [keys for keys, total in allowed.items() if total == min(allowed.values())]
    assert len(found) == min(map(len, equals)), "of equals, the one with the fewest key frames"


@given(videos(), st.sampled_from([Fraction(1, 2), Fraction(1, 5), Fraction(2, 7), Fraction(1, 10)]), st.booleans())
def test_every_frame_has_its_features_from_a_key_frame_of_its_shot_within_reach(
    video: tuple[int, list[bool], ResidualTable], budget: Fraction, blend: bool
) -> None:
    frames, cuts, table = video
    schedule = plan(video, budget=budget, max_gap=10, blend=blend)
    shot = shots(cuts)
    assert [carried.frame for carried in schedule] == list(range(frames))
    keys = set(key_indices(schedule))
    for carried in schedule:
        assert carried.key in keys
        assert shot[carried.key] == shot[carried.frame], "never across a cut"
        assert carried.gap <= min(10, table.reach)
        assert carried.residual == (0 if carried.is_key else table.of(carried.key, carried.frame))
        around = [key for key in keys if shot[key] == shot[carried.frame]]
        before = max((key for key in around if key < carried.frame), default=None)
        after = min((key for key in around if key > carried.frame), default=None)
        if not carried.is_key:
            sides = {key: table.of(key, carried.frame) for key in (before, after) if key is not None}
            assert carried.residual == min(sides.values()), "the better side"
            expected = {"both"} if carried.other is not None else {"before" if carried.key == before else "after"}
            assert {carried.side} == expected
        if carried.other is not None:
            assert blend
            assert {carried.key, carried.other} == {before, after}
            assert 0.5 <= carried.share < 1
            assert table.of(carried.other, carried.frame) >= carried.residual


@given(videos(), st.fractions(Fraction(1, 12), 1, max_denominator=30))
def test_the_budget_is_kept_unless_shots_or_reach_need_more(
    video: tuple[int, list[bool], ResidualTable], budget: Fraction
) -> None:
    frames, cuts, table = video
    schedule = plan(video, budget=budget, max_gap=6)
    reach = min(6, table.reach)
    needed = sum(-(-shots(cuts).count(shot) // (2 * reach + 1)) for shot in set(shots(cuts)))
    assert len(key_indices(schedule)) <= max(allowance(range(frames), budget), needed)


@given(videos(), st.floats(0, 0.6))
def test_max_residual_holds_for_every_frame_with_as_few_key_frames_as_possible(
    video: tuple[int, list[bool], ResidualTable], limit: float
) -> None:
    frames, _, _ = video
    schedule = plan(video, max_residual=limit)
    assert all(carried.residual is not None and carried.residual <= limit for carried in schedule)
    for fewer in range(1, min(len(key_indices(schedule)), 3)) if frames <= 9 else ():
        for keys in combinations(range(frames), fewer):
            assert not _serves(keys, video, limit)


def _serves(keys: tuple[int, ...], video: tuple[int, list[bool], ResidualTable], limit: float) -> bool:
    frames, cuts, table = video
    shot = shots(cuts)
    for frame in range(frames):
        near = {max((k for k in keys if k <= frame), default=None), min((k for k in keys if k >= frame), default=None)}
        if not any(k is not None and shot[k] == shot[frame] and table.of(k, frame) <= limit for k in near):
            return False
    return True


@given(videos(), st.floats(0.01, 0.5))
def test_frames_that_nothing_explains_become_key_frames(
    video: tuple[int, list[bool], ResidualTable], above: float
) -> None:
    before, after = plan(video, budget="1/8"), plan(video, budget="1/8", promote_above=above)
    assert all(carried.residual is not None and carried.residual <= above for carried in after)
    promoted = {carried.frame for carried in after if carried.promoted}
    assert set(key_indices(after)) == set(key_indices(before)) | promoted
    assert not promoted & set(key_indices(before))
    worst = max(carried.residual or 0 for carried in before)
    assert bool(promoted) == (worst > above), "none where none is needed"


@given(st.integers(1, 200), st.integers(0, 99), st.data())
def test_a_video_cut_into_clips_has_the_schedule_of_one_piece(total: int, seed: int, data: st.DataObject) -> None:
    settings = data.draw(
        st.sampled_from(
            [
                config(budget="1/5", window=20, blend=True, promote_above=0.3),
                config(budget="1/7", window=30),
                config(max_residual=0.1, window=16),
                config(schedule="fixed", budget="1/5", window=12),
            ]
        )
    )
    random = np.random.default_rng(seed)
    cuts = list(random.random(total) < 0.05)
    table = table_of(seed, total, 8)

    def of_clip(start: int, end: int) -> list[Carried]:
        before, after = halo(start, end, total, settings.window_frames)
        seen = range(start - before, end + after)  # all that the clip decodes
        schedule = []
        for window in windows(start, end, total, settings.window_frames):
            assert window.start in seen
            assert window.stop - 1 in seen
            part = ResidualTable(table.values[window.start : window.stop])
            schedule += plan_window(window, cuts[window.start : window.stop], part, settings)
        return [carried for carried in schedule if start <= carried.frame < end]

    whole = of_clip(0, total)
    assert [carried.frame for carried in whole] == list(range(total))
    length = data.draw(st.integers(1, total))
    parts = [of_clip(start, min(start + length, total)) for start in range(0, total, length)]
    assert [carried for part in parts for carried in part] == whole


def test_fixed_is_the_papers_schedule_and_only_cuts_begin_anew() -> None:
    settings = config(schedule="fixed", budget="1/10", window=40)
    schedule = plan_window(range(40), [False] * 40, None, settings)
    assert key_indices(schedule) == [0, 10, 20, 30]
    assert [carried.key for carried in schedule] == [frame // 10 * 10 for frame in range(40)]
    assert {carried.side for carried in schedule} == {"key", "before"}
    assert schedule[7].residual is None
    later = plan_window(range(40, 80), [index == 3 for index in range(40)], None, settings)
    assert key_indices(later) == [40, 43, 50, 60, 70]
    assert later[6] == Carried(46, 43, None)


def test_fixed_notes_residuals_where_they_are_known() -> None:
    table = table_of(1, 20, 4)
    schedule = plan_window(range(20), [False] * 20, table, config(schedule="fixed", budget="1/10"))
    assert schedule[10].residual == 0
    assert schedule[13].residual == table.of(10, 13)
    assert schedule[19].residual is None, "beyond the table's reach"


def test_a_still_video_needs_one_key_frame_and_a_single_frame_is_one() -> None:
    still = ResidualTable(np.zeros((15, 41), np.float32))
    schedule = plan_window(range(15), [False] * 15, still, config(budget="1/5"))
    assert len(key_indices(schedule)) == 1
    assert plan((1, [False], table_of(0, 1, 3))) == (Carried(0, 0, 0.0),)


def test_even_motion_puts_key_frames_in_the_middle_of_what_they_serve() -> None:
    distance = np.abs(np.arange(-20, 21, dtype=np.float32))
    table = ResidualTable(np.tile(distance / 50, (40, 1)))
    schedule = plan_window(range(40), [False] * 40, table, config(budget="1/10"))
    gaps = [carried.gap for carried in schedule]
    assert max(gaps) == 5
    assert sum(gaps) == 4 * sum([1, 2, 3, 4, 5, 1, 2, 3, 4]), "each serves five frames on one side, four on the other"


def test_of_both_sides_the_better_weighs_more_and_a_perfect_one_stands_alone() -> None:
    values = np.full((5, 9), np.inf, np.float32)
    for key, frame, residual in [(0, 1, 0.1), (4, 1, 0.3), (0, 2, 0.2), (4, 2, 0.2), (0, 3, 0.4), (4, 3, 0.0)]:
        values[key, 4 + frame - key] = residual
    schedule = plan_window(range(5), [False] * 5, ResidualTable(values), config(budget="2/5", blend=True))
    assert key_indices(schedule) == [0, 4]
    one, two, three = schedule[1:4]
    assert (one.key, one.other, one.side) == (0, 4, "both")
    assert one.share == pytest.approx(0.9)
    assert (two.key, two.share) == (0, 0.5)
    assert (three.key, three.other, three.side, three.share) == (4, None, "after", 1.0)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.fractions(Fraction(1, 20), 1, max_denominator=40))
def test_windows_tile_the_video_and_their_allowances_add_up_to_the_budget(sizes: list[int], budget: Fraction) -> None:
    total, size = sum(sizes), sizes[0]
    tiles = windows(0, total, total, size)
    assert [frame for window in tiles for frame in window] == list(range(total))
    assert sum(allowance(window, budget) for window in tiles) == -(-total * budget.numerator // budget.denominator)
    clip = (sizes[0], total) if len(sizes) > 1 else (0, total)
    before, after = halo(*clip, total, size)
    assert (before, after) == (0, 0), "a clip of whole windows needs nothing around it"


def test_what_cannot_be_planned_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValidationError, match="above 0, up to 1"):
        KeyFramesConfig(budget=Fraction(0))
    with pytest.raises(ValidationError, match="wants 1/n"):
        KeyFramesConfig(schedule="fixed", budget=Fraction(2, 7))
    with pytest.raises(ValidationError, match="need schedule=lookahead"):
        KeyFramesConfig(schedule="fixed", blend=True)
    with pytest.raises(ValidationError, match="raise either"):
        KeyFramesConfig(budget=Fraction(1, 50), max_gap=20)
    with pytest.raises(ValidationError, match="no key frame"):
        KeyFramesConfig(window=5)
    with pytest.raises(ValueError, match="needs residuals"):
        plan_window(range(3), [False] * 3, None, config())
    with pytest.raises(ValueError, match="2 cut flags"):
        plan_window(range(3), [False] * 2, table_of(0, 3, 2), config())
    with pytest.raises(ValueError, match="multiples of interval=10"):
        plan_window(range(5, 8), [False] * 3, None, config(schedule="fixed"))
    with pytest.raises(ValueError, match="0 or more"):
        ResidualTable(np.full((3, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="expected"):
        ResidualTable(np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match="no such frames"):
        windows(3, 3, 9, 4)


def test_the_costs_of_the_longest_window_fit_into_integers() -> None:
    longest = 1000
    KeyFramesConfig(window=longest)
    with pytest.raises(ValidationError, match="less than or equal to 1000"):
        KeyFramesConfig(window=longest + 1)
    assert key_frames.STEPS * key_frames.LARGEST * longest < IMPOSSIBLE, "all frames at their worst are still possible"
    assert IMPOSSIBLE * (longest + 2) < 2**63
