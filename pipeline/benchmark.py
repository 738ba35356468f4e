"""Interpolation speed, measured three ways in one run on one machine with the same weights (jobs/benchmark.py).

    bare    the model alone, in a loop on decoded frames, in as many processes and threads as the job uses
    codecs  all but the model (decode, colours, encode) in the same processes. On a CPU both want the same cores: where
            actors fill them, the bound of what the job can reach is 1 / (1 / bare + 1 / codecs)
    job     jobs/interpolate.py, from the first clip's start to the last one's end, and with its start-up
    plain   one process: decode, model, encode in turn, with all cores' threads, over the same video

All rates are synthesised frames a second.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import config as configuration
from pipeline.config import EncodeConfig, InterpolateConfig
from pipeline.media.colour import from_rgb, to_rgb
from pipeline.media.decode import decode_clip
from pipeline.media.encode import EncodePlan, SegmentEncoder
from pipeline.media.frame import Frame, PixelFormat
from pipeline.media.probe import probe
from pipeline.plan.clips import plan_clips
from pipeline.plan.discover import discover
from pipeline.plan.grid import make_grid
from pipeline.run import allocator
from pipeline.storage import Storage
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.tasks.interpolators import Pair
from pipeline.tasks.intervals import intervals
from pipeline.types import ClipRef, VideoInfo, VideoRef

ROOT = Path(__file__).resolve().parents[1]
HALF = (Fraction(1, 2),)


@dataclass(frozen=True, slots=True)
class Speed:
    """Synthesised frames a second."""

    video: str
    width: int
    height: int
    model: str
    actors: int
    threads: int
    cores: int
    bare: float
    codecs: float
    job: float
    job_with_start_up: float
    plain: float
    job_stage_s: dict[str, float]

    @property
    def bound(self) -> float:
        """Model, decode and encode without a pause: no faster than the model, nor than all that on all of the cores."""
        used = self.actors * self.threads
        return min(self.bare, self.cores / used / (1 / self.bare + 1 / self.codecs))

    def text(self) -> str:
        return "\n".join(
            [
                f"{self.video} {self.width}x{self.height}, {self.model}, {self.actors} x {self.threads} threads "
                f"on {self.cores} cores; synthesised frames a second:",
                f"  bare model                  {self.bare:8.3f}",
                f"  all but the model           {self.codecs:8.3f}",
                f"  both on these cores: bound  {self.bound:8.3f}",
                f"  the job                     {self.job:8.3f}   {self.job / self.bound:.2f} of the bound, "
                f"{self.job / self.bare:.2f} of the bare model",
                f"  the job, start-up included  {self.job_with_start_up:8.3f}",
                f"  plain script                {self.plain:8.3f}   {self.job / self.plain:.2f} times: the job's gain",
                "  the job's seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in self.job_stage_s.items()),
            ]
        )


def speed(source: str, settings: Sequence[str], seconds: float) -> Speed:
    """Runs all of them, one after the other. `seconds`: about how long the bare and the codec loop take each."""
    config = configuration.load(InterpolateConfig, None, settings)
    video, info, _ = _open(source, config)
    with tempfile.TemporaryDirectory() as folder:
        summary = _job(source, settings, config, Path(folder))
    placement = summary["placement"]
    kinds, stages = summary["frames_by_kind"], summary["stage_s"]
    made = kinds.get("synthesised", 0)
    working = summary["frames"] / summary["frames_per_second"]
    actors, threads = int(placement["actors"]), int(placement["threads"])
    return Speed(
        video=video.name,
        width=info.width,
        height=info.height,
        model=config.model,
        actors=actors,
        threads=threads,
        cores=len(os.sched_getaffinity(0)),
        bare=_together(_bare_loop, source, settings, actors, threads, seconds),
        codecs=_together(_codec_loop, source, settings, actors, threads, seconds),
        job=made / working,
        job_with_start_up=made / summary["wall_s"],
        plain=plain(source, config),
        job_stage_s=stages,
    )


def _open(source: str, config: InterpolateConfig) -> tuple[VideoRef, VideoInfo, ClipRef]:
    """The first video of `source`, and one clip that holds all of it."""
    video = next(item for item in discover(source, config.input, Storage()) if isinstance(item, VideoRef))
    with Storage().open(video.uri) as file:
        info = probe(file, video, config.input, config.decode)
    return video, info, plan_clips(video, info, len(info.pts), (0, 0))[0]


def _job(source: str, settings: Sequence[str], config: InterpolateConfig, folder: Path) -> dict[str, Any]:
    """The job over two copies of the video for each actor."""
    clips = folder / "in"
    clips.mkdir()
    actors = len(os.sched_getaffinity(0)) if config.resources.actors == "auto" else config.resources.actors
    for number in range(2 * actors):
        shutil.copy(source, clips / f"{number:02d}{Path(source).suffix}")
    command = [sys.executable, str(ROOT / "jobs" / "interpolate.py"), str(clips), str(folder / "out")]
    for setting in settings:
        command += ["--set", setting]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((folder / "out" / "_motionmill" / "summary.json").read_text())
    return summary


PAIRS = 32
"""Pairs of frames, at most, that the bare model goes through again and again: from all over the video, because what an
adaptive model spends depends on what moves."""


def _together(
    loop: Callable[[str, Sequence[str], int, float], float],
    source: str,
    settings: Sequence[str],
    processes: int,
    threads: int,
    seconds: float,
) -> float:
    """The sum of what `loop` reaches in `processes` at the same time."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with allocator.inherited(), context.Pool(processes, _set_barrier, (barrier,)) as pool:
        return sum(pool.starmap(loop, [(source, tuple(settings), threads, seconds)] * processes, chunksize=1))


_BARRIER: Any = None


def _set_barrier(barrier: Any) -> None:
    global _BARRIER
    _BARRIER = barrier


def _bare_loop(source: str, settings: Sequence[str], threads: int, seconds: float) -> float:
    config = configuration.load(InterpolateConfig, None, settings)
    model = InterpolateTask(config).on("cpu").load("cpu", threads).interpolator
    _, info, clip = _open(source, config)
    count = len(info.pts) - 1
    taken = {number * count // PAIRS for number in range(PAIRS)}
    grid = make_grid(config.target, info.time_base, info.pts[0])
    with open(source, "rb") as file:
        own = intervals(decode_clip(file, clip, config.decode), clip, grid, config.cuts, config.duplicates)
        # Not those across cuts, which the job holds.
        pairs = [(each.left, each.right) for index, each in enumerate(own) if index in taken and each.right is not None]

    def run(number: int) -> float:
        # Steps of 0.618: however soon the time is over, the pairs came from everywhere.
        left, right = pairs[round(number * 0.618 * len(pairs)) % len(pairs)]
        pair = Pair(to_rgb(left, info.colour), to_rgb(right, info.colour), HALF)
        started = time.perf_counter()
        model.between([pair])
        return time.perf_counter() - started

    run(0)
    _BARRIER.wait()
    spent, made = 0.0, 0
    while spent < seconds:
        spent += run(made)
        made += 1
    return made / spent


def _codec_loop(source: str, settings: Sequence[str], threads: int, seconds: float) -> float:
    config = configuration.load(InterpolateConfig, None, settings)
    torch.set_num_threads(threads)
    _, info, clip = _open(source, config)
    plan = EncodePlan.build(info, config.encode, info.time_base / 2)
    _BARRIER.wait()
    started, made = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        with (
            tempfile.TemporaryDirectory() as folder,
            open(source, "rb") as file,
            SegmentEncoder(Path(folder) / "codec.mp4", plan) as encoder,
        ):
            before: tuple[Frame, torch.Tensor] | None = None
            for frame in decode_clip(file, clip, config.decode):
                picture = to_rgb(frame, info.colour)
                if before is not None:  # the mean of both stands in for the model's picture
                    planes = from_rgb((before[1] + picture) / 2, frame.format, info.colour)
                    encoder.write(Frame(before[0].pts + frame.pts, planes, frame.format))
                    made += 1
                encoder.write(Frame(2 * frame.pts, frame.planes, frame.format))
                before = (frame, picture)
    return made / (time.perf_counter() - started)


def plain(source: str, config: InterpolateConfig) -> float:
    """Decode, model and encode in turn, in this process, with a thread for every core: the whole video once.

    What an adaptive model spends depends on what moves: fewer frames than the job's would be other frames.
    """
    model = InterpolateTask(config).on("cpu").load("cpu", len(os.sched_getaffinity(0))).interpolator
    _, info, clip = _open(source, config)
    plan = EncodePlan.build(info, config.encode, info.time_base / 2)
    made, started, last = 0, 0.0, 0.0
    with (
        tempfile.TemporaryDirectory() as folder,
        open(source, "rb") as file,
        SegmentEncoder(Path(folder) / "plain.mp4", plan) as encoder,
    ):
        before: Frame | None = None
        for frame in decode_clip(file, clip, config.decode):
            if before is not None:
                pair = Pair(to_rgb(before, info.colour), to_rgb(frame, info.colour), HALF)
                picture = model.between([pair])[0][0].picture
                planes = from_rgb(picture, frame.format, info.colour)
                encoder.write(Frame(before.pts + frame.pts, planes, frame.format))
                last = time.perf_counter()
                made += started > 0
                started = started or last  # the first frame warms up
            encoder.write(Frame(2 * frame.pts, frame.planes, frame.format))
            before = frame
    return made / (last - started)


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak resident bytes of the largest worker."""

    seconds: int
    frames: int
    peak_rss: int


def memory(settings: Sequence[str], lengths: Sequence[int], rate: int) -> list[Memory]:
    """The job on 1080p video of several lengths (seconds, at `rate` frames a second), one run each."""
    results = []
    for length in lengths:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            clip = folder / "clip.mp4"
            _make_1080p(clip, length * rate, rate)
            command = [sys.executable, str(ROOT / "jobs" / "interpolate.py"), str(clip), str(folder / "out")]
            for setting in ("resources.actors=1", *settings):
                command += ["--set", setting]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            summary = json.loads((folder / "out" / "_motionmill" / "summary.json").read_text())
            results.append(Memory(length, length * rate, int(summary["peak_rss"])))
    return results


def _make_1080p(path: Path, frames: int, rate: int) -> None:
    """A smooth random texture panned by whole pixels: real motion, made by code."""
    form = PixelFormat.of("yuv420p")
    coarse = torch.rand(1, 1, 140, 240, generator=torch.Generator().manual_seed(1))
    texture = torch.nn.functional.interpolate(coarse, size=(1200, 2100), mode="bicubic")[0, 0]
    luma = (texture.clamp(0, 1) * 219 + 16).to(torch.uint8).numpy()
    chroma = np.full((540, 960), 128, np.uint8)
    info = VideoInfo(
        "mp4", 0, "h264", 1920, 1080, form.name, Fraction(1, rate), (0,), frames, (), average_rate=Fraction(rate)
    )
    plan = EncodePlan.build(info, EncodeConfig(preset="ultrafast", crf=23), info.time_base)
    with SegmentEncoder(path, plan) as encoder:
        for number in range(frames):
            top, left = 3 * number % 120, 5 * number % 180
            picture = np.ascontiguousarray(luma[top : top + 1080, left : left + 1920])
            encoder.write(Frame(number, (picture, chroma, chroma), form))


def as_json(results: Sequence[Any]) -> str:
    return json.dumps([asdict(item) for item in results], indent=1)
