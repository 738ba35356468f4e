"""--plan: what would be done, and nothing done."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import InterpolateConfig, load
from pipeline.errors import InputNotFound
from pipeline.run import planning
from pipeline.tasks.interpolate import InterpolateTask
from tests.media_factory import make_video


def task_of(*overrides: str) -> InterpolateTask:
    return InterpolateTask(load(InterpolateConfig, None, ["model=blend", *overrides]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.mp4").write_bytes(make_video(frames=24, rate=24))
    (source / "b.mkv").write_bytes(make_video(container="matroska", frames=10, rate=25))
    return source


def test_every_video_and_the_totals_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planning.show(task_of("clip.frames=10"), str(folder), str(folder.parent / "out")) == 0
    text = capsys.readouterr().out
    assert "a.mp4: h264 64x48 yuv420p, 24 frames in 1.00 s -> 48" in text
    assert "b.mkv: h264 64x48 yuv420p, 10 frames in 0.40 s -> 20" in text
    assert "2 videos" in text
    assert "34 frames in, 4 clips, 68 out, about " in text
    assert "; 0 done before, 0 would be quarantined" in text


def test_the_output_is_not_touched(folder: Path) -> None:
    before = sorted(folder.parent.rglob("*"))
    planning.show(task_of(), str(folder), str(folder.parent / "out"))
    assert sorted(folder.parent.rglob("*")) == before


def test_what_would_be_quarantined_is_named_with_its_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "text.mp4").write_text("not a video")
    (folder / "empty.mp4").write_bytes(b"")
    assert planning.show(task_of(), str(folder), str(folder.parent / "out")) == 0
    text = capsys.readouterr().out
    refused = [line for line in text.splitlines() if line.startswith("refused")]
    assert len(refused) == 2
    assert any("text.mp4" in line and "UnreadableVideo" in line for line in refused)
    assert "2 would be quarantined" in text


def test_videos_over_a_limit_are_refused_in_the_plan_as_in_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planning.show(task_of("input.max_frames=12"), str(folder), str(folder.parent / "out"))
    text = capsys.readouterr().out
    assert "LimitExceeded" in text
    assert "1 videos" in text


def test_a_missing_input_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound):
        planning.show(task_of(), str(tmp_path / "nowhere"), str(tmp_path / "out"))
