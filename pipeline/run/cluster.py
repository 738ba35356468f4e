"""The Ray cluster: joining or starting it, what of it a run may use, and checks on each of its nodes."""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler import sdk as autoscaler
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.config import ResourcesConfig
from pipeline.errors import ConfigError, UsageError
from pipeline.tasks.base import Task

LIGHT_CPUS = 0.1
"""Reserved by probes and finalisers, which mostly wait for storage: they must find room beside the actors."""

_STARTS = 3
"""Tries to start a cluster here: Ray gives up after half a minute, which a busy machine may take."""

_OBJECT_STORE_BYTES = 128 << 20
"""Of a cluster started here: only references and receipts pass through it."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What each actor gets."""

    actors: int
    gpus: float
    threads: int
    cpus: float
    """Reserved with Ray: half a CPU less than it computes with, so that probes and finalisers fit beside it."""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    def __str__(self) -> str:
        unit = (
            f"{self.gpus:g} GPU and {self.threads} CPU threads" if self.gpus else f"{self.threads} CPU threads, no GPU"
        )
        return f"{self.actors} actor{'s' if self.actors != 1 else ''} with {unit} each"


def connect(config: ResourcesConfig) -> None:
    """Joins the cluster of RAY_ADDRESS (set inside `ray job submit`), else starts a local one, bound to loopback."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True)
        return
    # Without these, Ray writes an auth token into the home directory and listens on the machine's outer address.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # Or a worker a CPU would be started for nobody, while the ones that are needed start: 5 of 27 s on two cores.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    for number in range(1, _STARTS + 1):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=config.cluster_cpus or len(os.sched_getaffinity(0)),
                object_store_memory=_OBJECT_STORE_BYTES,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                logging_level=logging.WARNING,
            )
            return
        except Exception as error:  # Ray raises no narrower one when its own processes take too long to start
            ray.shutdown()
            if number == _STARTS or "timed out" not in str(error):
                raise ray.exceptions.RaySystemError(
                    f"no Ray cluster could be started on this machine: {error} (try {number} of {_STARTS})"
                ) from None


def place(config: ResourcesConfig) -> Placement:
    """Decides actors, GPUs and threads from the configuration and the cluster. Raises ConfigError if it cannot hold.

    With `resources.wait_s`, an autoscaler is asked for the nodes that are missing, and given that time to bring them.
    """
    deadline = time.monotonic() + config.wait_s
    asked = False
    while True:
        try:
            placed = _place(config)
            break
        except ConfigError as error:
            if time.monotonic() >= deadline:
                raise
            if not asked:
                print(f"waiting up to {config.wait_s:g} s for nodes: {error}", flush=True)
                autoscaler.request_resources(bundles=_bundles(config))
                asked = True
        time.sleep(1)
    if asked:
        autoscaler.request_resources(num_cpus=0)  # the actors hold the nodes themselves from now on
    return placed


def _bundles(config: ResourcesConfig) -> list[dict[str, float]]:
    """What the actors will reserve; one actor where their number is left to the cluster."""
    gpus = 0.0 if config.gpus_per_actor == "auto" else float(config.gpus_per_actor)
    each = {"CPU": _reserved(_threads(config, gpus)), **({"GPU": gpus} if gpus else {})}
    return [each] * (1 if config.actors == "auto" else config.actors)


def _threads(config: ResourcesConfig, gpus: float) -> int:
    """On CPUs, many actors of one thread each beat few of many: no barriers, and decoding and encoding fill gaps."""
    return config.cpu_threads if config.cpu_threads != "auto" else 2 if gpus else 1


def _reserved(threads: int) -> float:
    return max(0.5, threads - 0.5)


def _place(config: ResourcesConfig) -> Placement:
    total = ray.cluster_resources()
    gpus_there, cpus_there = float(total.get("GPU", 0)), float(total.get("CPU", 0))
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = (1.0 if gpus_there else 0.0) if config.gpus_per_actor == "auto" else float(config.gpus_per_actor)
    if gpus > gpus_there:
        raise ConfigError(
            f"resources.gpus_per_actor={gpus:g}, but the cluster has {gpus_there:g} GPUs; "
            "set it to 0 to run on the CPU, or add GPU nodes"
        )
    threads = _threads(config, gpus)
    reserved = _reserved(threads)
    room = [_room(node, gpus, reserved) for node in nodes]
    if config.actors != "auto":
        actors = config.actors
    elif gpus:
        actors = max(1, min(sum(room), int((cpus_there - LIGHT_CPUS) / reserved)))
    else:
        actors = max(1, int(cpus_there // threads))
    if actors > sum(room) or actors * reserved > cpus_there - LIGHT_CPUS:
        each = f"{gpus:g} GPUs and {reserved:g} CPUs" if gpus else f"{reserved:g} CPUs"
        raise ConfigError(
            f"{actors} actors that reserve {each} each do not fit: the cluster has {gpus_there:g} GPUs and "
            f"{cpus_there:g} CPUs on {len(nodes)} node(s), room for {sum(room)}; lower resources.actors, "
            f"resources.{'gpus_per_actor' if gpus else 'cpu_threads'}, or add nodes"
        )
    return Placement(actors, gpus, threads, reserved)


def _room(node: dict[str, float], gpus: float, cpus: float) -> int:
    """Actors that fit on a node. A share of a GPU lies on one GPU, and whole GPUs on one node."""
    by_cpu = int(node.get("CPU", 0.0) / cpus)
    if not gpus:
        return by_cpu
    whole = int(node.get("GPU", 0.0))
    return min(by_cpu, whole * int(1 / gpus + 1e-9) if gpus <= 1 else whole // int(gpus))


def check_nodes(task: Task) -> list[str]:
    """Runs the task's check on every node; raises the first node's UsageError. Returns the nodes' names."""

    @ray.remote(num_cpus=LIGHT_CPUS, max_retries=0)
    def check() -> tuple[str, str]:
        try:
            task.check_node()
        except UsageError as error:
            return socket.gethostname(), str(error)
        return socket.gethostname(), ""

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    answers: list[Any] = ray.get(
        [check.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes]
    )
    for host, problem in answers:
        if problem:
            raise UsageError(f"node {host}: {problem}")
    return [host for host, _ in answers]
