"""Is a run going to cost more than somebody wants to pay for? Asked before anything is written.

Every input's headers are read for it, in tasks of the cluster, since they may crash or hang the process that reads
them; a video that does counts as nothing here, and the run itself will quarantine it. What was read is kept for the
run as plans, which need little: `plans.Kept` is bounded, and the run reads again what found no room there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from pipeline.config import LimitsConfig
from pipeline.errors import ConfigError, VideoError
from pipeline.layout import Layout
from pipeline.run import calibration, cluster
from pipeline.run.calibration import Calibration
from pipeline.run.plans import Kept, Packed, plan_of, read_headers
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


def are_set(limits: LimitsConfig) -> bool:
    return limits.max_output_bytes is not None or limits.max_hours is not None


def check(
    task: Task, storage: Storage, layout: Layout, videos: Sequence[VideoRef], placement: cluster.Placement
) -> tuple[list[str], Kept]:
    """`refuse_above` for a run over these videos; the cluster must be connected.

    Returns what is worth saying (by what the hours were estimated), and the videos' plans.
    """
    limits = task.config.limits
    known, notes, kept = None, [], Kept()
    if limits.max_hours is not None:
        precision = str(getattr(task, "precision", task.config.precision))
        stored = calibration.find(task, storage, layout, placement.device, precision)
        known = stored[0] if stored else _measured_there(task, storage, videos[:_MEASURED_TRIES], placement)
        where = stored[1] if stored else "measured just now, for limits.max_hours"
        notes = [f"hours by {known}; {where}"] if known else []
    total, looked_at = Cost(), 0
    running: list[Any] = []

    def refuse() -> None:
        hours = known.hours(total.flops, total.pixels) if known else None
        refuse_above(limits, total.size, hours.model if hours else None, looked_at)

    def collect() -> None:
        nonlocal running, total
        ready, running = ray.wait(running, num_returns=1, timeout=task.config.retry.hang_s)
        if not ready:  # they hang, and so will the run, which knows what to do about it
            for reference in running:
                ray.cancel(reference, force=True)
            running = []
        for reference in ready:
            try:
                cost, plans = ray.get(reference)
            except ray.exceptions.RayError:
                continue
            total += cost
            kept.add(plans)

    most = max(8, TASKS_A_CPU * int(ray.cluster_resources().get("CPU", 0)))
    for start in range(0, len(videos), TOGETHER):
        batch = videos[start : start + TOGETHER]
        running.append(_estimated.remote(task, storage, batch, known is not None))
        looked_at += len(batch)
        if len(running) >= most:
            collect()
        refuse()
    while running:
        collect()
    refuse()
    return notes, kept


@ray.remote(num_cpus=cluster.LIGHT_CPUS, max_retries=0)
def _estimated(task: Task, storage: Storage, videos: Sequence[VideoRef], work: bool) -> tuple[Cost, dict[str, Packed]]:
    total, plans = Cost(), {}
    for video in videos:
        if (found := estimated(task, storage, video, work)) is not None:
            total += found[0]
            plans[video.video_id] = found[1]
    return total, plans


def estimated(task: Task, storage: Storage, video: VideoRef, work: bool = True) -> tuple[Cost, Packed] | None:
    """What the video will cost, and its plan; None where it will be quarantined.

    `work`: the model's arithmetic too, for which the task may have to look at its weights.
    """
    try:
        info = read_headers(task, storage, video)
        plan = plan_of(task, video, info)
    except VideoError:
        return None
    pixels = plan.expected_rows * info.width * info.height
    return Cost(task.output_bytes(info, video.size), task.flops(info) if work else 0, pixels), plan.packed()


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
        info = read_headers(task, storage, video)
        return measure(task, storage, video, info, placement.device, placement.threads, placement.gpus)
    except VideoError:
        return None
