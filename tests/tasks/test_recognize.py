"""One clip in, one file of recognition records out: contract 1, key frames, cuts, damage, estimates."""

from __future__ import annotations

import io
import pickle
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models import weights
from models.dff import DeepFeatureFlow
from models.dff.bundle import Bundle
from models.dff.protocol import Segmentation
from pipeline.config import load
from pipeline.config_recognize import RecognizeConfig
from pipeline.errors import ConfigError, CorruptVideo, UnsupportedVideo, WeightsUnusable
from pipeline.media.colour import to_rgb
from pipeline.media.decode import decode_clip
from pipeline.plan.clips import plan_clips
from pipeline.plan.key_windows import halo
from pipeline.records.recognition import read_recognition_file
from pipeline.tasks import recognize_model
from pipeline.types import VideoInfo
from tests.media_factory import make_video, scramble
from tests.models.test_dff_protocol import Brightness, moved_by
from tests.tasks import flow_support
from tests.tasks.clip_support import join, probed, process
from tests.tasks.flow_support import cutting
from tests.tasks.recognize_support import detector, records, same, segmenter, small, task_of

__all__ = ["detector", "segmenter"]

CUTS = {"image": cutting, "options": {"crf": "10"}, "size": (96, 64)}
CLIPS = ("key_frames.window=8", "key_frames.budget=1/4")


@pytest.mark.parametrize(
    ("sets", "clips"),
    [
        ((), (1, 3, 8)),
        (("key_frames.blend=true",), (7,)),
        (("key_frames.schedule=fixed", "key_frames.budget=1/5"), (7,)),
        (("key_frames.max_residual=0.2", "argmax=reduced", "labels=zstd"), (5,)),
    ],
)
def test_a_frame_s_record_does_not_depend_on_how_its_video_is_cut_into_clips(
    segmenter: str, tmp_path: Path, sets: tuple[str, ...], clips: tuple[int, ...]
) -> None:
    data = make_video(frames=18, **CUTS)
    whole = records(task_of(segmenter, *CLIPS, *sets, "clip.frames=1000"), data, tmp_path / "whole")
    assert [record.shot for record in whole] == [0] * 7 + [1] * 7 + [2] * 4
    assert len({record.side for record in whole}) >= 2
    for frames in clips:
        parts = records(task_of(segmenter, *CLIPS, *sets, f"clip.frames={frames}"), data, tmp_path / str(frames))
        assert len(parts) == len(whole)
        for one, other in zip(whole, parts, strict=True):
            assert same(one, other), f"frame {one.frame_index} with clips of {frames}"


def test_detections_do_not_depend_on_clips_either(detector: str, tmp_path: Path) -> None:
    data = make_video(frames=9, size=(96, 64))
    sets = (*CLIPS, "min_score=0.3", "short_side=96")
    whole = records(task_of(detector, *sets, "clip.frames=1000"), data, tmp_path / "whole")
    assert sum(len(record.detections or ()) for record in whole) > 9
    for record in whole:
        assert record.detections is not None
        assert record.labels is None
        assert (record.detections.scores >= 0.3).all()
        x1, y1, x2, y2 = record.detections.boxes.T
        assert min(x1.min(initial=0), y1.min(initial=0)) == 0
        assert x2.max(initial=0) <= 96
        assert y2.max(initial=0) <= 64
    assert max(float(record.detections.boxes.max()) for record in whole if len(record.detections or ())) > 64
    parts = records(task_of(detector, *sets, "clip.frames=4"), data, tmp_path / "parts")
    assert all(same(one, other) for one, other in zip(whole, parts, strict=True))


def test_labels_are_those_of_deep_feature_flow_on_the_decoded_frames(segmenter: str, tmp_path: Path) -> None:
    data = make_video(frames=8, size=(100, 70))
    task = task_of(segmenter, *CLIPS, "labels=png")
    found = records(task, data, tmp_path)
    video, info = probed(data, task)
    (clip,) = plan_clips(video, info, 8, (0, 0))
    frames = torch.stack(
        [
            (255 * to_rgb(frame, info.colour)).round().to(torch.uint8)
            for frame in decode_clip(io.BytesIO(data), clip, task.config.decode)
        ]
    )
    keys = [[record.pts for record in found].index(record.key_pts) for record in found]
    assert 1 < len(set(keys)) < 8
    torch.set_num_threads(1)
    expected = small().model.predict(frames, keys)
    assert isinstance(expected, Segmentation)
    assert len(expected.labels.unique()) > 1
    for record, labels in zip(found, expected.labels, strict=True):
        assert record.labels is not None
        assert (record.labels == labels.numpy()).mean() > 0.999


def test_with_a_budget_of_one_every_frame_is_its_own_key_frame(segmenter: str, tmp_path: Path) -> None:
    found = records(task_of(segmenter, "key_frames.budget=1"), make_video(frames=3), tmp_path)
    assert all(record.is_key and record.gap == 0 and record.key_pts == record.pts for record in found)


def test_nothing_is_carried_across_a_cut(segmenter: str, tmp_path: Path) -> None:
    data = make_video(frames=16, **CUTS)
    for schedule in ("lookahead", "fixed"):
        task = task_of(segmenter, "key_frames.budget=1/8", f"key_frames.schedule={schedule}", "clip.frames=5")
        found = records(task, data, tmp_path / schedule)
        shots = {record.pts: record.shot for record in found}
        assert len(set(shots.values())) == 3
        assert all(shots[record.key_pts] == record.shot for record in found)
        starts = [record.frame_index for record in found if record.previous_pts is None]
        assert starts == [0, 7, 14]


def test_blended_frames_name_both_key_frames_and_cost_two_flows(segmenter: str, tmp_path: Path) -> None:
    task = task_of(segmenter, "key_frames.blend=true", *CLIPS)
    found = records(task, make_video(frames=16, size=(64, 48)), tmp_path)
    costs = recognize_model.costs(task.config, 48, 64)
    assert min(costs.features, costs.flow, costs.head) > 0
    both = [record for record in found if record.side == "both"]
    assert both
    for record in found:
        flows = {"key": 0, "both": 2}.get(record.side, 1)
        assert record.flops == costs.head + flows * costs.flow + record.is_key * costs.features


def test_rows_are_counted_by_where_their_features_came_from(segmenter: str, tmp_path: Path) -> None:
    task = task_of(segmenter, *CLIPS, "clip.frames=8")
    data = make_video(frames=16, size=(64, 48))
    ((joined, _),) = join(task, data, process(task, data, tmp_path), tmp_path)
    assert joined.rows == joined.extra["rows"] == sum(joined.extra["kinds"].values()) == 16
    assert set(joined.extra["kinds"]) >= {"key", "carried_forward", "carried_back"}
    assert joined.extra["flops"] > 0
    assert joined.may_share


@pytest.mark.parametrize("frames", [1, 2])
def test_the_shortest_videos_have_their_records(segmenter: str, tmp_path: Path, frames: int) -> None:
    found = records(task_of(segmenter), make_video(frames=frames), tmp_path)
    assert len(found) == frames
    assert found[0].previous_pts is None


def test_damage_keeps_the_frames_before_it(segmenter: str, tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "x264-params": "bframes=0:threads=1"}
    data = scramble(make_video(frames=24, options=options, size=(128, 96)), 0.6, 2000)
    for frames in (1000, 8):
        outputs = process(task_of(segmenter, *CLIPS, f"clip.frames={frames}"), data, tmp_path / str(frames))
        kept = [
            record.frame_index
            for output in outputs
            if output.path is not None
            for record in read_recognition_file(str(output.path))
        ]
        damaged = next(output for output in outputs if output.error is not None)
        assert isinstance(damaged.error, CorruptVideo)
        assert damaged.rows > 0
        assert kept == sorted(set(kept))
        assert kept[0] == 0


def test_frames_can_be_made_smaller_and_labels_stay_so(segmenter: str, tmp_path: Path) -> None:
    found = records(task_of(segmenter, "short_side=48"), make_video(frames=2, size=(144, 96)), tmp_path)
    assert found[0].labels is not None
    assert found[0].labels.shape == (48, 72)
    assert (found[0].height, found[0].width) == (96, 144)
    assert found[0].full_labels().shape == (96, 144)
    never_larger = records(task_of(segmenter, "short_side=480"), make_video(frames=1, size=(64, 48)), tmp_path / "x")
    assert never_larger[0].labels is not None
    assert never_larger[0].labels.shape == (48, 64)


def test_a_clip_s_halo_completes_its_windows_and_no_more() -> None:
    for frames in (1, 7, 30, 60, 90, 120):
        task = task_of("x", f"clip.frames={frames}")
        before, after = task.halo()
        size = task.config.key_frames.window_frames
        needed = [halo(start, start + frames, 10**6, size) for start in range(0, 60 * frames, frames)]
        assert max(most for most, _ in needed) == before - 1
        assert max(most for _, most in needed) == after
    assert task_of("x").halo() == (1, 0)


def test_every_frame_shows_life(segmenter: str, tmp_path: Path) -> None:
    beats: list[str] = []
    process(task_of(segmenter, *CLIPS, "clip.frames=4"), make_video(frames=8), tmp_path, beats)
    assert beats.count("model") == 8
    assert beats.count("decode") >= 8


# ---- other networks, other flow


def plugged() -> Bundle:
    """A network of one's own, as configuration names it."""
    model = DeepFeatureFlow(Brightness(), moved_by(0, 0))  # type: ignore[arg-type]
    return Bundle(model, "segmentation", ("red", "green", "blue"))


def test_a_network_of_ones_own_is_named_in_the_configuration(tmp_path: Path) -> None:
    task = task_of("python:tests.tasks.test_recognize:plugged", *CLIPS)
    found = records(task, make_video(frames=8, size=(64, 48)), tmp_path)
    assert found[0].classes == ("red", "green", "blue")
    assert found[0].model == "tests.tasks.test_recognize:plugged"
    assert len(task.fingerprint()["weights.sha256"]) == 64
    with pytest.raises(WeightsUnusable, match=r"write python:package\.module:function"):
        task_of("python:tests.tasks.test_recognize:nothing").fingerprint()
    with pytest.raises(WeightsUnusable, match=r"gives RecognizeTask"):
        task_of("python:tests.tasks.test_recognize:no_bundle").fingerprint()


def no_bundle() -> object:
    return task_of("x")


def test_features_may_be_carried_by_memfof(segmenter: str, tmp_path: Path) -> None:
    memfof = flow_support.weights_file(tmp_path)
    task = task_of(segmenter, "flow=memfof", f"memfof.model={memfof}", "memfof.iterations=1", *CLIPS)
    data = make_video(frames=8, size=(64, 48))
    found = records(task, data, tmp_path / "memfof")
    own = records(task_of(segmenter, *CLIPS), data, tmp_path / "own")
    keys = [record.frame_index for record in own if record.is_key]
    assert [record.frame_index for record in found if record.is_key] == keys
    carried = [place for place in range(8) if place not in keys]
    assert any((found[place].labels != own[place].labels).any() for place in carried)  # type: ignore[union-attr]
    assert all((found[place].labels == own[place].labels).all() for place in keys)  # type: ignore[union-attr]
    assert found[0].weights_sha256 != own[0].weights_sha256


# ---- before any work


def test_weights_that_cannot_be_used_are_refused_before_any_work(tmp_path: Path, segmenter: str) -> None:
    path = tmp_path / "other.safetensors"
    with pytest.raises(WeightsUnusable, match=r"other\.safetensors"):
        task_of(str(path)).fingerprint()
    save_file({"layer.weight": torch.zeros(3)}, str(path))
    with pytest.raises(WeightsUnusable, match="not a Deep Feature Flow checkpoint"):
        task_of(str(path)).fingerprint()
    with pytest.raises(WeightsUnusable, match="tells 5 classes apart, 2 are named"):
        task_of(segmenter, "classes=[a, b]").fingerprint()
    with pytest.raises(ConfigError, match="short_side=7"):
        task_of(segmenter, "short_side=7")


def test_precision_is_decided_once_and_says_why(segmenter: str) -> None:
    assert task_of(segmenter, "precision=bf16").on("cpu").precision == "bf16"
    assert task_of(segmenter).on("cuda").precision == "bf16"
    assert "default on the CPU" in task_of(segmenter).on("cpu").notes()[0]


def test_bf16_differs_little(segmenter: str, tmp_path: Path) -> None:
    data = make_video(frames=4, size=(96, 64))
    exact = records(task_of(segmenter, *CLIPS), data, tmp_path / "fp32")
    rounded = records(task_of(segmenter, *CLIPS, "precision=bf16").on("cpu"), data, tmp_path / "bf16")
    agree = [(one.labels == other.labels).mean() for one, other in zip(exact, rounded, strict=True)]  # type: ignore[union-attr]
    assert min(agree) > 0.9
    assert rounded[0].precision == "bf16"


def test_a_task_travels_to_workers(segmenter: str) -> None:
    task = task_of(segmenter).on("cuda")
    assert pickle.loads(pickle.dumps(task)) == task


def test_the_estimate_of_arithmetic_is_what_a_video_s_frames_took(segmenter: str, tmp_path: Path) -> None:
    task = task_of(segmenter, *CLIPS, "key_frames.promote_above=null")
    data = make_video(frames=16, size=(64, 48))
    ((joined, _),) = join(task, data, process(task, data, tmp_path), tmp_path)
    assert joined.extra["flops"] == task.flops(probed(data, task)[1])


def test_a_worker_loads_the_weights_once(segmenter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load_weights = weights.load
    monkeypatch.setattr(weights, "load", lambda name: loads.append(name) or load_weights(name))
    task = task_of(segmenter, *CLIPS, "clip.frames=4", "argmax=reduced")
    recognize_model._structure.cache_clear()
    process(task, make_video(frames=8, size=(48, 48)), tmp_path)
    assert loads == [segmenter]


def test_the_configuration_file_has_every_default() -> None:
    path = Path(__file__).parents[2] / "configs" / "recognize.yaml"
    assert load(RecognizeConfig, path) == RecognizeConfig()


def test_a_preview_shows_every_frame_at_its_own_time(segmenter: str, tmp_path: Path) -> None:
    task = task_of(segmenter, "preview=true", "clip.frames=3")
    times = [0, 40, 90, 100, 180]
    data = make_video(container="matroska", frames=5, size=(320, 240), pts=times, time_base=Fraction(1, 1000))
    task.check_node()
    made = join(task, data, process(task, data, tmp_path), tmp_path)
    assert [(output.suffix, output.rows, output.result) for output, _ in made] == [
        (".parquet", 5, True), (".preview.mp4", 5, False)
    ]  # fmt: skip
    with av.open(io.BytesIO(made[1][1])) as container:
        frames = list(container.decode(video=0))
    assert [round(1000 * (frame.pts - frames[0].pts) * frame.time_base) for frame in frames] == times
    with av.open(io.BytesIO(data)) as container:
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    drawn = frames[2].to_ndarray(format="rgb24").astype(int)
    assert drawn.shape == (240, 320, 3)
    assert np.abs(drawn - shown[2]).mean() > 5, "something is drawn over the picture"
    info = VideoInfo("matroska", 0, "h264", 64, 48, "yuv420p", Fraction(1, 10**10), (0, 4), 4, ())
    with pytest.raises(UnsupportedVideo, match="preview=false"):
        task.check_video(info)


def test_an_error_in_the_model_ends_the_clip_and_its_threads(
    segmenter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(DeepFeatureFlow, "carried", failing)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        process(task_of(segmenter), make_video(frames=12), tmp_path)
    assert threading.active_count() == before
