"""Is the output going to be larger than somebody wants to pay for? Asked before anything is written.

Every input is probed once more for it, in tasks of the cluster: headers may crash or hang the process that reads them.
Such a video counts as nothing here; the run itself will quarantine it. `limits.max_output_bytes: null` does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import ray

from pipeline.config import RunConfig
from pipeline.errors import ConfigError, VideoError
from pipeline.layout import Layout
from pipeline.media.probe import probe
from pipeline.plan.discover import DiscoveryFailure, discover
from pipeline.run import cluster
from pipeline.run.worker import open_video
from pipeline.storage import Storage
from pipeline.tasks.base import Task
from pipeline.types import VideoRef

TOGETHER = 8
"""Videos a task."""
TASKS_A_CPU = 4
"""They mostly wait for storage."""


def of(config: RunConfig) -> int | None:
    """`limits.max_output_bytes`, for configurations that have it."""
    limits = getattr(config, "limits", None)
    return None if limits is None else limits.max_output_bytes


def refuse_above(limit: int | None, size: int, videos: int) -> None:
    """Raises ConfigError where `size` estimated bytes are over the limit."""
    if limit is not None and size > limit:
        raise ConfigError(
            f"the output of {videos} videos is estimated at {size / 1e9:.3g} GB ({size} bytes), more than "
            f"limits.max_output_bytes={limit}; raise it, or make the output smaller (for flow: stored_scale=1/4, "
            "directions=forward, a larger max_error_px)"
        )


def check_output(task: Task, storage: Storage, layout: Layout, source: str, output: str, limit: int) -> None:
    """`refuse_above` for what a run would write beside what is committed. The cluster must be connected."""
    done = {info.uri.rsplit("/", 1)[1].removesuffix(".json") for info in storage.list(layout.video_commits)}
    found = (
        item
        for item in discover(source, task.config.input, storage, exclude=output)
        if not isinstance(item, DiscoveryFailure) and item.video_id not in done
    )
    size = videos = 0
    running: list[Any] = []

    def collect() -> None:
        nonlocal running, size
        ready, running = ray.wait(running, num_returns=1, timeout=task.config.retry.hang_s)
        if not ready:  # they hang, and so will the run, which knows what to do about it
            for reference in running:
                ray.cancel(reference, force=True)
            running = []
        for reference in ready:
            try:
                size += ray.get(reference)
            except ray.exceptions.RayError:
                continue

    most = max(8, TASKS_A_CPU * int(ray.cluster_resources().get("CPU", 0)))
    while batch := list(islice(found, TOGETHER)):
        running.append(_estimated.remote(task, storage, batch))
        videos += len(batch)
        if len(running) >= most:
            collect()
        refuse_above(limit, size, videos)
    while running:
        collect()
    refuse_above(limit, size, videos)


@ray.remote(num_cpus=cluster.LIGHT_CPUS, max_retries=0)
def _estimated(task: Task, storage: Storage, videos: Sequence[VideoRef]) -> int:
    return sum(estimated(task, storage, video) for video in videos)


def estimated(task: Task, storage: Storage, video: VideoRef) -> int:
    """Bytes of a video's output; 0 for one that will be quarantined."""
    try:
        with open_video(storage, video) as file:
            return task.output_bytes(probe(file, video, task.config.input, task.config.decode), video.size)
    except VideoError:
        return 0
