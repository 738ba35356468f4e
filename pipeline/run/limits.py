"""Is a run going to cost more than somebody wants to pay for? Asked before anything is written.

Every input is probed once more for it, in tasks of the cluster: headers may crash or hang the process that reads them.
Such a video counts as nothing here; the run itself will quarantine it. (What was probed could be kept for the run, but
at a kilobyte a clip it would grow with the input, and a run's memory must not.) Without limits nothing is probed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray

from pipeline.config import LimitsConfig
from pipeline.errors import ConfigError, VideoError
from pipeline.layout import Layout
from pipeline.media.probe import probe
from pipeline.plan.discover import DiscoveryFailure, discover
from pipeline.run import calibration, cluster
from pipeline.run.calibration import Calibration
from pipeline.run.worker import open_video
from pipeline.storage import Storage
from pipeline.tasks.base import Task
from pipeline.types import VideoRef

TOGETHER = 8
"""Videos a task."""
TASKS_A_CPU = 4
"""They mostly wait for storage."""
_MEASURED_TRIES = 8
"""Videos that are tried, one after the other, to measure the model on."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of videos, estimated from headers; nothing for those that will be quarantined."""

    size: int = 0
    flops: int = 0
    pixels: int = 0
    """Output rows x width x height."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.size + other.size, self.flops + other.flops, self.pixels + other.pixels)


def refuse_above(limits: LimitsConfig, size: int, hours: float | None, videos: int) -> None:
    """Raises ConfigError where estimated bytes, or hours of the model (None: not known), are over the limits."""
    most = limits.max_output_bytes
    if most is not None and size > most:
        raise ConfigError(
            f"the output of {videos} videos is estimated at {size / 1e9:.3g} GB ({size} bytes), more than "
            f"limits.max_output_bytes={most}; raise it, or make the output smaller (for flow: stored_scale=1/4, "
            "directions=forward, a larger max_error_px)"
        )
    if limits.max_hours is not None and hours is not None and hours > limits.max_hours:
        raise ConfigError(
            f"the model is estimated to compute for {hours:.3g} actor-hours on {videos} videos, more than "
            f"limits.max_hours={limits.max_hours:g}; raise it, take a cheaper model or fewer frames, or split the input"
        )


def check(
    task: Task, storage: Storage, layout: Layout, source: str, output: str, placement: cluster.Placement
) -> list[str]:
    """`refuse_above` for what a run would do beside what is committed; the cluster must be connected.

    Returns what is worth saying: by what the hours were estimated.
    """
    limits = task.config.limits
    if limits.max_output_bytes is None and limits.max_hours is None:
        return []
    done = {info.uri.rsplit("/", 1)[1].removesuffix(".json") for info in storage.list(layout.video_commits)}

    def found() -> Any:
        return (
            item
            for item in discover(source, task.config.input, storage, exclude=output)
            if not isinstance(item, DiscoveryFailure) and item.video_id not in done
        )

    known, notes = None, []
    if limits.max_hours is not None:
        precision = str(getattr(task, "precision", task.config.precision))
        kept = calibration.find(task, storage, layout, placement.device, precision)
        known = kept[0] if kept else _measured_there(task, storage, list(islice(found(), _MEASURED_TRIES)), placement)
        where = kept[1] if kept else "measured just now, for limits.max_hours"
        notes = [f"hours by {known}; {where}"] if known else []
    total, videos = Cost(), 0
    running: list[Any] = []

    def refuse() -> None:
        hours = known.hours(total.flops, total.pixels) if known else None
        refuse_above(limits, total.size, hours.model if hours else None, videos)

    def collect() -> None:
        nonlocal running, total
        ready, running = ray.wait(running, num_returns=1, timeout=task.config.retry.hang_s)
        if not ready:  # they hang, and so will the run, which knows what to do about it
            for reference in running:
                ray.cancel(reference, force=True)
            running = []
        for reference in ready:
            try:
                total += ray.get(reference)
            except ray.exceptions.RayError:
                continue

    most = max(8, TASKS_A_CPU * int(ray.cluster_resources().get("CPU", 0)))
    items = found()
    while batch := list(islice(items, TOGETHER)):
        running.append(_estimated.remote(task, storage, batch, known is not None))
        videos += len(batch)
        if len(running) >= most:
            collect()
        refuse()
    while running:
        collect()
    refuse()
    return notes


@ray.remote(num_cpus=cluster.LIGHT_CPUS, max_retries=0)
def _estimated(task: Task, storage: Storage, videos: Sequence[VideoRef], work: bool) -> Cost:
    return sum((estimated(task, storage, video, work) for video in videos), Cost())


def estimated(task: Task, storage: Storage, video: VideoRef, work: bool = True) -> Cost:
    """`work`: the model's arithmetic too, for which the task may have to look at its weights."""
    try:
        with open_video(storage, video) as file:
            info = probe(file, video, task.config.input, task.config.decode)
    except VideoError:
        return Cost()
    pixels = task.expected_rows(info) * info.width * info.height
    return Cost(task.output_bytes(info, video.size), task.flops(info) if work else 0, pixels)


def _measured_there(
    task: Task, storage: Storage, videos: Sequence[VideoRef], placement: cluster.Placement
) -> Calibration | None:
    """A measurement where the run's actors will be: on the first of these videos that can be used."""
    options = {"num_cpus": placement.cpus, "num_gpus": placement.gpus or None}
    for video in videos:
        reference = _measured.options(**options).remote(task, storage, video, placement)
        try:
            found: Calibration | None = ray.get(reference, timeout=task.config.retry.hang_s)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            ray.cancel(reference, force=True)
            continue
        if found is not None:
            return found
    return None


@ray.remote(max_retries=0)
def _measured(task: Task, storage: Storage, video: VideoRef, placement: cluster.Placement) -> Calibration | None:
    from pipeline.run.calibrator import measure

    try:
        with open_video(storage, video) as file:
            info = probe(file, video, task.config.input, task.config.decode)
        return measure(task, storage, video, info, placement.device, placement.threads, placement.gpus)
    except VideoError:
        return None
