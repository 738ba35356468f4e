"""The limit on output: what counts, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import pytest

from pipeline.config import InterpolateConfig, LimitsConfig, load
from pipeline.config_flow import FlowConfig
from pipeline.config_recognize import RecognizeConfig
from pipeline.errors import ConfigError
from pipeline.media import probe
from pipeline.run import limits
from pipeline.run.datasource import VideoSource
from pipeline.run.plans import Kept
from pipeline.run.rows import Row, row_from
from pipeline.run.worker import RunContext
from pipeline.storage import Storage
from pipeline.types import VideoInfo, VideoRef
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
    assert found is not None
    cost, _ = found
    assert cost.size > 5 * 2 * 64 * 48 * 0.3
    assert (cost.flops, cost.pixels) == (0, 6 * 64 * 48)
    assert limits.estimated(task, storage, bad) is None


def test_headers_that_were_read_for_the_limits_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, storage = task_of("unused"), Storage()
    videos = [write_video(tmp_path / f"{name}.mp4", make_video(frames=6)) for name in "ab"]
    context = RunContext(task, storage, str(tmp_path / "out"), "session", "fingerprint")

    def rows(kept: Kept) -> list[Row]:
        tasks = VideoSource(context, videos, resume=False, kept=kept).get_read_tasks(1)
        return [row_from(item.as_py()) for task in tasks for table in task() for item in table["item"]]

    fresh = rows(Kept())
    assert {row.kind for row in fresh} == {"clip"}
    estimates = {video.video_id: limits.estimated(task, storage, video, work=False) for video in videos}
    plans = {video_id: found[1] for video_id, found in estimates.items() if found is not None}
    whole, half = Kept(), Kept(room=len(plans[videos[0].video_id]))
    whole.add(plans)
    half.add(plans)
    assert (len(whole), len(half)) == (2, 1)

    looked_at: list[str] = []
    real = probe.probe

    def counted(source: BinaryIO, video: VideoRef, *rest: Any) -> VideoInfo:
        looked_at.append(video.name)
        return real(source, video, *rest)

    monkeypatch.setattr("pipeline.run.plans.probe", counted)
    assert rows(whole) == fresh
    assert looked_at == []
    assert rows(half) == fresh
    assert looked_at == ["b.mp4"], "what found no room is read again"
