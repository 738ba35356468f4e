"""Two runs compared: nothing differs between equal ones, and what does differ is found, measured and told."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import compare
from pipeline.comparison import telling, verdict
from pipeline.comparison.flow import Distances, FlowDifference
from pipeline.comparison.frames import Paired, Pairing
from pipeline.comparison.recognition import RecognitionDifference
from pipeline.errors import ConfigError, InputNotFound, RecordDamaged, UsageError
from pipeline.records.recognition_schema import Detections
from tests.comparison.made_runs import flow_run, recognition_run, video_run
from tests.conftest import S3Env
from tests.media_factory import make_video, picture
from tests.records import recognition_samples
from tests.records.flow_samples import flow_row


def _runs(make, root: Path, first, second, *, kind: str | None = None) -> tuple[str, str]:
    more = {} if kind is None else {"kind": kind}
    return make(str(root / "a"), first, **more), make(str(root / "b"), second, **more)


def _moved(frame: int, by: float, video: str = "v", **changes):
    row = flow_row(frame, video=video, count=8)
    fields = {
        name: None if (value := getattr(row, name)) is None else value + np.array([by, 0], np.float32)[:, None, None]
        for name in ("flow_forward", "flow_backward")
    }
    return replace(row, **fields, **changes)


# ---- flow


def test_equal_flow_runs_do_not_differ(tmp_path: Path) -> None:
    found = verdict.compare(*_runs(flow_run, tmp_path, {"v": range(8), "w": range(5)}, {"v": range(8), "w": range(5)}))
    assert found.whole
    assert found.pairing == Pairing(frames=13)
    assert {found.measures[name] for name in ("epe", "p95", "max", "epe:s0-10", "p95:s0-10")} == {0.0}
    assert verdict.judge(found, [verdict.threshold("0", above=True)], each=True) == []


def test_a_constant_offset_is_measured_exactly(tmp_path: Path) -> None:
    second = {"v": [_moved(frame, 0.75) for frame in range(8)], "w": range(5)}
    found = verdict.compare(*_runs(flow_run, tmp_path, {"v": range(8), "w": range(5)}, second))
    of = {video.name: video.measures for video in found.videos}
    assert of["v.mp4"]["epe"] == pytest.approx(0.75, rel=1e-5)
    assert of["v.mp4"]["p95"] == pytest.approx(0.75, rel=0.02)
    assert of["w.mp4"]["epe"] == 0
    fields = [14, 9]  # frames 0..7 without what lies before the first and after the last; and 0..4 of 8
    assert found.measures["epe"] == pytest.approx(0.75 * fields[0] / sum(fields), rel=1e-5)
    above = [verdict.threshold("0.5", above=True)]
    assert verdict.judge(found, above) == []
    assert verdict.judge(found, above, each=True) == ["epe above 0.5 in v.mp4"]
    assert verdict.judge(found, [verdict.threshold("p95=0.1", above=True)]) == [
        f"p95 above 0.1: {found.measures['p95']:.6g}"
    ]


def test_missing_frames_videos_and_other_times_are_always_too_much(tmp_path: Path) -> None:
    late = replace(flow_row(2, video="v", count=8), pts=2 * 512 + 1, next_pts=None, flow_forward=None,
                   validity_forward=None, confidence_forward=None)  # fmt: skip
    first = {"v": [0, 1, 2, 3], "x": [0, 1], "z": None, "bad": None}
    second = {"v": [0, late, 4], "y": [0, 1], "z": [0, 1], "bad": None}
    found = verdict.compare(*_runs(flow_run, tmp_path, first, second))
    assert (found.only_a, found.only_b, found.failed) == (["x.mp4"], ["y.mp4", "z.mp4"], ["bad.mp4"])
    assert found.pairing == Pairing(frames=2, only_a=2, only_b=1, other_times=1, incomparable=1)
    assert not found.whole
    assert verdict.judge(found, []) == [
        "1 videos only A has", "2 videos only B has", "3 frames only one side has", "1 frames at other times",
        "1 frames of other sizes, or with other fields",
    ]  # fmt: skip
    told = telling.table(found)
    assert "only in B: y.mp4, z.mp4" in told
    assert "failed in both: bad.mp4" in told


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=300),
    st.floats(0.01, 1.0),
)
def test_percentiles_are_right_to_two_percent_in_any_cut(values: list[float], share: float) -> None:
    whole, halves = Distances(), Distances()
    whole.add(np.array(values))
    for part in (values[::2], values[1::2]):
        one = Distances()
        one.add(np.array(part))
        halves.merge(one)
    exact = float(np.percentile(values, 100 * share, method="inverted_cdf"))
    for found in (whole, halves):
        assert found.mean == pytest.approx(np.mean(values))
        assert found.largest == max(values)
        assert found.percentile(share) == pytest.approx(exact, rel=0.0201, abs=1.1e-4)
    assert whole.percentile(share) == halves.percentile(share)


def test_what_is_not_finite_is_far_from_what_is() -> None:
    first = np.ones((2, 2, 2), np.float32)
    first[:, 0, 0] = np.nan
    found = FlowDifference()
    found.add(first, first.copy())
    assert found.measures()["max"] == 0
    found.add(first, np.ones((2, 2, 2), np.float32))
    assert found.measures()["max"] == np.inf
    assert json.dumps(telling._plain(found.measures()), allow_nan=False)


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_frames_are_paired_as_sets_are(first: set[int], second: set[int]) -> None:
    paired = Paired(sorted(first), sorted(second), lambda one: Fraction(one), lambda one: Fraction(one))
    assert [a for a, b in paired if a == b] == sorted(first & second)
    assert paired.pairing == Pairing(len(first & second), len(first - second), len(second - first))


# ---- recognition


def test_equal_recognition_runs_agree(tmp_path: Path) -> None:
    found = verdict.compare(*_runs(recognition_run, tmp_path, {"v": range(8)}, {"v": range(8)}))
    assert found.measures == {"difference": 0.0, "miou": 1.0, "pixel_accuracy": 1.0}
    boxes = {"v": range(12)}
    found = verdict.compare(*_runs(recognition_run, tmp_path / "boxes", boxes, boxes, kind="detection"))
    assert found.measures["difference"] == pytest.approx(0, abs=1e-12)
    assert found.detail["boxes"] > 0
    assert verdict.judge(found, [verdict.threshold("0.001", above=True)]) == []


def test_labels_that_differ_are_counted_by_class(tmp_path: Path) -> None:
    labels = recognition_samples.label_map(0)
    other = labels.copy()
    other[labels == 2] = 3  # every car is a person
    first = {"v": [recognition_samples.row(0, video="v", labels=labels)]}
    second = {"v": [recognition_samples.row(0, video="v", labels=other)]}
    found = verdict.compare(*_runs(recognition_run, tmp_path, first, second))
    cars, known = int((labels == 2).sum()), int((labels != 255).sum())
    assert found.measures["pixel_accuracy"] == pytest.approx(1 - cars / known)
    assert found.measures["miou"] == pytest.approx(2 / 4)  # sky and road; car and person are nowhere in common
    assert found.detail["iou"]["person"] == 0
    reasons = verdict.judge(found, [verdict.threshold("miou=0.9", above=False)])
    assert reasons == ["miou below 0.9: 0.5"]


@pytest.mark.parametrize("lost", ["a", "b"])
def test_boxes_that_only_one_run_found_count_whichever_it_is(tmp_path: Path, lost: str) -> None:
    one = Detections(
        np.array([[0, 0, 4, 4], [9, 9, 15, 15]], np.float32),
        np.array([0.9, 0.8], np.float32),
        np.array([2, 2], np.int32),
    )
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    sides = [none, one] if lost == "a" else [one, none]
    runs = [{"v": [recognition_samples.row(0, kind="detection", video="v", detections=side)]} for side in sides]
    found = verdict.compare(*_runs(recognition_run, tmp_path, *runs, kind="detection"))
    assert found.measures["map50"] == 0
    assert found.measures["difference"] == 1


def test_other_classes_are_refused() -> None:
    rows = [recognition_samples.row(0, kind=kind) for kind in ("segmentation", "detection")]
    first, second = (_record(row, kind) for row, kind in zip(rows, ("segmentation", "detection"), strict=True))
    with pytest.raises(UsageError, match="recognise the same"):
        RecognitionDifference().add(first, second)


def _record(row, kind):
    from pipeline.records.recognition_schema import RecognitionRecord

    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    return RecognitionRecord(**values, kind=kind, classes=recognition_samples.CLASSES, schema_version=1)


# ---- interpolation


def test_equal_videos_do_not_differ(tmp_path: Path) -> None:
    data = make_video(frames=9)
    found = verdict.compare(*_runs(video_run, tmp_path, {"v": data}, {"v": data}))
    assert found.measures == {"rms": 0.0, "psnr": 80.0, "psnr_worst": 80.0, "ssim": 1.0}
    assert found.pairing == Pairing(frames=9)
    assert found.detail == {"identical_frames": 9}


def test_pictures_that_differ_are_measured_as_pillow_and_numpy_would(tmp_path: Path) -> None:
    def lighter(index: int, width: int, height: int):
        return np.clip(picture(index, width, height).astype(int) + 12, 0, 255).astype(np.uint8)

    lossless = {"qp": "0", "preset": "ultrafast"}
    pair = [make_video(frames=5, options=lossless, image=image, pix_fmt="yuv444p") for image in (picture, lighter)]
    found = verdict.compare(*_runs(video_run, tmp_path, {"v": pair[0]}, {"v": pair[1]}), ssim_every=1)
    squares = []
    with av.open(io.BytesIO(pair[0])) as a, av.open(io.BytesIO(pair[1])) as b:
        for one, two in zip(a.decode(video=0), b.decode(video=0), strict=True):
            squares.append(
                np.square(one.to_ndarray(format="rgb24").astype(float) - two.to_ndarray(format="rgb24")).mean()
            )
    assert found.measures["rms"] == pytest.approx(np.sqrt(np.mean(squares)))
    assert found.measures["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / np.array(squares))), abs=0.01)
    assert 0 < found.measures["ssim"] < 1
    assert verdict.judge(found, [verdict.threshold("psnr=60", above=False)])


def test_pictures_are_paired_by_time(tmp_path: Path) -> None:
    """The second lost frame 2, and has one more at the end; Matroska's rounded times are the same frames."""
    times = [0, 40, 80, 120, 160]
    kept = [0, 40, 120, 160, 200]
    first = make_video(frames=5, pts=times, time_base=Fraction(1, 1000))
    second = make_video(frames=5, pts=kept, time_base=Fraction(1, 1000))
    found = verdict.compare(*_runs(video_run, tmp_path, {"v": first}, {"v": second}))
    assert found.pairing == Pairing(frames=4, only_a=1, only_b=1)
    thirds = make_video(frames=5, rate=Fraction(24000, 1001))
    rounded = make_video(container="matroska", frames=5, rate=Fraction(24000, 1001))
    found = verdict.compare(*_runs(video_run, tmp_path / "mkv", {"v": thirds}, {"v": rounded}))
    assert (found.pairing.frames, found.pairing.only_a, found.pairing.only_b) == (5, 0, 0)


def test_a_video_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    data = make_video(frames=9)
    runs = _runs(video_run, tmp_path, {"v": data}, {"v": data[: len(data) // 2]})
    with pytest.raises(RecordDamaged, match=r"b/video/v\.mp4: cannot be decoded"):
        verdict.compare(*runs)


# ---- runs, thresholds, the job


def test_runs_of_other_tasks_are_refused(tmp_path: Path) -> None:
    first = flow_run(str(tmp_path / "a"), {"v": range(2)})
    second = recognition_run(str(tmp_path / "b"), {"v": range(2)})
    with pytest.raises(UsageError, match=r"'flow'.*'recognize'.*one task"):
        verdict.compare(first, second)
    with pytest.raises(InputNotFound, match=r"nowhere: no run's output"):
        verdict.compare(first, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("text", ["", "epe", "epe=", "=1", "epe=much", "nan"])
def test_a_threshold_is_a_number(text: str) -> None:
    with pytest.raises(ConfigError, match="give a number"):
        verdict.threshold(text, above=True)


def test_a_measure_that_the_task_lacks_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    runs = _runs(flow_run, tmp_path, {"v": range(2)}, {"v": range(2)})
    with pytest.raises(ConfigError, match=r"'psnr' is no measure of 'flow'; it has epe, p95"):
        verdict.compare(*runs, [verdict.threshold("psnr=40", above=False)])


def test_runs_are_compared_across_stores(tmp_path: Path, s3_env: S3Env) -> None:
    first = flow_run(str(tmp_path / "a"), {"v": range(8)})
    second = flow_run(f"{s3_env.uri}/b", {"v": range(8)}, model="other")
    found = verdict.compare(first, second)
    assert found.measures["max"] == 0
    assert "differ in  model: m -> other" in telling.table(found)


def _exit_code(*runs: str, **options: object) -> int:
    with pytest.raises(SystemExit) as left:
        compare.main(*runs, **options)
    return left.value.code


def test_the_job_exits_by_its_thresholds_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = _runs(flow_run, tmp_path, {"v": range(4)}, {"v": [_moved(frame, 0.75) for frame in range(4)]})
    report = tmp_path / "report.json"
    assert _exit_code(first, second, fail_above=["0.5"], json_=report) == 4
    assert "beyond     epe above 0.5: 0.75" in capsys.readouterr().out
    written = json.loads(report.read_text())
    assert (written["within"], written["task"], written["main"]) == (False, "flow", "epe")
    assert written["videos"][0]["measures"]["epe"] == pytest.approx(0.75, rel=1e-5)
    assert _exit_code(first, second, fail_above=["1", "p95=1"]) == 0
    assert _exit_code(first, str(tmp_path)) == 2
    assert "no run's output" in capsys.readouterr().err
