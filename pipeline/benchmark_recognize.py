"""What Deep Feature Flow gains over running the network on every frame (jobs/benchmark.py recognize).

One run measures, with the same weights on the same decoded frames, from frame to labels or boxes:

    per frame      the whole network on each
    fixed          the paper's schedule
    lookahead      key frames chosen with a look at what comes; choosing them is in its time
    the job        jobs/recognize.py, from the first clip's start to the last one's end

The loops run in as many processes and threads as the job has, and take turns. Beside each speed-up stands what Eq. 7
of the paper predicts from arithmetic alone, which counts neither head, warp nor schedule. `random` weights have the
published sizes: how long a frame takes does not depend on their values, but that labels vary as a picture does.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from models.dff import DeepFeatureFlow, FeatureNet, FlowNet, PaperNetwork, SegHead
from models.dff.bundle import CITYSCAPES, Bundle, pack
from models.dff.cost import predicted_speedup
from pipeline import config as configuration
from pipeline.benchmark_flow import ROOT, cores, scaled
from pipeline.benchmark_recognize_loops import PART_NAMES, PER_FRAME, Case, Pass, Plan, cases_of, passes_of
from pipeline.config_flow import FlowConfig
from pipeline.config_recognize import RecognizeConfig
from pipeline.tasks import recognize_model

FLOWS = {"flownet": 1.0, "half": 0.5}
"""Widths of the published flow networks."""


@dataclass(frozen=True, slots=True)
class Line:
    """One way, over all processes and rounds."""

    case: str
    keys: int
    """Of the clip's frames."""
    frames_per_s: float
    speed_up: float
    """Over the per-frame network, by the clock: medians."""
    cpu_speed_up: float
    """The same by processor time: the one to look at where the machine was busy."""
    predicted: float
    """Eq. 7, at the keys that were used."""
    parts_ms: dict[str, float]
    """Milliseconds a frame, by what took them."""


@dataclass(frozen=True, slots=True)
class Job:
    case: str
    frames_per_s: float
    share: float
    """Of the bare loop's rate."""
    stage_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class RecognizeSpeed:
    """Of one model."""

    video: str
    width: int
    height: int
    frames: int
    model: str
    precision: str
    processes: int
    threads: int
    cores: int
    load: float
    """Processes that wanted to run when it began (load average)."""
    ratio: float
    """1/r of the paper: the feature network's arithmetic over the flow network's."""
    lines: list[Line]
    jobs: list[Job]

    def text(self) -> str:
        rows = [
            f"{self.model} at {self.width}x{self.height}, {self.frames} frames of {self.video}, {self.precision}, "
            f"{self.processes} x {self.threads} threads on {self.cores} cores, load average {self.load:.1f}, "
            f"1/r {self.ratio:.2f}:",
            f"  {'':<18}{'keys':>5}{'frames/s':>10}{'speed-up':>10}{'by CPU':>8}{'Eq. 7':>7}   ms a frame: "
            + ", ".join(PART_NAMES),
        ]
        for line in self.lines:
            parts = "  ".join(f"{line.parts_ms.get(name, 0):.1f}" for name in PART_NAMES)
            rows.append(
                f"  {line.case:<18}{line.keys:>5}{line.frames_per_s:>10.3f}{line.speed_up:>10.2f}"
                f"{line.cpu_speed_up:>8.2f}{line.predicted:>7.2f}   {parts}"
            )
        for job in self.jobs:
            seconds = ", ".join(f"{name} {value:.1f}" for name, value in job.stage_s.items())
            rows.append(
                f"  {'job, ' + job.case:<23}{job.frames_per_s:>10.3f}   {job.share:.2f} of the bare loop; {seconds} s"
            )
        return "\n".join(rows)


def speed(
    source: str,
    models: Sequence[str],
    settings: Sequence[str],
    *,
    size: tuple[int, int] | None,
    frames: int,
    rounds: int,
    budgets: Sequence[Fraction],
    with_job: bool = True,
) -> list[RecognizeSpeed]:
    """One result a model.

    models    names, paths or URIs of weights; r101-flownet, r101-half, r50-flownet, r50-half: random ones of the
              published sizes
    size      (width, height) that the video is scaled to; None: as it is
    Raises ConfigError for a model, a setting or a video that cannot be measured.
    """
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        width, height = scaled(source, clip, size, frames, FlowConfig())
        for number, model in enumerate(models):
            load = os.getloadavg()[0]
            own = [*settings, f"model={_weights(model, folder)}"]
            config = configuration.load(RecognizeConfig, None, own)
            resources = config.resources
            processes = resources.actors if resources.actors != "auto" else cores()
            threads = resources.cpu_threads if resources.cpu_threads != "auto" else 1
            costs = recognize_model.costs(config, height, width)
            plan = Plan(str(clip), tuple(own), threads, cases_of(tuple(budgets)))
            ratio = costs.features / max(1, costs.flow)
            lines = lines_of(passes_of(plan, processes, rounds), plan.cases, processes, ratio)
            jobs = []
            if with_job:
                last = plan.cases[-1]
                bare = next(line for line in lines if line.case == str(last))
                jobs.append(_job(clip, own, last, bare, processes, threads, folder / f"job{number}"))
            results.append(
                RecognizeSpeed(
                    video=Path(source).name,
                    width=width,
                    height=height,
                    frames=frames,
                    model=model,
                    precision=config.precision if config.precision != "auto" else "fp32",
                    processes=processes,
                    threads=threads,
                    cores=cores(),
                    load=load,
                    ratio=ratio,
                    lines=lines,
                    jobs=jobs,
                )
            )
    return results


def lines_of(passes: Sequence[Pass], cases: Sequence[Case], processes: int, ratio: float) -> list[Line]:
    """What the passes of all processes come to, a line a case; the first case is the per-frame network."""
    each: dict[Case, list[Pass]] = {case: [one for one in passes if one.case == case] for case in cases}
    seconds = {case: statistics.median(one.seconds / one.frames for one in own) for case, own in each.items()}
    cpu = {case: statistics.median(one.cpu_s / one.frames for one in own) for case, own in each.items()}
    lines = []
    for case, own in each.items():
        count, keys = own[0].frames, own[0].keys
        parts = {
            name: 1000 * statistics.median(one.parts.get(name, 0.0) / one.frames for one in own) for name in PART_NAMES
        }
        lines.append(
            Line(
                case=str(case),
                keys=keys,
                frames_per_s=processes / seconds[case],
                speed_up=seconds[PER_FRAME] / seconds[case],
                cpu_speed_up=cpu[PER_FRAME] / cpu[case],
                predicted=predicted_speedup(count / keys, 1 / ratio),
                parts_ms=parts,
            )
        )
    return lines


def _weights(model: str, folder: Path) -> str:
    """A path of random weights, or the model as it was named."""
    depth, _, flow = model.partition("-")
    if depth not in ("r50", "r101") or flow not in FLOWS:
        return model
    path = folder / f"{model}.safetensors"
    tensors, metadata = pack(random_bundle(int(depth[1:]), FLOWS[flow]))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path), metadata)
    return str(path)


@torch.no_grad()
def random_bundle(depth: int, width: float) -> Bundle:
    """The paper's networks for Cityscapes with random weights."""
    torch.manual_seed(0)
    backbone = FeatureNet(depth)
    for name, parameter in backbone.named_parameters():
        if name.endswith("branch2c.norm.weight"):
            parameter.fill_(0.2)  # or a hundred layers' sums leave the range of bf16
    head = SegHead(len(CITYSCAPES))
    flow = FlowNet(width)
    flow.Convolution5.weight.mul_(0.05)  # as drawn, it points far out of the frame
    return Bundle(DeepFeatureFlow(PaperNetwork(backbone, head), flow), "segmentation", CITYSCAPES)


def _job(clip: Path, settings: Sequence[str], case: Case, bare: Line, actors: int, threads: int, folder: Path) -> Job:
    """The job over copies of the clip: two for each actor."""
    clips = folder / "in"
    clips.mkdir(parents=True)
    for number in range(2 * actors):
        shutil.copy(clip, clips / f"{number:02d}.mp4")
    output = folder / "out"
    command = [sys.executable, str(ROOT / "jobs" / "recognize.py"), str(clips), str(output)]
    for setting in (*settings, *case.settings, f"resources.actors={actors}", f"resources.cpu_threads={threads}",
                    "resources.gpus_per_actor=0"):  # fmt: skip
        command += ["--set", setting]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((output / "_motionmill" / "summary.json").read_text())
    rate = summary["frames_per_second"]
    return Job(str(case), rate, rate / bare.frames_per_s, summary["stage_s"])
