"""jobs/recognize.py as a user runs it: contracts 1 to 3, what is refused, and what a plan says."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.records import read_recognition
from pipeline.records.recognition_schema import RecognitionRecord
from tests.conftest import S3Env
from tests.e2e.support import ROOT, Cluster, Done, Job, Output, frames_of, no_traceback, upload, write
from tests.media_factory import cut, make_video
from tests.tasks.flow_support import cutting, tiny
from tests.tasks.recognize_support import CLASSES, detector, records, same, segmenter, task_of

__all__ = ["detector", "segmenter", "tiny"]

VIDEOS = {
    "cuts.mp4": make_video(frames=18, image=cutting, size=(96, 64), options={"crf": "10"}),
    "day1/a.mkv": make_video(container="matroska", frames=11, size=(66, 50), options={"x264-params": "bframes=3"}),
    "one.mp4": make_video(frames=1),
}
SETS = ("key_frames.window=8", "key_frames.budget=1/4", "resources.cpu_threads=1")


def run(
    source: object,
    output: object,
    sets: Sequence[str],
    flags: Sequence[str] = (),
    env: dict[str, str] | None = None,
    job: str = "recognize.py",
) -> Done:
    options = [part for text in sets for part in ("--set", text)]
    with Job([str(ROOT / "jobs" / job), str(source), str(output), *options, *flags], env) as process:
        return process.wait()


def found(output: Path) -> dict[tuple[str, int], RecognitionRecord]:
    return {(record.video_uri, record.frame_index): record for record in read_recognition(str(output))}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("in"), VIDEOS)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, source: Path, cluster: Cluster, segmenter: str) -> Path:
    """What a run that nothing disturbs makes."""
    folder = tmp_path_factory.mktemp("clean")
    sets = [f"model={segmenter}", *SETS, "clip.frames=5", "resources.actors=2", "preview=true"]
    done = run(source, folder, sets, env=cluster.job_env())
    assert done.code == 0, done.text
    assert "precision fp32: " in done.text
    assert "cuts.mp4.preview.mp4" in done.text
    return folder


def test_records_do_not_depend_on_clips_actors_or_files(
    clean: Path, source: Path, tmp_path: Path, cluster: Cluster, segmenter: str
) -> None:
    sets = [f"model={segmenter}", *SETS, "clip.frames=1000", "resources.actors=1", "files.group_below=0"]
    done = run(source, tmp_path, sets, env=cluster.job_env())
    assert done.code == 0, done.text
    assert sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "recognition").rglob("*.*")) == [
        "recognition/cuts.mp4.parquet", "recognition/day1/a.mkv.parquet", "recognition/one.mp4.parquet"
    ]  # fmt: skip
    one, other = found(clean), found(tmp_path)
    assert len(one) == 30
    assert one.keys() == other.keys()
    assert all(same(one[place], other[place]) for place in one)
    assert {record.kind for record in one.values()} == {"segmentation"}
    assert {record.classes for record in one.values()} == {CLASSES}


def test_a_second_run_does_nothing_and_another_configuration_is_refused(
    clean: Path, source: Path, cluster: Cluster, segmenter: str
) -> None:
    before = Output.of(clean).below("recognition/")
    sets = [f"model={segmenter}", *SETS, "clip.frames=5", "resources.actors=1", "preview=true"]
    again = run(source, clean, sets, env=cluster.job_env())
    assert again.code == 0, again.text
    assert "0 made" in again.text
    assert Output.of(clean).below("recognition/") == before
    refused = run(source, clean, [*sets, "key_frames.blend=true"], env=cluster.job_env())
    assert refused.code == 2, refused.text
    assert "key_frames.blend: there false, now true" in refused.text


def test_one_video_and_some_frames_are_read_alone(clean: Path) -> None:
    records = list(read_recognition(str(clean), video="cuts.mp4", frames=range(6, 9)))
    assert [record.frame_index for record in records] == [6, 7, 8]
    assert [record.shot for record in records] == [0, 1, 1]
    assert records[1].previous_pts is None
    assert records[1].key_pts >= records[1].pts, "its shot begins with it"


def test_the_files_open_without_our_code(clean: Path) -> None:
    (path,) = (clean / "recognition").glob("group-*.parquet")
    table = pq.read_table(path)
    assert table.num_rows == 30
    row = table.slice(0, 1).to_pylist()[0]
    assert sum(segment["area"] for segment in row["segments"]) == row["height"] * row["width"]
    assert {segment["class_name"] for segment in row["segments"]} <= set(CLASSES)
    assert row["is_key"] == (row["side"] == "key")


def test_a_run_is_exported_for_labelling_tools(clean: Path, source: Path, tmp_path: Path) -> None:
    export = str(ROOT / "jobs" / "recognize_export.py")
    with Job([export, str(clean), str(tmp_path / "all.json")]) as job:
        done = job.wait()
    assert (done.code, done.text.split()[0]) == (0, "30"), done.text
    assert len(json.loads((tmp_path / "all.json").read_text())["images"]) == 30
    folder = tmp_path / "folder"
    options = ["--format", "fiftyone", "--video", "cuts.mp4", "--every", "6"]
    with Job([export, str(clean), str(folder), *options, "--input", str(source)]) as job:
        done = job.wait()
    assert done.code == 0, done.text
    document = json.loads((folder / "labels.json").read_text())
    names = sorted(image["file_name"] for image in document["images"])
    assert [image["frame_index"] for image in document["images"]] == [0, 6, 12]
    assert [sorted(path.name for path in (folder / part).iterdir()) for part in ("data", "labels")] == [names, names]
    with Job([export, str(clean), str(folder), *options]) as job:
        done = job.wait()
    assert done.code == 2
    assert "give --input" in done.text


def test_flow_records_in_a_bucket_carry_features_instead_of_the_models_own_flow(
    clean: Path, s3_env: S3Env, cluster: Cluster, tiny: str, segmenter: str
) -> None:
    upload(s3_env.server.client(), s3_env.bucket, {f"in/{name}": data for name, data in VIDEOS.items()})
    env = cluster.job_env(**{name: value for name, value in os.environ.items() if name.startswith("AWS_")})
    source, flow, output = (f"{s3_env.uri}/{name}" for name in ("in", "flow", "out"))
    sets = [f"model={tiny}", "iterations=1", "resources.cpu_threads=1", "clip.frames=7"]
    done = run(source, flow, sets, env=env, job="flow.py")
    assert done.code == 0, done.text
    sets = [f"model={segmenter}", *SETS, "clip.frames=5", "flow=records", f"records.output={flow}"]
    done = run(source, output, sets, env=env)
    assert done.code == 0, done.text

    own = {(place[0].rpartition("/")[2], place[1]): record for place, record in found(clean).items()}
    differing = 0
    for record in read_recognition(output):
        other = own.pop((record.video_uri.rpartition("/")[2], record.frame_index))
        assert (record.is_key, record.key_pts, record.side) == (other.is_key, other.key_pts, other.side)
        assert record.labels is not None
        assert other.labels is not None
        if record.is_key:
            assert (record.labels == other.labels).all()
            assert record.flops == other.flops
        else:
            assert record.flops < other.flops, "no flow network runs"
            differing += bool((record.labels != other.labels).any())
    assert not own, "frames without a record"
    assert differing > 5, "the recorded flow carries features elsewhere than the model's own"


def test_objects_are_detected_the_same_in_any_clips_and_can_be_looked_at(
    source: Path, tmp_path: Path, cluster: Cluster, detector: str
) -> None:
    sets = [f"model={detector}", "task=detection", *SETS, "min_score=0.3"]
    done = run(source / "cuts.mp4", tmp_path / "out", [*sets, "clip.frames=5", "preview=true"], env=cluster.job_env())
    assert done.code == 0, done.text
    whole = records(task_of(detector, *sets[1:]), VIDEOS["cuts.mp4"], tmp_path / "whole")
    made = list(read_recognition(str(tmp_path / "out")))
    assert [record.frame_index for record in made] == list(range(18))
    for record, other in zip(made, whole, strict=True):
        assert record.kind == "detection"
        assert record.detections is not None
        assert other.detections is not None
        assert record.detections.boxes.tobytes() == other.detections.boxes.tobytes()
        assert record.detections.scores.tobytes() == other.detections.scores.tobytes()
    assert sum(len(record.detections or ()) for record in made) > 18
    assert len(frames_of(tmp_path / "out" / "recognition" / "cuts.mp4.preview.mp4")) == 18


def test_a_damaged_video_is_quarantined_and_its_good_frames_are_kept(
    tmp_path: Path, cluster: Cluster, segmenter: str
) -> None:
    data = make_video(container="matroska", frames=40, size=(128, 96), options={"x264-params": "bframes=0"})
    write(tmp_path / "in", {"cut.mkv": cut(data, 0.5), "good.mp4": VIDEOS["one.mp4"]})
    sets = [f"model={segmenter}", *SETS, "clip.frames=8"]
    done = run(tmp_path / "in", tmp_path / "out", sets, env=cluster.job_env())
    assert done.code == 3, done.text
    output = Output.of(tmp_path / "out")
    (row,) = [row for row in output.quarantine() if row["clip"] is None]
    assert row["uri"].endswith("cut.mkv")
    assert {record.video_uri.rpartition("/")[2] for record in read_recognition(str(tmp_path / "out"))} == {"good.mp4"}


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (("budget=1/5", "key_frames.budget=2"), ("budget", "unknown key", "key_frames.budget=2")),
        (("model=no-such-model",), ("no-such-model",)),
        (("model=cain-compact",), ("cain-compact", "not a Deep Feature Flow checkpoint")),
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


def test_a_plan_says_what_would_be_made(source: Path, tmp_path: Path, segmenter: str) -> None:
    done = run(source, tmp_path / "out", [f"model={segmenter}"], ["--plan"])
    assert done.code == 0, done.text
    assert "30 out, about 0." in done.text
    assert "TFLOP" in done.text
    assert not Output.of(tmp_path / "out").files
