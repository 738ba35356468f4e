"""Recognition in a loop on decoded frames, in processes of their own: how long frames take, and where it goes.

What pipeline/benchmark_recognize.py measures with.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from models.dff import FrameNetwork, warp
from models.dff.flownet import FlowNet
from models.dff.preprocess import resized
from models.dff.resnet import subtract_mean
from pipeline import config as configuration
from pipeline.benchmark_flow_loops import PATIENCE_S, open_video
from pipeline.config_flow import FlowConfig
from pipeline.config_recognize import RecognizeConfig
from pipeline.media.colour import to_rgb
from pipeline.media.decode import decode_clip
from pipeline.media.frame import luma8
from pipeline.plan import shots
from pipeline.plan.key_frames import Carried
from pipeline.plan.key_residuals import Picture
from pipeline.plan.key_schedule import schedule_clip
from pipeline.run import allocator
from pipeline.tasks import flow_model, recognize_model

PART_NAMES = ("schedule", "features", "flow", "warp", "head")


@dataclass(frozen=True, slots=True)
class Case:
    """A way to come by features."""

    schedule: str
    """per frame, fixed or lookahead."""
    budget: Fraction

    @property
    def settings(self) -> tuple[str, ...]:
        kind = "fixed" if self.schedule == "per frame" else self.schedule
        return (f"key_frames.schedule={kind}", f"key_frames.budget={self.budget}")

    def __str__(self) -> str:
        return self.schedule if self.budget == 1 else f"{self.schedule} {self.budget}"


PER_FRAME = Case("per frame", Fraction(1))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a process computes."""

    clip: str
    settings: tuple[str, ...]
    threads: int
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Pass:
    """All frames of the clip, once, by one process."""

    case: Case
    frames: int
    keys: int
    seconds: float
    cpu_s: float
    """Processor time, which other programs on the machine hardly change."""
    parts: dict[str, float]
    """Seconds by PART_NAMES."""


_BARRIER: Any = None


def _set_barrier(barrier: Any) -> None:
    global _BARRIER
    _BARRIER = barrier


def passes_of(plan: Plan, processes: int, rounds: int) -> list[Pass]:
    """Of all processes, which go from case to case together, `rounds` times."""
    context = multiprocessing.get_context("spawn")
    with allocator.inherited(), context.Pool(processes, _set_barrier, (context.Barrier(processes),)) as pool:
        done = pool.starmap(_passes, [(plan, rounds)] * processes, chunksize=1)
    return [one for passes in done for one in passes]


def _passes(plan: Plan, rounds: int) -> list[Pass]:
    try:
        bare = Bare(plan)
        passes = []
        for _ in range(rounds):
            for case in plan.cases:
                _BARRIER.wait(PATIENCE_S)
                passes.append(bare.run(case))
        return passes
    except BaseException:
        _BARRIER.abort()  # or the others would wait for this one
        raise


class Bare:
    """The model and a clip's decoded frames."""

    def __init__(self, plan: Plan, most: int | None = None) -> None:
        """most: frames, from the clip's beginning; None: all."""
        torch.set_num_threads(plan.threads)
        self._plan = plan
        self._config = configuration.load(RecognizeConfig, None, plan.settings)
        self._bundle, found = recognize_model.load_bundle(self._config)
        self._images: list[Tensor] = []  # uint8 [1,3,H,W], as the networks see them
        self.thumbnails: list[Picture] = []
        _, info, clip = open_video(plan.clip, FlowConfig())
        self.size, scale = recognize_model.frame_size(self._config, found, info.height, info.width)
        with open(plan.clip, "rb") as file:
            for frame in itertools.islice(decode_clip(file, clip, self._config.decode), most):
                rgb = (255 * to_rgb(frame, info.colour)).round_().to(torch.uint8)[None]
                self._images.append(rgb if scale == 1 else resized(rgb, self.size, scale))
                self.thumbnails.append(luma8(frame, shots.WIDTH, shots.HEIGHT))
        for warming in range(min(2, len(self._images))):
            self._recognise([Carried(0, 0, 0.0), Carried(warming, 0, 0.0)], defaultdict(float))

    def run(self, case: Case) -> Pass:
        """Schedules and recognises all frames."""
        config = configuration.load(RecognizeConfig, None, [*self._plan.settings, *case.settings])
        parts: dict[str, float] = defaultdict(float)
        count = len(self._images)
        began, used = time.perf_counter(), time.process_time()
        if case.budget == 1:
            frames: tuple[Carried, ...] = tuple(Carried(number, number, 0.0) for number in range(count))
        else:
            with _timed(parts, "schedule"):
                frames = schedule_clip(range(count), count, 0, self.thumbnails, config.cuts, config.key_frames).frames
        keys = self._recognise(frames, parts)
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - used
        return Pass(case, count, keys, seconds, cpu_s, dict(parts))

    @torch.no_grad()
    def _recognise(self, frames: Any, parts: dict[str, float]) -> int:
        network = self._bundle.model.network
        held: dict[int, Tensor] = {}
        keys = 0
        with flow_model.autocast("cpu", self._config.precision if self._config.precision != "auto" else "fp32"):
            for carried in frames:
                if carried.key not in held:
                    with _timed(parts, "features"):
                        held[carried.key] = network.features(self._images[carried.key])
                    keys += 1
                features = held[carried.key]
                if not carried.is_key:
                    features = self.carried(features, carried, parts)
                with _timed(parts, "head"):
                    network.head(features, self.size)
        return keys

    @property
    def count(self) -> int:
        return len(self._images)

    @property
    def classes(self) -> int:
        return len(self._bundle.classes)

    @property
    def network(self) -> FrameNetwork:
        return self._bundle.model.network

    @torch.no_grad()
    def features(self, number: int) -> Tensor:
        """Of a frame, by the whole network."""
        return self.network.features(self._images[number])

    @torch.no_grad()
    def carried(self, features: Tensor, carried: Carried, parts: dict[str, float]) -> Tensor:
        """As DeepFeatureFlow.carried, its two parts timed apart."""
        model = self._bundle.model
        key, current = self._images[carried.key], self._images[carried.frame]
        with _timed(parts, "flow"):
            if isinstance(model.flow, FlowNet):
                key, current = subtract_mean(key), subtract_mean(current)
            flow, scale = model.flow(current, key)
        with _timed(parts, "warp"):
            return warp(features, flow, scale)


@contextlib.contextmanager
def _timed(parts: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    parts[name] += time.perf_counter() - began


def cases_of(budgets: tuple[Fraction, ...]) -> tuple[Case, ...]:
    """Per frame first, then each budget by the paper's schedule and looking ahead."""
    schedules = itertools.product(budgets, ("fixed", "lookahead"))
    return (PER_FRAME, *(Case(schedule, budget) for budget, schedule in schedules))
