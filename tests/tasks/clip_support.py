"""Clips processed and joined as workers and the finaliser do it, without a cluster: for tasks that write records."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.media.probe import probe
from pipeline.plan.clips import plan_clips
from pipeline.run.rows import headers_only
from pipeline.tasks.base import ClipOutput, ClipPart, Task, VideoOutput
from pipeline.types import VideoInfo, VideoRef
from tests.media_factory import as_video


def probed(data: bytes, task: Task, name: str = "video.mp4") -> tuple[VideoRef, VideoInfo]:
    video, file = as_video(data, name)
    return video, probe(file, video, task.config.input, task.config.decode)


def process(task: Task, data: bytes, folder: Path, beats: list[str] | None = None) -> list[ClipOutput]:
    """Every clip of a video, as the worker does it: with headers only."""
    video, info = probed(data, task)
    processor = task.load("cpu", 1)
    outputs = []
    for clip in plan_clips(video, info, task.config.clip.frames, task.halo()):
        scratch = folder / f"clip-{clip.index}"
        scratch.mkdir(parents=True)
        beat = (beats if beats is not None else []).append
        outputs.append(processor.process(clip, headers_only(info), io.BytesIO(data), scratch, beat))
    return outputs


def join(task: Task, data: bytes, clips: Sequence[ClipOutput], folder: Path) -> list[tuple[VideoOutput, bytes]]:
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


def joined_file(task: Task, data: bytes, folder: Path) -> str:
    """Path of a video's one joined file, made from its clips."""
    folder.mkdir(exist_ok=True)
    ((_, content),) = join(task, data, process(task, data, folder), folder)
    path = folder / "whole.parquet"
    path.write_bytes(content)
    return str(path)
