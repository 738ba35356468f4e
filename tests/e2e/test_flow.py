"""jobs/flow.py as a user runs it: contracts 1 to 3, what is refused, and what a plan says."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.records import read_flow
from pipeline.records.flow import read_flow_file
from pipeline.records.flow_files import flo_bytes
from tests.e2e.support import (
    ROOT,
    Cluster,
    Done,
    Job,
    Output,
    no_traceback,
    until,
    workers,
    working,
    write,
)
from tests.media_factory import cut, faststart, make_video, scramble
from tests.tasks.flow_support import cutting, same, tiny

__all__ = ["tiny"]

FAST = ("iterations=1", "resources.cpu_threads=1")
X264 = {"preset": "ultrafast"}
VIDEOS = {
    "cuts.mp4": make_video(frames=23, image=cutting, options={"crf": "10"}),
    "day1/a.mkv": make_video(container="matroska", frames=17, size=(66, 50), options={"x264-params": "bframes=3"}),
    "one.mp4": make_video(frames=1),
    "two.mp4": make_video(frames=2, size=(130, 34)),
}


def arguments(source: object, output: object, sets: Sequence[str], flags: Sequence[str] = ()) -> list[str]:
    options = [part for text in (*FAST, *sets) for part in ("--set", text)]
    return [str(ROOT / "jobs" / "flow.py"), str(source), str(output), *options, *flags]


def run(
    source: object,
    output: object,
    sets: Sequence[str],
    flags: Sequence[str] = (),
    env: dict[str, str] | None = None,
) -> Done:
    with Job(arguments(source, output, sets, flags), env) as job:
        return job.wait()


def check_settled(output: Output) -> None:
    """Commits and objects name each other, and nothing else is left."""
    named: dict[str, dict[str, Any]] = {}
    for commit in output.commits.values():
        if commit["status"] == "ok":
            assert commit["outputs"], commit
            named |= {part["path"]: part for part in commit["outputs"]}
    assert sorted(named) == sorted(output.below("flow/"))
    for path, part in named.items():
        assert hashlib.sha256(output.files[path]).hexdigest() == part["sha256"]
    for left in ("ungrouped/", "attempts/", "probe-"):
        assert not output.below(f"_motionmill/{left}"), left
    assert all(json.loads(output.files[path])["done"] for path in output.below("_motionmill/groups/"))
    bad = {commit["video_id"] for commit in output.commits.values() if commit["status"] == "error"}
    clips = [json.loads(output.files[path]) for path in output.below("_motionmill/commit/")]
    assert {clip["video_id"] for clip in clips} <= bad


def content(output: Output) -> dict[str, str]:
    """Digests of records and previews."""
    return {path: hashlib.sha256(output.files[path]).hexdigest() for path in output.below("flow/")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("in"), VIDEOS)


SETS = ("clip.frames=3", "resources.actors=2", "preview=true")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, source: Path, cluster: Cluster, tiny: str) -> Path:
    """What a run that nothing disturbs makes."""
    folder = tmp_path_factory.mktemp("clean")
    done = run(source, folder, [f"model={tiny}", *SETS], env=cluster.job_env())
    assert done.code == 0, done.text
    assert "precision fp32: " in done.text
    assert "group-000000.parquet" in done.text
    assert "cuts.mp4.preview.mp4" in done.text
    return folder


def test_records_do_not_depend_on_clips_actors_or_files(
    clean: Path, source: Path, tmp_path: Path, cluster: Cluster, tiny: str
) -> None:
    check_settled(Output.of(clean))
    sets = [f"model={tiny}", "clip.frames=1000", "resources.actors=1", "files.group_below=0"]
    done = run(source, tmp_path, sets, env=cluster.job_env())
    assert done.code == 0, done.text
    output = Output.of(tmp_path)
    check_settled(output)
    assert output.below("flow/") == [
        "flow/cuts.mp4.parquet", "flow/day1/a.mkv.parquet", "flow/one.mp4.parquet", "flow/two.mp4.parquet"
    ]  # fmt: skip
    whole = {(record.video_id, record.frame_index): record for record in read_flow(str(tmp_path))}
    parts = {(record.video_id, record.frame_index): record for record in read_flow(str(clean))}
    assert len(whole) == 23 + 17 + 1 + 2
    assert whole.keys() == parts.keys()
    for key, record in whole.items():
        assert same(record, parts[key]), key
    assert [record.shot for record in read_flow(str(clean), "cuts.mp4")] == [index // 7 for index in range(23)]
    (frame,) = read_flow(str(clean), "day1/a.mkv", 16)
    assert frame.flow_forward is None
    assert frame.flow_backward is not None
    assert np.isfinite(frame.flow_backward).all()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    clean: Path, source: Path, tmp_path: Path, cluster: Cluster, tiny: str
) -> None:
    command = arguments(source, tmp_path, [f"model={tiny}", *SETS])
    state = tmp_path / "_motionmill"

    def commits() -> set[str]:
        return {path.name for folder in ("commit", "videos") for path in (state / folder).rglob("*.json")}

    with Job(command, cluster.job_env()) as job:
        until(lambda: len(commits()) >= 3, "3 commits", job)
        os.kill(job.process.pid, signal.SIGKILL)
        job.process.wait(60)
        until(lambda: not working(workers(cluster.process.pid)), "the end of its workers", limit_s=120)
    kept = commits()
    assert kept
    named = {part["path"] for commit in Output.of(tmp_path).commits.values() for part in commit["outputs"]}
    seen = list(read_flow(str(tmp_path)))  # what is finished can be read, and nothing else is seen
    assert bool(seen) == bool(named)
    with Job(command, cluster.job_env()) as job:
        victims = until(lambda: workers(cluster.process.pid), "workers", job)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victims[0], signal.SIGKILL)
        done = job.wait()
    assert done.code == 0, done.text
    assert "resuming" in done.text
    output = Output.of(tmp_path)
    check_settled(output)
    assert content(output) == content(Output.of(clean)), "the same files, byte for byte"
    with Job(command, cluster.job_env()) as job:
        again = job.wait()
    assert again.code == 0, again.text
    assert "clips      0 made" in again.text
    assert content(Output.of(tmp_path)) == content(output)


def test_broken_videos_are_set_aside_with_their_good_beginning(tmp_path: Path, cluster: Cluster, tiny: str) -> None:
    quiet = {**X264, "x264-params": "bframes=0:threads=1"}
    videos = {
        "good.mp4": make_video(frames=6, options=X264),
        "cut.mp4": cut(faststart(frames=40, options=X264, size=(128, 96)), 0.7),
        "noisy.mkv": scramble(make_video(container="matroska", frames=40, options=quiet, size=(128, 96)), 0.6, 2000),
        "text.mp4": b"not a video",
    }
    source = write(tmp_path / "in", videos)
    done = run(source, tmp_path / "out", [f"model={tiny}", "clip.frames=8"], env=cluster.job_env())
    assert done.code == 3, done.text
    output = Output.of(tmp_path / "out")
    check_settled(output)
    rows = {row["uri"].rpartition("/")[2]: row for row in output.quarantine() if row["clip"] is None}
    assert sorted(rows) == ["cut.mp4", "noisy.mkv", "text.mp4"]
    assert rows["text.mp4"]["stage"] == "probe"
    for name in ("cut.mp4", "noisy.mkv"):
        row = rows[name]
        assert row["prefix_uri"].endswith(f"_motionmill/quarantine/flow/{name}.parquet")
        kept = list(read_flow_file(row["prefix_uri"]))
        assert [record.frame_index for record in kept] == list(range(row["prefix_frames"]))
        assert len(kept) > 3
    assert {record.video_uri.rpartition("/")[2] for record in read_flow(str(tmp_path / "out"))} == {"good.mp4"}


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (("iteration=2", "max_error_px=0"), ("iteration", "unknown key", "iterations", "max_error_px=0")),
        (("stored_scale=1/3", "files.file_bytes=1000"), ("stored_scale=1/3", "files.file_bytes")),
        (("model=no-such-model",), ("no-such-model",)),
        (("model=cain-compact",), ("cain-compact", "not a MEMFOF")),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_before_any_work(
    source: Path, tmp_path: Path, sets: tuple[str, ...], says: tuple[str, ...]
) -> None:
    done = run(source, tmp_path / "out", sets)
    assert done.code == 2, done.text
    assert no_traceback(done.text), done.text
    for text in says:
        assert text in done.text
    assert not Output.of(tmp_path / "out").files


def test_an_output_over_the_limit_is_refused_in_the_plan_and_in_the_run(
    source: Path, tmp_path: Path, cluster: Cluster, tiny: str
) -> None:
    write(tmp_path / "in", {**VIDEOS, "text.mp4": b"not a video"})
    plan = run(tmp_path / "in", tmp_path / "out", [f"model={tiny}"], ["--plan"])
    assert plan.code == 0, plan.text
    assert "43 out, about 0." in plan.text
    assert "1 would be quarantined" in plan.text
    sets = [f"model={tiny}", "limits.max_output_bytes=50000"]
    for done in (
        run(tmp_path / "in", tmp_path / "out", sets, ["--plan"]),
        run(tmp_path / "in", tmp_path / "out", sets, env=cluster.job_env()),
    ):
        assert done.code == 2, done.text
        assert "limits.max_output_bytes=50000" in done.text
        assert "stored_scale" in done.text
        assert no_traceback(done.text)
    assert not Output.of(tmp_path / "out").files


def test_another_configuration_in_the_same_place_is_refused(
    clean: Path, source: Path, cluster: Cluster, tiny: str
) -> None:
    sets = [f"model={tiny}", *SETS, "max_error_px=1/32", "limits.max_output_bytes=null"]
    done = run(source, clean, sets, env=cluster.job_env())
    assert done.code == 2, done.text
    assert 'max_error_px: there "1/64", now "1/32"' in done.text
    assert "limits" not in done.text.split("differ in")[1], "what changes no output byte is no difference"


def test_a_run_s_fields_are_exported_as_files(clean: Path, tmp_path: Path) -> None:
    command = [str(ROOT / "jobs" / "flow_export.py"), str(clean), str(tmp_path), "--format", "kitti"]
    with Job([*command, "--video", "two.mp4"]) as job:
        done = job.wait()
    assert done.code == 0, done.text
    assert "2 files in" in done.text
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")) == [
        "two.mp4/backward/000001.png", "two.mp4/forward/000000.png"
    ]  # fmt: skip
    with Job([*command, "--video", "no.mp4"]) as job:
        done = job.wait()
    assert done.code == 2, done.text
    assert no_traceback(done.text)


def test_a_run_is_evaluated_against_a_benchmark_s_truth(clean: Path, tmp_path: Path) -> None:
    """A truth in Sintel's layout that is off by 1, 2, … px: each error belongs to its video and frame."""
    for video, frames in (("cuts.mp4", (0, 8)), ("day1/a.mkv", (0, 15)), ("two.mp4", (0,))):
        for record in read_flow(str(clean), video, frames, directions="forward"):
            assert record.flow_forward is not None
            truth = record.flow_forward + np.float32([[[0]], [[1 + record.frame_index]]])
            name = f"{Path(video).stem}/frame_{1 + record.frame_index:04d}.flo"
            write(tmp_path / "gt" / "flow", {name: flo_bytes(truth)})
    command = [str(ROOT / "jobs" / "evaluate.py"), "flow", str(clean), str(tmp_path / "gt")]
    with Job([*command, "--json", str(tmp_path / "scores.json")]) as job:
        done = job.wait()
    assert done.code == 0, done.text
    assert "mean over pairs" in done.text
    scores = {pair["pair"]: pair["all"]["epe"] for pair in json.loads((tmp_path / "scores.json").read_text())["pairs"]}
    assert scores == pytest.approx(
        {"a/frame_0001": 1, "a/frame_0016": 16, "cuts/frame_0001": 1, "cuts/frame_0009": 9, "two/frame_0001": 1},
        abs=1e-5,
    )
    write(tmp_path / "end" / "flow", {"cuts/frame_0007.flo": flo_bytes(truth)})  # a shot's last frame
    with Job([*command[:-1], str(tmp_path / "end")]) as job:
        done = job.wait()
    assert done.code == 2, done.text
    assert "frame 6 of cuts has no forward flow" in done.text
    assert no_traceback(done.text)


def test_the_files_open_without_our_code(clean: Path) -> None:
    (path,) = (clean / "flow").glob("*.parquet")
    table = pq.read_table(path, columns=["video_uri", "frame_index", "pts", "unit", "model"])
    assert table.num_rows == 43
    assert set(table["unit"].to_pylist()) == {"px of the full frame"}
