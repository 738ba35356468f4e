"""Known frames made again from their neighbours: which ones, at which time, and that the output stays what it is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import InterpolateConfig, load
from pipeline.plan.clips import plan_clips
from pipeline.run.rows import headers_only
from pipeline.tasks.base import ClipOutput
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.tasks.interpolators import Made, Pair
from pipeline.tasks.self_check import chosen
from pipeline.tasks.self_check_report import BINS, ROW, SCORES, Result, bin_of, lines, merged, of_clips, rounded
from tests.media_factory import RGB, make_video, picture, scramble
from tests.tasks.clip_support import join, probed, process
from tests.tasks.flow_support import cutting
from tests.tasks.test_interpolate import rife_file, weights_file

VFR = [0, 1, 4, 5, 6, 9, 11, 12, 13, 15, 18, 19, 20, 21]


def task_of(*overrides: str) -> InterpolateTask:
    fast = ("model=blend", "encode.preset=ultrafast", "self_check=1")
    return InterpolateTask(load(InterpolateConfig, None, [*fast, *overrides]))


def rows_of(outputs: Sequence[ClipOutput]) -> list[dict[str, Any]]:
    return [dict(zip(ROW, row, strict=True)) for output in outputs for row in output.extra["self_check"]["frames"]]


@given(st.text(max_size=20), st.lists(st.integers(-(2**40), 2**40), unique=True, max_size=50), st.floats(0, 1))
def test_a_frame_s_choice_depends_on_its_video_and_time_and_grows_with_the_share(
    video: str, times: list[int], share: float
) -> None:
    picked = {pts for pts in times if chosen(video, pts, share)}
    assert {pts for pts in times if chosen(video, pts, share / 2)} <= picked
    assert not any(chosen(video, pts, 0.0) for pts in times)
    assert all(chosen(video, pts, 1.0) for pts in times)


def test_about_the_share_that_was_asked_for_is_chosen() -> None:
    assert 150 < sum(chosen("a.mp4", pts, 0.02) for pts in range(10_000)) < 250
    assert {pts for pts in range(400) if chosen("a.mp4", pts, 0.1)} != {p for p in range(400) if chosen("b", p, 0.1)}


@pytest.mark.parametrize("mode", ["keep", "resynthesise"])
def test_the_same_frames_are_checked_however_the_video_is_cut(mode: str, tmp_path: Path) -> None:
    data = make_video(frames=14, pts=VFR, time_base=Fraction(1, 50), image=cutting)
    found = []
    for length in (1, 3, 5, 100):
        task = task_of(f"clip.frames={length}", f"duplicates.mode={mode}", "self_check=0.7")
        outputs = process(task, data, tmp_path / str(length))
        found.append((rows_of(outputs), of_clips(output.extra["self_check"] for output in outputs)))
    assert found[0] == found[1] == found[2] == found[3]
    assert 2 < len(found[0][0]) < 12


def test_no_byte_of_the_output_changes(tmp_path: Path) -> None:
    cain, rife = (tmp_path / name for name in ("cain", "rife"))
    cain.mkdir()
    rife.mkdir()
    models = ("model=blend",), (f"model={weights_file(cain)}", "exit_depth=2"), (f"model={rife_file(rife)}",)
    data = make_video(frames=9, image=cutting, size=(64, 48))
    for number, model in enumerate(models):
        made = []
        for share in ("0", "1"):
            folder = tmp_path / f"{number}-{share}"
            task = task_of(*model, f"self_check={share}", "clip.frames=4")
            outputs = process(task, data, folder)
            ((video, content),) = join(task, data, outputs, folder)
            made.append(content)
            assert ("self_check" in outputs[0].seconds) == ("self_check" in video.extra) == (share == "1")
        assert made[0] == made[1]


def test_only_frames_between_two_neighbours_of_their_shot_are_checked(tmp_path: Path) -> None:
    (output,) = process(task_of(), make_video(frames=12, image=cutting, options={"crf": "0"}), tmp_path / "cut")
    cut = [row["pts"] for row in rows_of([output])]
    _, info = probed(make_video(frames=12, image=cutting), task_of())
    ticks = [info.pts.index(pts) for pts in cut]
    assert not {0, 11} & {*ticks}, "no neighbour on one side"
    (whole,) = process(task_of("cuts.detect=false"), make_video(frames=12, image=cutting), tmp_path / "all")
    assert len(rows_of([whole])) == 10
    assert 0 < len(cut) < 10, "those beside a cut are left out"


def repeating(index: int, width: int, height: int) -> RGB:
    return picture({3: 2, 4: 2}.get(index, index), width, height)


def test_frames_that_repeat_a_neighbour_are_not_checked(tmp_path: Path) -> None:
    lossless = {"qp": "0", "x264-params": "threads=1"}
    data = make_video(frames=9, image=repeating, options=lossless, pix_fmt="yuv444p")
    task = task_of("cuts.detect=false")
    _, info = probed(data, task)
    (output,) = process(task, data, tmp_path)
    assert [info.pts.index(row["pts"]) for row in rows_of([output])] == [1, 5, 6, 7], "2, 3 and 4 are one picture"


class Recorder:
    """Notes the places that it is asked for."""

    def __init__(self) -> None:
        self.places: list[Fraction] = []

    def between(self, pairs: Sequence[Pair]) -> list[list[Made]]:
        self.places += [t for pair in pairs for t in pair.places]
        return [[Made(pair.left if t < Fraction(1, 2) else pair.right, t) for t in pair.places] for pair in pairs]


def test_each_frame_is_made_at_its_own_time(tmp_path: Path) -> None:
    data = make_video(frames=5, pts=[0, 1, 4, 5, 6], time_base=Fraction(1, 50))
    task = task_of("cuts.detect=false", "clip.frames=2", "target.factor=2")
    processor = task.load("cpu", 1)
    recorder = processor.interpolator = Recorder()
    video, info = probed(data, task)
    for clip in plan_clips(video, info, 2, task.halo()):
        (tmp_path / str(clip.index)).mkdir()
        processor.process(clip, headers_only(info), io.BytesIO(data), tmp_path / str(clip.index), lambda _: None)
    assert [t for t in recorder.places if t != Fraction(1, 2)] == [Fraction(1, 4), Fraction(3, 4)]


def test_the_scores_are_those_of_the_pictures_before_encoding(tmp_path: Path) -> None:
    (output,) = process(task_of("encode.crf=51"), make_video(frames=6), tmp_path)
    for row in rows_of([output]):
        assert row["psnr"] == row["average_psnr"], "the model is the average"
        assert 0 < row["ssim"] < 1
        assert row["psnr"] > 15


def test_places_that_the_model_cannot_reach_are_counted_and_not_scored(tmp_path: Path) -> None:
    data = make_video(frames=5, pts=[0, 1, 4, 5, 6], time_base=Fraction(1, 50))
    model = (f"model={weights_file(tmp_path)}", "exit_depth=2", "cuts.detect=false")
    (output,) = process(task_of(*model, "max_t_error=0", "max_depth=1"), data, tmp_path / "exact")
    assert output.extra["self_check"]["unreachable"] == 2
    assert len(rows_of([output])) == 1
    (near,) = process(task_of(*model, "max_t_error=1/4", "max_depth=1"), data, tmp_path / "near")
    assert near.extra["self_check"]["unreachable"] == 2, "a neighbour would be shown there"


def test_a_plan_counts_the_frames_that_are_made_again(tmp_path: Path) -> None:
    data, model = make_video(frames=9), (f"model={weights_file(tmp_path)}", "exit_depth=2")
    without, half, all_ = (task_of(*model, f"self_check={share}") for share in (0, 0.5, 1))
    info = probed(data, without)[1]
    assert half.flops(info) == 1.5 * without.flops(info)
    assert all_.flops(info) == 2 * without.flops(info) > 0


def test_damage_keeps_the_checks_before_it(tmp_path: Path) -> None:
    data = make_video(frames=48, options={"preset": "ultrafast", "x264-params": "bframes=0:threads=1"}, size=(128, 96))
    (output,) = process(task_of("self_check=0.4"), scramble(data, 0.6, 2000), tmp_path)
    assert output.error is not None
    good = output.error.pts
    assert good is not None
    assert rows_of([output])
    assert all(row["pts"] < good for row in rows_of([output]))


score_rows = st.lists(
    st.tuples(st.integers(0, 10**9), st.floats(0, 60), *[st.floats(0, 80)] * 2, st.floats(-1, 1)).map(list),
    max_size=30,
)


@given(score_rows, st.integers(1, 7))
def test_a_video_s_result_does_not_depend_on_its_clips(rows: list[list[float]], length: int) -> None:
    clips = [{"frames": rows[at : at + length], "unreachable": 0} for at in range(0, len(rows), length)]
    assert of_clips(clips) == of_clips([{"frames": rows, "unreachable": 0}])


@given(st.lists(score_rows, max_size=4))
def test_the_run_s_table_counts_every_frame_the_same(videos: list[list[list[float]]]) -> None:
    result: Result = {}
    for number, rows in enumerate(videos):
        result = merged([result, of_clips([{"frames": rows, "unreachable": number}])])
    whole = rounded(result).get("by_motion", {})
    assert result.get("unreachable", 0) == sum(range(len(videos)))
    everything = [row for rows in videos for row in rows]
    for name, _ in BINS:
        inside = [row for row in everything if bin_of(row[1]) == name]
        assert (name in whole) == bool(inside)
        if inside:
            assert whole[name]["frames"] == len(inside)
            for place, score in enumerate(SCORES, 2):
                assert whole[name][score] == pytest.approx(np.mean([row[place] for row in inside]), abs=2e-4)


def test_a_model_behind_the_frame_average_shows() -> None:
    table = {
        "low": {"frames": 3, "psnr": 40.0, "average_psnr": 39.0, "ssim": 0.99},
        "high": {"frames": 2, "psnr": 20.0, "average_psnr": 22.0, "ssim": 0.7},
    }
    head, low, high, left = lines({"by_motion": table, "unreachable": 7})
    assert left.startswith("7 not checked")
    assert lines({}) == []
    assert head.split() == ["motion", "frames", "PSNR", "dB", "SSIM", "average", "dB"]
    assert low.split() == ["low", "3", "40.00", "0.9900", "39.00"]
    assert high.endswith("worse than the frame average")
