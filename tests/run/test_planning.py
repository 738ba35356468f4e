"""--plan: what would be done and what it would cost, and nothing done."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import InterpolateConfig, load
from pipeline.errors import ConfigError, InputNotFound
from pipeline.layout import Layout
from pipeline.plan.discover import discover
from pipeline.run import calibration, planning
from pipeline.run.planning import Ask
from pipeline.storage import Storage
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.types import VideoRef
from tests.media_factory import make_video


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOTIONMILL_CALIBRATION", str(tmp_path / "cache"))
    return tmp_path / "cache"


def task_of(*overrides: str) -> InterpolateTask:
    return InterpolateTask(load(InterpolateConfig, None, ["model=blend", *overrides]))


def calibrate(task: InterpolateTask, **changes: Any) -> calibration.Calibration:
    """Kept in the user's cache: 0.36 s of the model and 0.72 s of an actor for each output frame of 64x48."""
    blank = calibration.blank(task, "cpu", 0, 2, 3)
    found = replace(
        blank, clips=2, frames=50, rows=100, pixels=100 * 64 * 48, model_s=36.0, actor_s=72.0, output_bytes=200_000,
        **changes,
    )  # fmt: skip
    calibration.write(calibration.cached(found), json.dumps(asdict(found)).encode())
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.mp4").write_bytes(make_video(frames=24, rate=24))
    (source / "b.mkv").write_bytes(make_video(container="matroska", frames=10, rate=25))
    return source


def planned(task: InterpolateTask, folder: Path, measure: bool = False) -> dict[str, Any]:
    path = folder.parent / "plan.json"
    assert planning.show(task, str(folder), str(folder.parent / "out"), Ask(str(path), measure)) == 0
    return dict(json.loads(path.read_text()))


def test_every_video_and_the_totals_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planning.show(task_of("clip.frames=10"), str(folder), str(folder.parent / "out")) == 0
    header, first, second, *totals = capsys.readouterr().out.splitlines()
    assert header.split() == ["frames", "seconds", "out", "clips", "MB", "TFLOP", "hours", "video"]
    assert first.split()[:4] == ["24", "1.00", "48", "3/3"]
    assert "a.mp4: h264 64x48 yuv420p" in first
    assert second.split()[:4] == ["10", "0.40", "20", "1/1"]
    assert first.index("a.mp4") == second.index("b.mkv"), "columns are aligned"
    assert "2 videos" in totals[0]
    assert "34 frames in, 4 clips, 68 out, about " in totals[0]
    assert "; 0 videos done before, 0 would be quarantined" in totals[0]
    assert "no calibration yet" in totals[1]


def test_the_json_says_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "text.mp4").write_text("not a video")
    assert planning.show(task_of("clip.frames=10"), str(folder), str(folder.parent / "out"), Ask("-")) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert "34 frames in" in shown.err, "the table goes elsewhere"
    assert document["totals"] | {"output_bytes": 0} == {
        "videos": 2, "frames": 34, "footage_s": 1.4, "rows": 68, "clips": 4, "clips_done": 0, "output_bytes": 0,
        "flops": 0, "pixels": 68 * 64 * 48, "done_before": 0, "refused": 1,
    }  # fmt: skip
    assert [(video["name"], video["frames"], video["clips"]) for video in document["videos"]] == [
        ("a.mp4", 24, 3), ("b.mkv", 10, 1),
    ]  # fmt: skip
    assert document["refused"][0]["error_type"] == "UnreadableVideo"
    assert (document["estimate"], document["task"], document["model"]) == (None, "interpolate", "blend")


def test_hours_and_bytes_come_from_a_calibration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = calibrate(task_of())
    document = planned(task_of(), folder)
    estimate = document["estimate"]
    assert estimate["model_hours"] == pytest.approx(68 * 0.36 / 3600, rel=1e-4)
    assert estimate["actor_hours"] == pytest.approx(68 * 0.72 / 3600, rel=1e-4)
    assert estimate["cpu_hours"] == pytest.approx(2 * 68 * 0.72 / 3600, rel=1e-4), "two threads an actor"
    assert estimate["wall_hours"] == pytest.approx(68 * 0.72 / 3600 / 3, rel=1e-4), "three actors"
    assert estimate["from"] == str(calibration.cached(found))
    assert document["totals"]["output_bytes"] == 68 * 2000
    assert sum(video["actor_hours"] for video in document["videos"]) == pytest.approx(estimate["actor_hours"], rel=1e-4)
    text = capsys.readouterr().out
    assert "CPU-hours" in text
    assert str(calibration.cached(found)) in text, "which one is said"
    other = planned(task_of("encode.crf=30"), folder)
    assert other["estimate"]["model_hours"] == estimate["model_hours"]
    assert other["totals"]["output_bytes"] != 68 * 2000, "another configuration's files have other sizes"


def test_what_an_adaptive_model_spent_before_says_what_it_will_spend(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_of("model=cain-sd-compact")
    calibrate(task, flops=4 * 10**12, spent_flops=10**12)
    document = planned(task, folder)
    most = document["totals"]["flops"]
    assert document["estimate"]["flops"] == pytest.approx(most / 4, abs=1)
    text = capsys.readouterr().out
    assert f"{most / 1e12:.2f} TFLOP at most, {most / 4e12:.2f} going by what earlier runs spent;" in text
    other = planned(task_of("model=cain-sd-compact", "quality=0.1"), folder)
    assert other["estimate"]["flops"] == other["totals"]["flops"], "another quality spends other shares"
    assert "going by" not in capsys.readouterr().out


def test_clips_that_are_committed_need_no_model_any_more(folder: Path) -> None:
    task = task_of("clip.frames=10")
    calibrate(task)
    storage, layout = Storage(), Layout(str(folder.parent / "out"))
    video = next(item for item in discover(str(folder), task.config.input, storage) if isinstance(item, VideoRef))
    for name in ("000000-0-1", "000001-1-2"):
        storage.put(layout.clip_commit(video.video_id, name), b"{}")
    document = planned(task, folder)
    assert [(found["clips"], found["clips_done"]) for found in document["videos"]] == [(3, 2), (1, 0)]
    assert document["totals"]["clips_done"] == 2
    assert document["estimate"]["model_hours"] == pytest.approx((48 / 3 + 20) * 0.36 / 3600, rel=1e-3)
    storage.put(layout.video_commit(video.video_id), b"{}")
    document = planned(task, folder)
    assert [found["name"] for found in document["videos"]] == ["b.mkv"]
    assert document["totals"]["done_before"] == 1


def test_without_a_calibration_the_model_can_be_measured(folder: Path, cache: Path) -> None:
    before = sorted(path for path in folder.parent.rglob("*"))
    document = planned(task_of(), folder, measure=True)
    assert document["estimate"]["from"] == "measured just now"
    assert document["estimate"]["actor_hours"] >= document["estimate"]["model_hours"] > 0
    assert sorted(folder.parent.rglob("*")) == sorted([*before, folder.parent / "plan.json"]), "and nothing is kept"


def test_a_plan_over_a_limit_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibrate(task_of())
    out = str(folder.parent / "out")
    hours = 68 * 0.36 / 3600
    assert planning.show(task_of(f"limits.max_hours={hours * 1.01}"), str(folder), out) == 0
    with pytest.raises(ConfigError, match=r"0\.0068 actor-hours on 2 videos, more than limits\.max_hours=0\.006"):
        planning.show(task_of(f"limits.max_hours={hours * 0.99}"), str(folder), out)
    with pytest.raises(ConfigError, match=r"136000 bytes\), more than limits\.max_output_bytes=135999"):
        planning.show(task_of("limits.max_output_bytes=135999"), str(folder), out)
    assert "plan     2 videos" in capsys.readouterr().out, "after the totals"


def test_a_json_file_that_cannot_be_written_is_wrong_usage(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--plan-json /nowhere/plan\.json"):
        planning.show(task_of(), str(folder), str(folder.parent / "out"), Ask("/nowhere/plan.json"))


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
