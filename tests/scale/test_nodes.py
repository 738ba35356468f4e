"""Several nodes, several jobs: waiting for nodes that an autoscaler brings, actors spread over them, GPU shares."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from pipeline.config import ResourcesConfig
from pipeline.errors import ConfigError
from pipeline.run import cluster as placing
from tests.e2e.support import FAST, LIMIT_S, ROOT, Output, start, until, write
from tests.media_factory import make_video


class _Growing:
    """A cluster that gets a node with four CPUs and a GPU each time that it is looked at, and notes what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes: list[dict[str, float]] = []
        self.asked: list[Any] = []
        monkeypatch.setattr(ray, "cluster_resources", self._grow)
        monkeypatch.setattr(
            ray, "nodes", lambda: [{"Alive": True, "NodeID": str(n), "Resources": r} for n, r in enumerate(self.nodes)]
        )
        monkeypatch.setattr(placing.autoscaler, "request_resources", lambda **what: self.asked.append(what))
        monkeypatch.setattr(time, "sleep", lambda _: None)

    def _grow(self) -> dict[str, float]:
        self.nodes.append({"CPU": 4.0, "GPU": 1.0} if self.nodes else {"CPU": 0.0})
        return {kind: sum(node.get(kind, 0.0) for node in self.nodes) for kind in ("CPU", "GPU")}


def test_a_run_asks_for_its_nodes_waits_and_takes_the_request_back(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = _Growing(monkeypatch)
    placed = placing.place(ResourcesConfig(actors=3, gpus_per_actor=1, wait_s=60))
    assert (placed.actors, placed.gpus, len(growing.nodes)) == (3, 1, 4)
    assert growing.asked == [{"bundles": [{"CPU": 1.5, "GPU": 1.0}] * 3}, {"num_cpus": 0}]


def test_a_share_of_a_gpu_is_asked_for_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = _Growing(monkeypatch)
    placed = placing.place(ResourcesConfig(actors=4, gpus_per_actor=0.5, cpu_threads=1, wait_s=60))
    assert (placed.actors, len(growing.nodes)) == (4, 3)
    assert growing.asked[0] == {"bundles": [{"CPU": 0.5, "GPU": 0.5}] * 4}


def test_without_waiting_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = _Growing(monkeypatch)
    with pytest.raises(ConfigError, match="do not fit"):
        placing.place(ResourcesConfig(actors=3, gpus_per_actor=0))
    assert growing.asked == []


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """A head without work and two nodes of two CPUs."""
    made = _started()
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def _started() -> RayCluster:
    """Ray gives up after half a minute, which a busy machine may take: three tries."""
    small = {"object_store_memory": 100_000_000}
    for number in (1, 2, 3):
        made = RayCluster()
        try:
            made.add_node(num_cpus=0, include_dashboard=False, **small)
            for _ in range(2):
                made.add_node(num_cpus=2, **small)
            return made
        except Exception as error:
            made.shutdown()
            if number == 3 or "timed out" not in str(error):
                raise
    raise AssertionError("unreachable")


def _env(address: str) -> dict[str, str]:
    config = json.dumps({"runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}}})
    return {"RAY_ADDRESS": address, "RAY_JOB_CONFIG_JSON_ENV_VAR": config}


@pytest.mark.slow
@pytest.mark.timeout(4 * LIMIT_S)
def test_jobs_share_a_cluster_and_their_actors_are_spread_over_its_nodes(nodes: RayCluster, tmp_path: Path) -> None:
    video = make_video(frames=24, options={"preset": "ultrafast"})
    source = write(tmp_path / "in", {f"{number}.mp4": video for number in range(2)})
    sets = [*FAST, "clip.frames=4", "report=false"]
    outputs = [tmp_path / "a", tmp_path / "b"]
    with (
        start(source, outputs[0], [*sets, "resources.actors=2"], env=_env(nodes.address)) as first,
        start(source, outputs[1], [*sets, "resources.actors=2"], env=_env(nodes.address)) as second,
    ):
        done = [job.wait() for job in (first, second)]
    assert [one.code for one in done] == [0, 0], "\n".join(one.text for one in done)
    for output in outputs:
        Output.of(output).check_settled()

    ray.init(address=nodes.address, log_to_driver=False)
    by_job: dict[str, Counter[str]] = {}
    for actor in ray._private.state.actors().values():
        if "MapWorker" in actor["ActorClassName"]:
            by_job.setdefault(actor["JobID"], Counter())[actor["Address"]["NodeID"]] += 1
    assert len(by_job) == 2
    assert all(len(places) == 2 for places in by_job.values()), by_job
    ray.shutdown()

    # Five actors of a CPU and a half fit only when a third node has come.
    more = ["resources.actors=5", "resources.cpu_threads=2", "resources.wait_s=120"]
    with start(source, tmp_path / "c", [*sets, *more], env=_env(nodes.address)) as third:
        until(lambda: "waiting up to 120 s for nodes" in third.text, "waiting", third)
        nodes.add_node(num_cpus=6, object_store_memory=100_000_000)
        waited = third.wait()
    assert waited.code == 0, waited.text
    assert Output.of(tmp_path / "c").summary["placement"]["actors"] == 5
