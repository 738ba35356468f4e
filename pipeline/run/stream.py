"""Clips on their way through the cluster: probed by light tasks, processed by a pool of actors, receipts back."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence

import ray
from ray.data import ActorPoolStrategy, DataContext

from pipeline.run import allocator, cluster
from pipeline.run.datasource import VideoSource
from pipeline.run.plans import Kept
from pipeline.run.rows import Receipt, receipt_from
from pipeline.run.worker import ClipWorker, RunContext
from pipeline.types import VideoRef


def receipts(
    context: RunContext, placement: cluster.Placement, videos: Sequence[VideoRef], *, resume: bool, kept: Kept
) -> Iterator[Receipt]:
    """Processes all clips of the videos; a receipt for each as it comes. `resume`: some may be committed already."""
    data = DataContext.get_current()
    data.enable_progress_bars = False
    data.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"ray\.data")  # that an actor may be idle when clips are few
    # One row a block: a retry, or a lost worker, costs one clip. (repartition() would do the same with tasks that
    # reserve a whole CPU, which a small machine does not have beside its actor.)
    data.target_max_block_size = 1
    dataset = ray.data.read_datasource(
        VideoSource(context, videos, resume, kept),
        num_cpus=cluster.LIGHT_CPUS,
        concurrency=min(len(videos), _probers()),
        # The ledger of attempts, not Ray, decides when a video that kills its prober is given up.
        max_retries=-1,
    ).map_batches(
        ClipWorker,
        fn_constructor_args=(context, placement.device, placement.threads),
        batch_size=1,
        batch_format="pyarrow",
        # One clip each at a time: the actor that starts first would otherwise take two where others wait.
        compute=ActorPoolStrategy(size=placement.actors, max_tasks_in_flight_per_actor=1),
        num_cpus=placement.cpus,
        num_gpus=placement.gpus or None,
        runtime_env={"env_vars": allocator.ENVIRONMENT},
        # Ray restarts actors and repeats their tasks without end by default; the ledger counts here too.
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for item in batch["item"]:
            yield receipt_from(item.as_py())


def _probers() -> int:
    """Probes at a time: one a CPU. They reserve little, but each is a process."""
    return max(2, int(ray.cluster_resources().get("CPU", 0)))
