"""The bare network in loops, in processes of their own: how long a frame takes in either way, and how much memory.

What pipeline/benchmark_flow.py measures MEMFOF with.
"""

from __future__ import annotations

import itertools
import multiprocessing
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.memfof import FrameFlow, stream
from pipeline import config as configuration
from pipeline.benchmark_upstream import evaluate_as_upstream
from pipeline.config_flow import FlowConfig
from pipeline.errors import ConfigError
from pipeline.media.colour import to_rgb
from pipeline.media.decode import decode_clip
from pipeline.media.frame import Frame
from pipeline.media.probe import probe
from pipeline.plan.clips import plan_clips
from pipeline.plan.discover import discover
from pipeline.run import allocator
from pipeline.storage import Storage
from pipeline.tasks import flow_model
from pipeline.types import ClipRef, VideoInfo, VideoRef

DISTINCT = 8
"""Frames that the loops go through, to and fro."""


def open_video(source: str, config: FlowConfig) -> tuple[VideoRef, VideoInfo, ClipRef]:
    """The first video of `source`, and one clip that holds all of it."""
    video = next((item for item in discover(source, config.input, Storage()) if isinstance(item, VideoRef)), None)
    if video is None:
        raise ConfigError(f"{source}: no video; give a local file")
    with Storage().open(video.uri) as file:
        info = probe(file, video, config.input, config.decode)
    return video, info, plan_clips(video, info, len(info.pts), (0, 0))[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a process is to compute, and with how many threads."""

    clip: str
    settings: tuple[str, ...]
    threads: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A frame computed in both ways by one process."""

    upstream_s: float
    ours_s: float
    cpu_share: float
    """Ours of upstream's processor time, which other programs on the machine hardly change."""
    difference_px: float


def _as_the_job_gives_it(frame: Frame, rgb: Tensor) -> Tensor:
    return rgb.round_().to(torch.uint8) if frame.format.bits == 8 else rgb


PATIENCE_S = 1800.0
"""For another process's frame: a process that was killed (out of memory) never comes."""
WAYS = ("upstream", "ours")
_BARRIER: Any = None


def _set_barrier(barrier: Any) -> None:
    global _BARRIER
    _BARRIER = barrier


def rounds_of(plan: Plan, processes: int, rounds: int) -> list[Turn]:
    """Of all processes, which go from one way to the other together."""
    if not rounds:
        return []
    context = multiprocessing.get_context("spawn")
    with allocator.inherited(), context.Pool(processes, _set_barrier, (context.Barrier(processes),)) as pool:
        done = pool.starmap(_turns, [(plan, rounds)] * processes, chunksize=1)
    return [turn for turns in done for turn in turns]


def _turns(plan: Plan, rounds: int) -> list[Turn]:
    try:
        return _taken(_Bare(plan), rounds)
    except BaseException:
        _BARRIER.abort()  # or the others would wait for this one
        raise


def _taken(bare: _Bare, rounds: int) -> list[Turn]:
    ours, triplets = bare.ours(), bare.triplets()
    for _ in WAYS:  # the first frame has no predecessor; the second warms up
        next(ours)
    bare.upstream(next(triplets))
    turns = []
    for _ in range(rounds):
        triplet = next(triplets)
        _BARRIER.wait(PATIENCE_S)
        began, used = time.perf_counter(), time.process_time()
        theirs = bare.upstream(triplet)
        upstream_s, upstream_cpu_s = time.perf_counter() - began, time.process_time() - used
        _BARRIER.wait(PATIENCE_S)
        began, used = time.perf_counter(), time.process_time()
        one = next(ours)
        ours_s, ours_cpu_s = time.perf_counter() - began, time.process_time() - used
        assert one.backward is not None
        assert one.forward is not None
        flow = torch.stack([one.backward.flow, one.forward.flow])
        turns.append(Turn(upstream_s, ours_s, ours_cpu_s / upstream_cpu_s, float((flow - theirs).abs().max())))
    return turns


def peak_of(plan: Plan, way: str) -> int:
    """Peak resident bytes of a process that computes some frames in one way; "loaded": that only loads the weights."""
    with allocator.inherited(), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (plan, way))


def _peak(plan: Plan, way: str) -> int:
    bare = _Bare(plan)
    if way == "upstream":
        for triplet in itertools.islice(bare.triplets(), 2):
            bare.upstream(triplet)
    elif way == "ours":
        for _ in itertools.islice(bare.ours(), 3):
            pass
    return peak_rss()


def peak_rss() -> int:
    """Bytes. Linux counts what a process had before its exec, its parent's memory, into ru_maxrss, not into VmHWM."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class _Bare:
    """The network and decoded frames that never end."""

    def __init__(self, plan: Plan) -> None:
        torch.set_num_threads(plan.threads)
        self.config = configuration.load(FlowConfig, None, plan.settings)
        self.network, _ = flow_model.load_network(self.config.model)
        _, info, clip = open_video(plan.clip, self.config)
        with open(plan.clip, "rb") as file:
            decoded = itertools.islice(decode_clip(file, clip, self.config.decode), DISTINCT)
            self.distinct = [_as_the_job_gives_it(frame, 255 * to_rgb(frame, info.colour)) for frame in decoded]

    def frames(self) -> Iterator[Tensor]:
        """To and fro, so that all motion is the clip's own."""
        return itertools.cycle([*self.distinct, *self.distinct[-2:0:-1]])

    def triplets(self) -> Iterator[Tensor]:
        """[1,3,3,H,W] about the second frame, the third, …"""
        line = self.frames()
        previous, current = next(line), next(line)
        for following in line:
            yield torch.stack([previous, current, following])[None]
            previous, current = current, following

    @torch.no_grad()
    def upstream(self, triplet: Tensor) -> Tensor:
        """[2,2,H,W] px: backward, forward."""
        with flow_model.autocast("cpu", self.config.precision):
            return evaluate_as_upstream(self.network, triplet, self.config.iterations).flow[0]

    @torch.no_grad()
    def ours(self) -> Iterator[FrameFlow]:
        """Of the first frame, which has nothing backward, the second, …"""
        flows = stream(self.network, self.frames(), self.config.iterations, memory_budget=self.config.memory_budget)
        while True:
            with flow_model.autocast("cpu", self.config.precision):
                one = next(flows)
            yield one
