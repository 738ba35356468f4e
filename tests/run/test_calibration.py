"""What work costs: measured on receipts, kept beside the output and in the user's cache, found again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.config import InterpolateConfig, load
from pipeline.layout import Layout
from pipeline.media.probe import probe
from pipeline.run import calibration, calibrator
from pipeline.run.calibration import Calibration
from pipeline.run.calibrator import FIRST_CLIPS, Calibrator
from pipeline.run.cluster import Placement
from pipeline.run.rows import Receipt, Row, Times, headers_only
from pipeline.storage import Storage
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.types import ClipRef, KeyPacket, VideoInfo, VideoRef
from tests.media_factory import make_video, write_video

VIDEO = VideoRef("s3://in/a.mp4", "1", "a.mp4", 10)
CLIP = ClipRef(VIDEO, 0, 4, 0, 25, 0, 25, Fraction(1, 25), 0, 1, KeyPacket(0, 0, 0), 0)
INFO = VideoInfo("mov", 0, "h264", 320, 240, "yuv420p", Fraction(1, 25), tuple(range(100)), 1, (KeyPacket(0, 0, 0),))
PLACEMENT = Placement(actors=2, gpus=0.0, threads=1, cpus=0.5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOTIONMILL_CALIBRATION", str(tmp_path / "cache"))
    return tmp_path / "cache"


def task_of(model: str = "cain-compact", *sets: str) -> InterpolateTask:
    return InterpolateTask(load(InterpolateConfig, None, [f"model={model}", *sets]))


def receipt(seconds: float = 5.0) -> Receipt:
    times = Times("a", 0, 0, 0, 2 * seconds)
    return Receipt(
        Row("clip", VIDEO, headers_only(INFO), CLIP, 200, 100), "ok", 50,
        {"model": seconds, "decode": 1.0, "encode": 2.0}, bytes=1000, times=times,
    )  # fmt: skip


def kept(task: InterpolateTask, **changes: object) -> Calibration:
    blank = calibration.blank(task, "cpu", 0, 1, 2)
    base = {"clips": 1, "pixels": 100, "model_s": 1.0, "actor_s": 2.0, "measured": "2026-01-01"} | changes
    found = replace(blank, **base)  # type: ignore[arg-type]
    calibration.write(calibration.cached(found), json.dumps(asdict(found)).encode())
    return found


def test_a_run_measures_its_first_clips(tmp_path: Path) -> None:
    task = task_of()
    measuring = Calibrator(task, PLACEMENT)
    moments = [number for number in range(1, FIRST_CLIPS + 20) if measuring.add(receipt())]
    assert moments == [2, FIRST_CLIPS], "stored when every actor has done one, and when there are enough"
    found = measuring.found
    assert (found.clips, found.rows, found.frames) == (FIRST_CLIPS, 50 * FIRST_CLIPS, 25 * FIRST_CLIPS)
    assert found.model_s == pytest.approx(5 * FIRST_CLIPS)
    # Four clips make the video: the arithmetic is the whole video's, as --plan counts it.
    assert found.flops == pytest.approx(task.flops(INFO) / 4 * FIRST_CLIPS, rel=1e-6)
    hours = found.hours(task.flops(INFO), 200 * 320 * 240)
    assert hours is not None
    assert hours.model == pytest.approx(20 / 3600, rel=1e-6)
    assert hours.actor == pytest.approx(40 / 3600, rel=1e-6)
    assert found.bytes_of(200 * 320 * 240) == 4000
    assert found.flops_of(10**9) is None, "what is not adaptive needs what the plan says"


def test_what_an_adaptive_model_spent_is_kept_as_a_share_of_the_most() -> None:
    task = task_of("cain-sd-compact")
    measuring, clip = Calibrator(task, PLACEMENT), task.flops(INFO) / 4
    for share in (0.5, 0.7):
        times = Times("a", 0, 0, 0, 10, spent_flops=round(share * clip))
        measuring.add(replace(receipt(), times=times))
    assert measuring.found.flops_of(10**9) == pytest.approx(6 * 10**8, rel=1e-6)


def test_what_is_not_new_or_not_whole_is_not_measured() -> None:
    measuring = Calibrator(task_of(), PLACEMENT)
    for other in (
        replace(receipt(), fresh=False), replace(receipt(), status="error"), replace(receipt(), times=None),
        Receipt(Row("refused", VIDEO), "refused"),
    ):  # fmt: skip
        assert not measuring.add(other)
    assert measuring.found.clips == 0
    assert measuring.found.hours(10**12, 10**6) is None
    measuring.store(Storage(), Layout("/nowhere/at/all"))


def test_it_is_kept_beside_the_output_and_in_the_cache(tmp_path: Path, cache: Path) -> None:
    task, storage, layout = task_of(), Storage(), Layout(str(tmp_path / "out"))
    measuring = Calibrator(task, PLACEMENT)
    measuring.add(receipt())
    measuring.store(storage, layout)
    assert [path.name for path in cache.iterdir()] == ["interpolate-cain-compact-cpu-fp32.json"]
    found = calibration.find(task, storage, layout)
    assert found == (measuring.found, "this output's last run")
    elsewhere = calibration.find(task, storage, Layout(str(tmp_path / "other")))
    assert elsewhere == (measuring.found, str(cache / "interpolate-cain-compact-cpu-fp32.json"))


def test_the_most_specific_is_taken(tmp_path: Path) -> None:
    storage, layout = Storage(), Layout(str(tmp_path / "out"))
    task = task_of()
    assert calibration.find(task, storage, layout) is None
    kept(task_of("blend"))
    assert calibration.find(task, storage, layout) is None, "another model tells nothing"
    gpu = kept(task, device="cuda", precision="bf16", measured="2026-03-01")
    cpu = kept(task, measured="2026-02-01", configuration="another")
    assert (calibration.find(task, storage, layout) or [None])[0] == gpu, "of the same configuration"
    assert (calibration.find(task, storage, layout, "cpu") or [None])[0] == cpu
    assert calibration.find(task, storage, layout, "cpu", "bf16") is None


def test_models_given_by_path_have_files_of_their_own(cache: Path) -> None:
    paths = {calibration.cached(kept(task_of(f"/weights/{name}.pth"))) for name in ("a", "b", "../../c", "ä")}
    assert len(paths) == 4
    assert all(path.parent == cache and path.is_file() for path in paths)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"task": "interpolate"}', '{"clips": "many"}'])
def test_damaged_files_are_as_good_as_none(tmp_path: Path, cache: Path, damage: str) -> None:
    storage, layout = Storage(), Layout(str(tmp_path / "out"))
    good = kept(task_of())
    calibration.cached(good).write_text(damage)
    storage.put(layout.calibration, damage.encode())
    assert calibration.find(task_of(), storage, layout) is None


def test_a_home_that_cannot_be_written_to_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MOTIONMILL_CALIBRATION", str(tmp_path / "file"))
    measuring = Calibrator(task_of(), PLACEMENT)
    measuring.add(receipt())
    layout = Layout(str(tmp_path / "out"))
    measuring.store(Storage(), layout)
    assert calibration.find(task_of(), Storage(), layout) is not None


def test_a_few_frames_can_be_measured_here(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", make_video(frames=60))
    task = task_of("blend")
    with open(tmp_path / "a.mp4", "rb") as file:
        info = probe(file, video, task.config.input, task.config.decode)
    found = calibrator.measure(task.on("cpu"), Storage(), video, info, "cpu", 1, 0)
    assert (found.frames, found.rows, found.pixels) == (24, 48, 48 * 64 * 48)
    assert 0 < found.model_s < found.actor_s
