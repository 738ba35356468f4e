"""Contract 5: a worker's peak memory is a function of the configuration, not of the video's length."""

from __future__ import annotations

import pytest

from pipeline.benchmark import memory
from tests.e2e.support import FAST


@pytest.mark.slow
def test_many_clips_of_1080p_need_no_more_memory_than_one() -> None:
    one, many = memory([*FAST, "clip.frames=20"], (10, 200), rate=2)
    assert (one.frames, many.frames) == (20, 400)
    assert many.peak_rss < 1.05 * one.peak_rss, "left alone, glibc takes half as much again after twenty clips"
