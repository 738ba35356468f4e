"""Flow's speed and memory on the CPU, three ways in one run with the same weights (jobs/benchmark.py flow).

    upstream   a triplet at a time as the authors' code evaluates it (pipeline/benchmark_upstream.py)
    ours       models.memfof.stream over the frames, validity included, as the job calls it: the bare model
    job        jobs/flow.py, from the first clip's start to the last one's end, and with its start-up

The first two take turns, frame by frame, in as many processes and threads as the job uses, one half of the rounds
before the job and one after it: what else the machine does hurts all three alike. Rates are frames a second of all
processes, from medians. Peak memory is that of a process that has done nothing else.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from models.memfof import MEMFOF
from pipeline import config as configuration
from pipeline.benchmark_flow_loops import WAYS, Plan, open_video, peak_of, rounds_of
from pipeline.benchmark_upstream import evaluate_as_upstream
from pipeline.config import EncodeConfig
from pipeline.config_flow import FlowConfig
from pipeline.errors import ConfigError
from pipeline.media.colour import from_rgb, to_rgb
from pipeline.media.decode import decode_clip
from pipeline.media.encode import EncodePlan, SegmentEncoder
from pipeline.media.frame import Frame
from pipeline.tasks import flow_model
from pipeline.tasks.flow import FlowTask

ROOT = Path(__file__).resolve().parents[1]
RANDOM_FULL = "random-full"
"""The published network's sizes without its weights: how long a frame takes does not depend on them."""
CLIPS_A_CORE = 2
"""Clips of the job: enough that no actor is idle for long at the end."""


@dataclass(frozen=True, slots=True)
class Job:
    """jobs/flow.py over several clips."""

    frames_per_s: float
    with_start_up: float
    peak_rss: int
    """Bytes of the largest worker."""
    frames: int
    output_bytes: int
    stage_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class FlowSpeed:
    """Frames a second; bytes of a process at its largest."""

    video: str
    width: int
    height: int
    model: str
    iterations: int
    precision: str
    processes: int
    threads: int
    cores: int
    rounds: int
    load: float
    """Processes that wanted to run when it began (load average): this machine's were free where it is near zero."""
    upstream: float
    ours: float
    time_share: float
    """Ours of upstream's time: the median over the rounds, each of which measures both."""
    cpu_share: float
    """Likewise of its processor time: the one to look at where the machine was busy."""
    difference_px: float
    """Largest difference between the two's flows."""
    upstream_macs: int
    ours_macs: int
    loaded_rss: int
    """Of a process that has loaded the weights and not yet computed."""
    upstream_rss: int
    ours_rss: int
    job: Job | None

    def text(self) -> str:
        def line(name: str, rate: float, macs: int | None, rss: int | None, note: str) -> str:
            cost = f"{macs / 1e9:8.1f}" if macs is not None else " " * 8
            peak = f"{rss / 2**20:8.0f}" if rss is not None else " " * 8
            return f"  {name:<30}{rate:9.4f} {cost} {peak}   {note}".rstrip()

        lines = [
            f"{self.video} at {self.width}x{self.height}, {self.model}, {self.iterations} iterations, "
            f"{self.precision}, {self.processes} x {self.threads} threads on {self.cores} cores, {self.rounds} rounds, "
            f"load average {self.load:.1f}:",
            f"  {'':<30}{'frames/s':>9} {'GMAC':>8} {'peak MiB':>8}",
            line("upstream's way", self.upstream, self.upstream_macs, self.upstream_rss, ""),
            line(
                "ours, the bare model", self.ours, self.ours_macs, self.ours_rss,
                f"{self.time_share:.2f} of upstream's time ({self.cpu_share:.2f} of its processor time); "
                f"flows differ by {self.difference_px:.1g} px at most",
            ),
        ]  # fmt: skip
        if (job := self.job) is not None:
            share = f"{job.frames_per_s / self.ours:.2f} of the bare model"
            lines += [
                line("the job", job.frames_per_s, None, job.peak_rss, share),
                line("the job, start-up included", job.with_start_up, None, None, f"{job.frames} frames"),
                "  the job's seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in job.stage_s.items()),
            ]
        lines.append(f"  a process with the weights alone takes {self.loaded_rss / 2**20:.0f} MiB")
        return "\n".join(lines)


def speed(
    source: str,
    model: str | None,
    settings: Sequence[str],
    *,
    size: tuple[int, int] | None,
    frames: int,
    rounds: int,
    with_job: bool = True,
) -> FlowSpeed:
    """Runs all three.

    size      (width, height) that the video is scaled to; None: as it is
    frames    of each of the job's clips
    rounds    in which both bare loops compute a frame
    Raises ConfigError for a model, a setting or a video that cannot be measured.
    """
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = [*settings, *_model_setting(model, folder)]
        config = configuration.load(FlowConfig, None, settings)
        task = FlowTask(config).on("cpu")
        settings.append(f"precision={task.precision}")
        processes = config.resources.actors if config.resources.actors != "auto" else cores()
        threads = config.resources.cpu_threads if config.resources.cpu_threads != "auto" else 1
        clip = folder / "clip.mp4"
        width, height = scaled(source, clip, size, frames, config)
        macs = upstream_macs(config.model, height, width, config.iterations)
        plan = Plan(str(clip), tuple(settings), threads)
        before = rounds_of(plan, processes, rounds - rounds // 2)
        job = _job(clip, settings, processes, threads, folder) if with_job else None
        after = rounds_of(plan, processes, rounds // 2)
        measured = [turn for turns in (before, after) for turn in turns]
        peaks = {way: peak_of(plan, way) for way in ("loaded", *WAYS)}
        return FlowSpeed(
            video=Path(source).name,
            width=width,
            height=height,
            model=model or config.model,
            iterations=config.iterations,
            precision=task.precision,
            processes=processes,
            threads=threads,
            cores=cores(),
            rounds=rounds,
            load=load,
            upstream=processes / statistics.median(turn.upstream_s for turn in measured),
            ours=processes / statistics.median(turn.ours_s for turn in measured),
            time_share=statistics.median(turn.ours_s / turn.upstream_s for turn in measured),
            cpu_share=statistics.median(turn.cpu_share for turn in measured),
            difference_px=max(turn.difference_px for turn in measured),
            upstream_macs=macs,
            ours_macs=flow_model.macs(config.model, height, width, config.iterations)[1],
            loaded_rss=peaks["loaded"],
            upstream_rss=peaks["upstream"],
            ours_rss=peaks["ours"],
            job=job,
        )


def size_of(text: str) -> tuple[int, int] | None:
    """ "960x540" -> (960, 540); "" -> None. ConfigError for anything else."""
    if not text:
        return None
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise ConfigError(f"size {text!r}: WIDTHxHEIGHT in pixels, as in 960x540")
    return int(found[1]), int(found[2])


def cores() -> int:
    return len(os.sched_getaffinity(0))


def _model_setting(model: str | None, folder: Path) -> list[str]:
    if model is None:
        return []
    if model != RANDOM_FULL:
        return [f"model={model}"]
    path = folder / f"{RANDOM_FULL}.safetensors"
    torch.manual_seed(0)
    tensors = MEMFOF().to_reference()
    # As they are drawn, flows go past 1000 px, where rounding shows as pixels and records grow as none of real motion.
    tensors["flow_head.2.weight"] = tensors["flow_head.2.weight"] / 100
    save_file(tensors, str(path))
    return [f"model={path}"]


def scaled(source: str, path: Path, size: tuple[int, int] | None, frames: int, config: FlowConfig) -> tuple[int, int]:
    """Writes the video's first frames at another size; returns (width, height). ConfigError where it has too few."""
    _, info, clip = open_video(source, config)
    width, height = size or (info.width, info.height)
    target = replace(info, width=width, height=height)
    plan = EncodePlan.build(target, EncodeConfig(preset="veryfast", crf=18), info.time_base)
    count = 0
    with open(source, "rb") as file, SegmentEncoder(path, plan) as encoder:
        for frame in itertools.islice(decode_clip(file, clip, config.decode), frames):
            rgb = to_rgb(frame, info.colour)
            if rgb.shape[-2:] != (height, width):
                rgb = torch.nn.functional.interpolate(rgb[None], size=(height, width), mode="bilinear", antialias=True)[
                    0
                ]
            encoder.write(Frame(frame.pts, from_rgb(rgb, frame.format, info.colour), frame.format))
            count += 1
    if count < 3:
        raise ConfigError(f"{source}: {count} frames; a triplet takes 3, give a longer video")
    return width, height


def upstream_macs(model: str, height: int, width: int, iterations: int) -> int:
    """Multiply-accumulates of a triplet, counted as flow_model.macs counts ours. ConfigError for small frames."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = MEMFOF(flow_model.facts(model).sizes).eval()
        try:
            evaluate_as_upstream(network, torch.empty(1, 3, 3, height, width), iterations)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return int(counter.get_total_flops()) // 2


def _job(clip: Path, settings: Sequence[str], actors: int, threads: int, folder: Path) -> Job:
    """The job over copies of the clip."""
    clips = folder / "in"
    clips.mkdir()
    for number in range(CLIPS_A_CORE * cores()):
        shutil.copy(clip, clips / f"{number:02d}.mp4")
    output = folder / "out"
    command = [sys.executable, str(ROOT / "jobs" / "flow.py"), str(clips), str(output)]
    for setting in (*settings, f"resources.actors={actors}", f"resources.cpu_threads={threads}",
                    "resources.gpus_per_actor=0"):  # fmt: skip
        command += ["--set", setting]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((output / "_motionmill" / "summary.json").read_text())
    return Job(
        frames_per_s=summary["frames_per_second"],
        with_start_up=summary["frames"] / summary["wall_s"],
        peak_rss=summary["peak_rss"],
        frames=summary["frames"],
        output_bytes=summary["output_bytes"],
        stage_s=summary["stage_s"],
    )
