"""Adaptive models in the job's own clips: the same frames however a video is cut, and what the fingerprint holds."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import save_file

from pipeline.config import InterpolateConfig, fingerprint_keys, load
from pipeline.tasks.interpolate import InterpolateTask
from tests.media_factory import RGB, make_video, picture
from tests.tasks.clip_support import probed, process
from tests.tasks.test_adaptive import network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "sd.safetensors"
    save_file({name: value.contiguous() for name, value in network().to_tensors().items()}, path)
    return str(path)


def task_of(weights: str, *overrides: str) -> InterpolateTask:
    settings = (
        f"model={weights}", "exit_depth=3", "adaptive_patch.size=64", "adaptive_patch.overlap=16",
        "encode.preset=ultrafast", "encode.crf=0", "target.factor=4", "cuts.detect=false",
    )  # fmt: skip
    return InterpolateTask(load(InterpolateConfig, None, [*settings, *overrides]))


def half_still(index: int, width: int, height: int) -> RGB:
    """A picture whose left half never changes."""
    image = picture(index, width, height)
    image[:, : width // 2] = picture(0, width, height)[:, : width // 2]
    return image


def frames_of(task: InterpolateTask, data: bytes, folder: Path) -> list[NDArray[np.uint8]]:
    """The luma of all clips' frames, in order."""
    frames = []
    for output in process(task, data, folder):
        assert output.error is None
        assert output.path is not None
        with av.open(output.path) as container:
            frames += [frame.to_ndarray()[: frame.height] for frame in container.decode(video=0)]
    return frames


def test_frames_do_not_depend_on_how_the_video_was_cut_nor_on_the_batch(weights: str, tmp_path: Path) -> None:
    data = make_video(frames=7, size=(144, 96), image=half_still, options={"crf": "0"})
    whole = frames_of(task_of(weights), data, tmp_path / "whole")
    assert len(whole) == 28
    for name, sets in {"threes": ("clip.frames=3", "batch=1"), "ones": ("clip.frames=1", "batch=7")}.items():
        other = frames_of(task_of(weights, *sets), data, tmp_path / name)
        assert len(other) == len(whole)
        assert all(np.array_equal(a, b) for a, b in zip(whole, other, strict=True))
    source, middle = whole[4].astype(int), whole[6]
    assert np.abs(source - middle)[:, :40].mean() < 0.5, "what stands still stays as it is, to rounding in RGB"
    assert np.abs(source - middle)[:, 104:].mean() > 5


def test_what_steers_decisions_is_in_the_fingerprint_and_in_the_plan(weights: str) -> None:
    data = make_video(frames=4, size=(144, 96))
    keys = fingerprint_keys(task_of(weights).config)
    assert {"adaptive", "quality", "flops_budget", "adaptive_patch.size", "adaptive_patch.static"} <= set(keys)
    assert "batch" not in keys
    costs = []
    for sets in ((), ("quality=0",), ("flops_budget=0.6",), ("adaptive=false",)):
        task = task_of(weights, *sets)
        costs.append(task.flops(probed(data, task)[1]))
    free, cheapest, bounded, full = costs
    assert 0 < cheapest < bounded < full < free, (
        "patches overlap, so that at most a little more than full depth is spent"
    )
    assert bounded <= 0.61 * full


def test_what_a_clip_spent_counts_pictures_that_are_only_passed_through(weights: str, tmp_path: Path) -> None:
    """Thirds lie near 3/8 and 5/8: two pictures are kept of the five that are made, at quality 1 each for the most."""
    data = make_video(frames=4, size=(144, 96))
    task = task_of(weights, "target.factor=3", "quality=1", "clip.frames=2", "max_t_error=1/16")
    info = probed(data, task)[1]
    outputs = process(task, data, tmp_path)
    assert sum(output.spent_flops for output in outputs) == task.flops(info)
    assert sum(output.work for output in outputs) < task.flops(info)
    plain = process(task_of(weights, "adaptive=false"), data, tmp_path / "plain")
    assert {output.spent_flops for output in plain} == {0}
