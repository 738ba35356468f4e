"""The limit on output: what counts, and what is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import InterpolateConfig, LimitsConfig, load
from pipeline.config_flow import FlowConfig
from pipeline.config_recognize import RecognizeConfig
from pipeline.errors import ConfigError
from pipeline.run import limits
from pipeline.storage import Storage
from tests.media_factory import make_video, write_video
from tests.tasks.flow_support import task_of


def test_only_what_is_over_the_limit_is_refused() -> None:
    limits.refuse_above(LimitsConfig(), 10**15, 10**6, 1)
    limits.refuse_above(LimitsConfig(max_output_bytes=1000, max_hours=1), 1000, 1, 1)
    limits.refuse_above(LimitsConfig(max_hours=1), 1000, None, 1)
    with pytest.raises(
        ConfigError, match=r"2 videos is estimated at .*1001 bytes.*limits.max_output_bytes=1000; raise"
    ):
        limits.refuse_above(LimitsConfig(max_output_bytes=1000), 1001, None, 2)
    with pytest.raises(ConfigError, match=r"1.5 actor-hours on 2 videos, more than limits.max_hours=1; raise"):
        limits.refuse_above(LimitsConfig(max_hours=1), 0, 1.5, 2)


def test_records_have_a_limit_unless_it_is_taken_away() -> None:
    assert InterpolateConfig().limits == LimitsConfig(max_output_bytes=None, max_hours=None)
    assert FlowConfig().limits.max_output_bytes == RecognizeConfig().limits.max_output_bytes == 10**12
    assert load(FlowConfig, None, ["limits.max_hours=2"]).limits.max_output_bytes == 10**12
    assert load(InterpolateConfig, None, ["limits.max_hours=2"]).limits.max_output_bytes is None


def test_videos_that_will_be_quarantined_count_as_nothing(tmp_path: Path) -> None:
    task, storage = task_of("unused"), Storage()
    good = write_video(tmp_path / "a.mp4", make_video(frames=6))
    bad = write_video(tmp_path / "b.mp4", b"not a video")
    found = limits.estimated(task, storage, good, work=False)
    assert found.size > 5 * 2 * 64 * 48 * 0.3
    assert (found.flops, found.pixels) == (0, 6 * 64 * 48)
    assert limits.estimated(task, storage, bad) == limits.Cost()
