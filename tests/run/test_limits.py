"""The limit on output: what counts, and what is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import InterpolateConfig
from pipeline.config_flow import FlowConfig
from pipeline.errors import ConfigError
from pipeline.run import limits
from pipeline.storage import Storage
from tests.media_factory import make_video, write_video
from tests.tasks.flow_support import task_of


def test_only_what_is_over_the_limit_is_refused() -> None:
    limits.refuse_above(None, 10**15, 1)
    limits.refuse_above(1000, 1000, 1)
    with pytest.raises(
        ConfigError, match=r"2 videos is estimated at .*1001 bytes.*limits.max_output_bytes=1000; raise"
    ):
        limits.refuse_above(1000, 1001, 2)


def test_a_job_without_the_key_has_no_limit() -> None:
    assert limits.of(InterpolateConfig()) is None
    assert limits.of(FlowConfig()) == 10**12


def test_videos_that_will_be_quarantined_count_as_nothing(tmp_path: Path) -> None:
    task, storage = task_of("unused"), Storage()
    good = write_video(tmp_path / "a.mp4", make_video(frames=6))
    bad = write_video(tmp_path / "b.mp4", b"not a video")
    assert limits.estimated(task, storage, good) > 5 * 2 * 64 * 48 * 0.3
    assert limits.estimated(task, storage, bad) == 0
