"""One clip in, one encoded segment out: counts, kinds, damage, and what is refused before any work."""

from __future__ import annotations

import io
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from safetensors.torch import save_file

from models.cain_sd import CAIN
from models.rife import IFNet
from models.rife.checkpoint import Sizes
from pipeline.config import InterpolateConfig, fingerprint_keys, load
from pipeline.errors import ConfigError, CorruptVideo, UnsupportedVideo, UsageError, WeightsUnusable
from pipeline.media.probe import probe
from pipeline.plan.clips import plan_clips
from pipeline.run.rows import headers_only
from pipeline.tasks.base import ClipOutput
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.types import VideoInfo, VideoRef
from tests.media_factory import as_video, make_video, scramble
from tests.models.named_weights import named_like


def task_of(*overrides: str) -> InterpolateTask:
    fast = ("model=blend", "encode.preset=ultrafast")
    return InterpolateTask(load(InterpolateConfig, None, [*fast, *overrides]))


def probed(data: bytes, task: InterpolateTask) -> tuple[VideoRef, VideoInfo]:
    video, file = as_video(data)
    return video, probe(file, video, task.config.input, task.config.decode)


def process(task: InterpolateTask, data: bytes, folder: Path, beats: list[str] | None = None) -> list[ClipOutput]:
    """Every clip of a video, as the worker does it: with headers only."""
    video, info = probed(data, task)
    processor = task.load("cpu", 1)
    outputs = []
    for clip in plan_clips(video, info, task.config.clip.frames, task.halo()):
        scratch = folder / str(clip.index)
        scratch.mkdir()
        beat = (beats if beats is not None else []).append
        outputs.append(processor.process(clip, headers_only(info), io.BytesIO(data), scratch, beat))
    return outputs


def frames_in(output: ClipOutput) -> int:
    assert output.path is not None
    with av.open(output.path) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize(
    ("target", "expected"),
    [("target.factor=2", 48), ("target.factor=4", 96), ("target.fps=60000/1001", 58), ("target.fps=10", 10)],
)
def test_all_clips_together_have_the_frames_that_the_plan_says(target: str, expected: int, tmp_path: Path) -> None:
    task = task_of(target, "clip.frames=7")
    data = make_video(frames=24, rate=25)
    outputs = process(task, data, tmp_path)
    _, info = probed(data, task)
    assert task.expected_rows(info) == expected
    assert sum(output.rows for output in outputs) == expected
    assert sum(sum(output.extra["kinds"].values()) for output in outputs) == expected
    assert [frames_in(output) for output in outputs] == [output.rows for output in outputs]
    assert all(output.error is None for output in outputs)


def test_doubling_keeps_every_source_frame_and_makes_the_rest(tmp_path: Path) -> None:
    (output,) = process(task_of(), make_video(frames=12), tmp_path)
    assert output.extra["kinds"] == {"source": 12, "synthesised": 11, "held_end": 1}
    assert output.extra["max_t_error"] == "0"
    assert output.extra["first_pts"] == 0
    assert output.seconds["total"] >= output.seconds["model"] > 0


def test_a_clip_that_owns_no_output_frame_is_done_with_none_and_still_shows_life(tmp_path: Path) -> None:
    beats: list[str] = []
    outputs = process(task_of("target.fps=2", "clip.frames=4"), make_video(frames=16, rate=25), tmp_path, beats)
    assert [output.rows for output in outputs] == [1, 0, 0, 1]
    assert outputs[1].path is None
    assert outputs[1].error is None
    assert len(beats) >= 16, "a sign of life for every source frame"


def test_damage_keeps_the_good_beginning_and_says_how_far_it_got(tmp_path: Path) -> None:
    data = make_video(frames=48, options={"preset": "ultrafast", "x264-params": "bframes=0:threads=1"}, size=(128, 96))
    (output,) = process(task_of("decode.corruption=refuse"), scramble(data, 0.6, 2000), tmp_path)
    assert isinstance(output.error, CorruptVideo)
    assert output.error.pts is not None
    assert 0 < output.rows < 96
    assert output.rows % 2 == 1, "the last good frame itself is the last one"
    assert frames_in(output) == output.rows


def test_the_size_of_the_decode_queue_changes_no_byte(tmp_path: Path) -> None:
    data = make_video(frames=10)
    made = []
    for size in (1, 8):
        folder = tmp_path / f"queue-{size}"
        folder.mkdir()
        (output,) = process(task_of(f"decode.queue_frames={size}"), data, folder)
        assert output.path is not None
        made.append(output.path.read_bytes())
    assert made[0] == made[1]


def test_a_time_base_too_fine_to_divide_is_refused_before_any_clip() -> None:
    task = task_of("target.factor=64")
    info = VideoInfo("matroska", 0, "h264", 64, 48, "yuv420p", Fraction(1, 10**9), (0, 4), 4, ())
    with pytest.raises(UnsupportedVideo, match=r"target\.fps"):
        task.check_video(info)


def test_auto_precision_is_decided_by_the_device_once() -> None:
    assert task_of("model=cain-compact").on("cuda").precision == "bf16"
    assert task_of("model=cain-compact").on("cpu").precision == "fp32"
    assert task_of().on("cuda").precision == "fp32"
    assert task_of("precision=bf16").on("cpu").precision == "bf16"


def weights_file(folder: Path, groups: int = 2) -> Path:
    torch.manual_seed(1)
    network = CAIN(channels=16, rcabs=1, groups=groups, reduction=4)
    path = folder / "tiny.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.to_reference().items()}, str(path))
    return path


def test_weights_from_a_file_run_and_are_named_in_the_result(tmp_path: Path) -> None:
    task = task_of(f"model={weights_file(tmp_path)}", "exit_depth=2")
    (output,) = process(task, make_video(frames=4), tmp_path)
    assert output.extra["kinds"]["synthesised"] == 3
    assert task.load("cpu", 1).weights_sha256 == task.fingerprint()["weights.sha256"] != ""


def test_an_exit_that_the_weights_do_not_have_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exits 1 to 2"):
        task_of(f"model={weights_file(tmp_path)}").fingerprint()


@pytest.mark.parametrize("content", [b"", b"not weights at all", None])
def test_weights_that_cannot_be_used_are_refused_before_any_work(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsUnusable, match=r"bad\.safetensors"):
        task_of(f"model={path}").fingerprint()


def test_weights_of_another_network_are_refused_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"layer.weight": torch.zeros(3)}, str(path))
    with pytest.raises(WeightsUnusable, match="not a CAIN"):
        task_of(f"model={path}").fingerprint()


def rife_file(folder: Path) -> Path:
    network = IFNet(Sizes(widths=(16, 8, 8, 8), convs=1, hidden=8, features=4))
    network.load_state_dict(named_like(network.state_dict()))
    path = folder / "flownet.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.to_reference().items()}, str(path))
    return path


def test_rife_s_weights_are_recognised_and_meet_every_time_exactly(tmp_path: Path) -> None:
    path = rife_file(tmp_path)
    # Midpoints could not: that is only known once the weights have been read.
    task = task_of(f"model={path}", "target.fps=60000/1001", "max_t_error=0", "max_depth=1")
    data = make_video(frames=12, rate=25)
    (output,) = process(task, data, tmp_path)
    assert output.extra["max_t_error"] == "0"
    assert output.extra["kinds"]["synthesised"] >= 20
    assert "source_near" not in output.extra["kinds"]
    assert task.flops(probed(data, task)[1]) > 0
    with pytest.raises(ConfigError, match="max_t_error=0 cannot be met"):
        task_of(f"model={weights_file(tmp_path)}", "target.fps=60", "max_t_error=0", "exit_depth=2").fingerprint()


def test_auto_takes_rife_where_it_is_at_hand_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTIONMILL_WEIGHTS", str(tmp_path))
    without = task_of("model=auto")
    assert without.config.model == "cain-sd-compact"
    assert without.fingerprint()["weights.sha256"] == task_of("model=cain-sd-compact").fingerprint()["weights.sha256"]
    assert "rife-4.14 is not fetched" in without.notes()[0]
    (tmp_path / "rife-4.14.pkl").write_bytes(b"there, and that is all that is looked at")
    with_rife = task_of("model=auto")
    assert with_rife.config.model == "rife-4.14"
    assert fingerprint_keys(with_rife.config)["model"] == "rife-4.14"
    assert str(tmp_path) in with_rife.notes()[0]
    assert pickle.loads(pickle.dumps(with_rife)) == with_rife
    assert task_of("model=cain-compact").notes() == []
    with pytest.raises(WeightsUnusable, match="sha256 is"):
        with_rife.fingerprint()


def test_rife_that_a_node_lacks_is_found_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTIONMILL_WEIGHTS", str(tmp_path))
    with pytest.raises(UsageError, match=r"jobs/weights\.py fetch rife-4\.14, on every node"):
        task_of("model=rife-4.14").check_node()


def test_a_task_travels_to_workers(tmp_path: Path) -> None:
    task: Any = task_of("target.fps=60000/1001")
    assert pickle.loads(pickle.dumps(task)) == task
