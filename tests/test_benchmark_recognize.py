"""The recognition benchmark measures what it says, on a network of milliseconds."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from models.dff.bundle import CITYSCAPES, unpack
from models.dff.cost import predicted_speedup
from pipeline import benchmark_recognize
from pipeline.benchmark_recognize import Job, RecognizeSpeed, _weights, lines_of
from pipeline.benchmark_recognize_loops import PART_NAMES, PER_FRAME, Bare, Case, Pass, Plan, cases_of
from pipeline.evaluation import schedules
from tests.media_factory import make_video
from tests.tasks.flow_support import cutting
from tests.tasks.recognize_support import segmenter

__all__ = ["segmenter"]

TENTH = Case("lookahead", Fraction(1, 10))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    path.write_bytes(make_video(frames=13, image=cutting, size=(96, 64), options={"crf": "10"}))
    return path


def test_each_way_goes_over_the_clip_with_its_own_key_frames(clip: Path, segmenter: str) -> None:
    settings = (f"model={segmenter}", "cuts.detect=false", "key_frames.promote_above=null")
    cases = cases_of((Fraction(1, 4),))
    assert [str(case) for case in cases] == ["per frame", "fixed 1/4", "lookahead 1/4"]
    bare = Bare(Plan(str(clip), settings, 1, cases))
    passes = [bare.run(case) for case in cases]
    assert [(one.frames, one.keys) for one in passes] == [(13, 13), (13, 4), (13, 4)]
    per_frame, fixed, ahead = (one.parts for one in passes)
    assert set(per_frame) == {"features", "head"}
    assert set(fixed) == set(ahead) == {*PART_NAMES}
    assert ahead["schedule"] > fixed["schedule"], "looking ahead takes time of its own"
    assert all(sum(one.parts.values()) <= one.seconds for one in passes)


def test_speed_ups_are_medians_beside_what_arithmetic_predicts() -> None:
    def made(case: Case, keys: int, seconds: float, cpu_s: float) -> Pass:
        return Pass(case, 20, keys, seconds, cpu_s, {"features": seconds / 2})

    passes = [made(PER_FRAME, 20, s, 40.0) for s in (39.0, 40.0, 90.0)] + [made(TENTH, 2, s, 5.0) for s in (8, 8, 30)]
    first, second = lines_of(passes, (PER_FRAME, TENTH), 2, 12.71)
    assert (first.speed_up, first.cpu_speed_up, first.predicted) == (1, 1, pytest.approx(1))
    assert (second.speed_up, second.cpu_speed_up) == (5, 8)
    assert second.predicted == pytest.approx(predicted_speedup(10, 1 / 12.71))
    assert second.predicted == pytest.approx(5.86, abs=0.01)
    assert second.frames_per_s == 2 * 20 / 8
    assert second.parts_ms["features"] == pytest.approx(1000 * 4 / 20)
    result = RecognizeSpeed(
        video="a.mp4", width=1000, height=600, frames=20, model="r101-flownet", precision="fp32", processes=2,
        threads=1, cores=2, load=0.5, ratio=12.71, lines=[first, second],
        jobs=[Job("lookahead 1/10", 4.5, 0.9, {"model": 8.0})],
    )  # fmt: skip
    text = result.text().splitlines()
    assert text[3].split()[:7] == ["lookahead", "1/10", "2", "5.000", "5.00", "8.00", "5.85"]
    assert text[4].split()[:7] == ["job,", "lookahead", "1/10", "4.500", "0.90", "of", "the"]
    assert "0.9" not in replace(result, jobs=[]).text()


def test_random_models_have_the_published_sizes_and_labels_that_vary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _weights("dff-camvid", tmp_path) == "dff-camvid"
    made: list[tuple[int, float]] = []
    monkeypatch.setattr(benchmark_recognize, "pack", lambda bundle: ({"x": torch.zeros(1)}, {}))
    monkeypatch.setattr(benchmark_recognize, "random_bundle", lambda depth, width: made.append((depth, width)))
    for name in ("r101-flownet", "r50-half"):
        assert _weights(name, tmp_path) == str(tmp_path / f"{name}.safetensors")
    assert made == [(101, 1.0), (50, 0.5)]


@pytest.mark.slow
@torch.no_grad()
def test_a_random_model_s_labels_vary_over_a_picture() -> None:
    bundle = benchmark_recognize.random_bundle(50, 0.5)
    assert bundle.classes == CITYSCAPES
    assert unpack(*benchmark_recognize.pack(bundle)).kind == "segmentation"
    frames = torch.nn.functional.interpolate(torch.rand(2, 3, 12, 20) * 255, (192, 320), mode="bicubic").clamp(0, 255)
    found = bundle.model.predict(frames, [0, 0])
    assert len(found.labels.unique()) > 2  # type: ignore[union-attr]


def test_schedules_are_compared_at_equal_numbers_of_key_frames(clip: Path, segmenter: str, tmp_path: Path) -> None:
    settings = [f"model={segmenter}", "cuts.detect=false"]
    other = tmp_path / "other.mp4"
    other.write_bytes(clip.read_bytes())
    scores = list(schedules.compare([clip, other], settings, [Fraction(1, 4), Fraction(1, 6)], 12, 1))
    assert [(one.budget, one.schedule, one.keys) for one in scores[:4]] == [
        ("1/4", "fixed", 3), ("1/4", "lookahead", 3), ("1/6", "fixed", 2), ("1/6", "lookahead", 2)
    ]  # fmt: skip
    assert all(one.frames == 12 and 0 < one.feature_error <= one.worst_feature_error for one in scores)
    assert all(0 <= one.miou <= 1 for one in scores)
    lines = schedules.table(scores).splitlines()
    assert lines[-1].split()[:4] == ["mean", "1/6", "2", "2"]
    schedules.write_json(tmp_path / "scores.json", scores)
    assert (tmp_path / "scores.json").read_text().count('"budget"') == 8
