"""Schedules of clips from pictures made by code, cut and joined in every way."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import CutsConfig
from pipeline.config_recognize import KeyFramesConfig
from pipeline.plan.key_schedule import ClipSchedule, schedule_clip
from pipeline.plan.key_windows import halo
from tests.plan.test_shots import Picture, scene

FRAMES = 53
SHOTS = (0, 17, 36)
CONFIGS = [
    KeyFramesConfig.model_validate(settings)
    for settings in (
        {"budget": "1/5", "window": 20, "blend": True},
        {"max_residual": 0.15, "window": 16},
        {"schedule": "fixed", "budget": "1/6", "window": 12},
        {"budget": "1/10", "window": 60},
    )
]


@cache
def video() -> tuple[Picture, ...]:
    """Three shots, panned at different speeds; small pictures, since cut detection searches."""
    shots = [sum(frame >= start for start in SHOTS) - 1 for frame in range(FRAMES)]
    return tuple(
        scene(1 + shot, dx=(0.2, 1.5, 0.6)[shot] * (frame - SHOTS[shot]), size=(24, 40))
        for frame, shot in enumerate(shots)
    )


def scheduled(start: int, end: int, config: KeyFramesConfig, until: int = FRAMES) -> ClipSchedule:
    """The clip's schedule, of a video that can be decoded up to frame `until`."""
    before, after = halo(start, end, FRAMES, config.window_frames)
    first = max(0, start - before - 1)
    pictures = video()[first : min(end + after, until)]
    return schedule_clip(range(start, end), FRAMES, first, pictures, CutsConfig(), config)


@settings(max_examples=10)
@given(st.sampled_from(CONFIGS), st.integers(2, FRAMES))
def test_clips_of_any_length_make_the_schedule_of_one_piece(config: KeyFramesConfig, length: int) -> None:
    whole = scheduled(0, FRAMES, config)
    parts = [scheduled(start, min(start + length, FRAMES), config) for start in range(0, FRAMES, length)]
    assert [carried for part in parts for carried in part.frames] == list(whole.frames)
    assert frozenset().union(*(part.starts for part in parts)) == whole.starts == {*SHOTS}


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_key_frames_that_a_clip_needs_are_named_and_lie_in_what_it_decodes(config: KeyFramesConfig) -> None:
    whole = scheduled(0, FRAMES, config)
    assert set(whole.keys) == {carried.frame for carried in whole.frames if carried.is_key}
    for start in range(0, FRAMES, 13):
        end = min(start + 13, FRAMES)
        clip = scheduled(start, end, config)
        before, after = halo(start, end, FRAMES, config.window_frames)
        assert set(clip.keys) <= set(whole.keys) & set(range(start - before, end + after))
        assert {carried.key for carried in clip.frames} <= set(clip.keys)


def test_shots_are_kept_apart_and_fast_ones_get_more_key_frames() -> None:
    schedule = scheduled(0, FRAMES, CONFIGS[3])
    shot = [sum(frame >= start for start in SHOTS) for frame in range(FRAMES)]
    assert all(shot[carried.key] == shot[carried.frame] for carried in schedule.frames)
    keys = [shot[key] for key in schedule.keys]
    assert keys.count(2) > keys.count(1) >= 1


@pytest.mark.parametrize("until", [1, 13, 38])
def test_where_decoding_ended_early_the_good_frames_are_scheduled_however_they_were_cut(until: int) -> None:
    config = CONFIGS[0]
    whole = scheduled(0, FRAMES, config, until)
    assert [carried.frame for carried in whole.frames] == list(range(until))
    assert max(whole.keys) < until
    parts = [scheduled(start, min(start + 9, FRAMES), config, until) for start in range(0, until, 9)]
    assert [carried for part in parts for carried in part.frames] == list(whole.frames)


def test_without_cut_detection_features_are_carried_through_and_without_the_halo_nothing_is_planned() -> None:
    config = CONFIGS[2]
    schedule = schedule_clip(range(FRAMES), FRAMES, 0, video(), CutsConfig(detect=False), config)
    assert schedule.keys == tuple(range(0, FRAMES, 6))
    assert schedule.starts == {0}
    with pytest.raises(ValueError, match="decode the halo too"):
        schedule_clip(range(13, 20), FRAMES, 13, video()[13:24], CutsConfig(), config)
