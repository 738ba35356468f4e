"""A small MEMFOF in a file, and flow clips processed and joined as workers do it, without a cluster."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from pipeline.config import load
from pipeline.config_flow import FlowConfig
from pipeline.media.probe import probe
from pipeline.plan.clips import plan_clips
from pipeline.records.flow import read_flow_file
from pipeline.records.flow_schema import FlowRecord
from pipeline.run.rows import headers_only
from pipeline.tasks.base import ClipOutput, ClipPart, VideoOutput
from pipeline.tasks.flow import FlowTask
from pipeline.types import VideoInfo, VideoRef
from tests.media_factory import RGB, as_video
from tests.models.memfof_weights import compact


def weights_file(folder: Path) -> Path:
    path = folder / "tiny.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in compact().to_reference().items()}, str(path))
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a MEMFOF that takes milliseconds a frame, and gives flows of some pixels."""
    return str(weights_file(tmp_path_factory.mktemp("weights")))


def task_of(model: str, *overrides: str) -> FlowTask:
    return FlowTask(load(FlowConfig, None, [f"model={model}", "iterations=1", *overrides]))


def probed(data: bytes, task: FlowTask, name: str = "video.mp4") -> tuple[VideoRef, VideoInfo]:
    video, file = as_video(data, name)
    return video, probe(file, video, task.config.input, task.config.decode)


def process(task: FlowTask, data: bytes, folder: Path, beats: list[str] | None = None) -> list[ClipOutput]:
    """Every clip of a video, as the worker does it: with headers only."""
    video, info = probed(data, task)
    processor = task.load("cpu", 1)
    outputs = []
    for clip in plan_clips(video, info, task.config.clip.frames, task.halo()):
        scratch = folder / f"clip-{clip.index}"
        scratch.mkdir()
        beat = (beats if beats is not None else []).append
        outputs.append(processor.process(clip, headers_only(info), io.BytesIO(data), scratch, beat))
    return outputs


def join(task: FlowTask, data: bytes, clips: Sequence[ClipOutput], folder: Path) -> list[tuple[VideoOutput, bytes]]:
    """A video's final outputs, each with its file's bytes: taken, as the finaliser does, before the next is made."""
    video, info = probed(data, task)
    parts = [
        ClipPart(clip.rows, clip.path.stat().st_size, clip.extra, partial(Path, clip.path))
        for clip in clips
        if clip.path is not None
    ]
    made = []
    for output in task.join(video, headers_only(info), parts, io.BytesIO(data), folder, True):
        made.append((output, output.path.read_bytes()))
        output.path.unlink()
    return made


def records(task: FlowTask, data: bytes, folder: Path) -> list[FlowRecord]:
    """A video's records, from its clips through its joined file."""
    folder.mkdir(exist_ok=True)
    ((_, content),) = join(task, data, process(task, data, folder), folder)
    path = folder / "whole.parquet"
    path.write_bytes(content)
    return list(read_flow_file(str(path)))


def cutting(index: int, width: int, height: int) -> RGB:
    """A texture that moves 2 px to the right a frame, and a cut to another one every seven frames."""
    shot = index // 7
    texture = np.random.default_rng(shot).integers(0, 200, (height // 8, width // 8, 3)).repeat(8, 0).repeat(8, 1)
    return np.roll(texture, 2 * (index % 7), 1).astype(np.uint8)


FIELDS = (
    "flow_forward", "flow_backward", "validity_forward", "validity_backward", "confidence_forward",
    "confidence_backward",
)  # fmt: skip
FACTS = (
    "video_uri", "video_version", "member", "video_id", "shot", "frame_index", "pts", "time_base", "height", "width",
    "previous_pts", "next_pts", "direction", "codec", "max_error_px", "stored_scale", "model", "weights_sha256",
    "iterations", "precision",
)  # fmt: skip


def same(one: FlowRecord, other: FlowRecord) -> bool:
    """Bit for bit, in all that does not say which clip the record came from."""
    if any(getattr(one, name) != getattr(other, name) for name in FACTS):
        return False
    pairs = [(getattr(one, name), getattr(other, name)) for name in FIELDS]
    return all(a is b if a is None or b is None else np.array_equal(a, b) for a, b in pairs)
