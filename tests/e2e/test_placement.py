"""Where actors go, what they reserve, and that frames never pass through the object store."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path

import pytest
import ray

from pipeline.config import InterpolateConfig, ResourcesConfig, load
from pipeline.errors import ConfigError
from pipeline.run import cluster as placing
from pipeline.run import driver
from pipeline.tasks.interpolate import InterpolateTask
from tests.e2e.support import FAST, ROOT, Cluster, Job, Output, write
from tests.media_factory import make_video

X264 = {"preset": "ultrafast"}


def _place(monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], **config: object) -> placing.Placement:
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    monkeypatch.setattr(
        ray, "nodes", lambda: [{"Alive": True, "NodeID": str(n), "Resources": r} for n, r in enumerate(nodes)]
    )
    return placing.place(ResourcesConfig(**config))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "config", "actors", "gpus"),
    [
        ([{"CPU": 2}], {}, 2, 0),
        ([{"CPU": 8, "GPU": 2}], {}, 2, 1),
        ([{"CPU": 8, "GPU": 2}], {"gpus_per_actor": 0.5}, 4, 0.5),
        ([{"CPU": 32, "GPU": 3}], {"gpus_per_actor": 0.4}, 6, 0.4),  # two to a GPU; 3 / 0.4 would be seven
        ([{"CPU": 32, "GPU": 2}], {"gpus_per_actor": 0.3}, 6, 0.3),
        ([{"CPU": 8, "GPU": 3}, {"CPU": 8, "GPU": 3}], {"gpus_per_actor": 2}, 2, 2),  # one GPU of each node is left
        ([{"CPU": 4, "GPU": 8}], {}, 2, 1),  # no more than its CPUs can feed
        ([{"CPU": 8, "GPU": 2}], {"gpus_per_actor": 0}, 8, 0),
        ([{"CPU": 64, "GPU": 8}, {"CPU": 64}], {"gpus_per_actor": 0.25}, 32, 0.25),
    ],
)
def test_actors_are_as_many_as_the_nodes_have_room_for(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], config: dict[str, object], actors: int, gpus: float
) -> None:
    placed = _place(monkeypatch, nodes, **config)
    assert (placed.actors, placed.gpus) == (actors, gpus)
    assert placed.device == ("cuda" if gpus else "cpu")


@pytest.mark.parametrize(
    ("nodes", "config"),
    [
        ([{"CPU": 8}], {"gpus_per_actor": 0.5}),
        ([{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}], {"gpus_per_actor": 2}),
        ([{"CPU": 8, "GPU": 1}], {"actors": 3, "gpus_per_actor": 0.4}),
        ([{"CPU": 2}], {"actors": 5}),
        ([{"CPU": 2}, {"CPU": 2}], {"cpu_threads": 4}),
    ],
)
def test_more_than_there_is_room_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], config: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match=r"resources\.\w+"):
        _place(monkeypatch, nodes, **config)


@pytest.mark.parametrize("share", ["0.25", pytest.param("auto", marks=pytest.mark.slow)])
def test_actors_hold_the_gpus_that_they_reserve(tmp_path: Path, share: str) -> None:
    source = write(tmp_path / "in", {"a.mp4": make_video(frames=40, options=X264)})
    cluster = Cluster("--num-gpus", "1", cpus=8, env={"PYTHONPATH": str(ROOT)})
    try:
        script = str(Path(__file__).with_name("fake_gpu.py"))
        sets = [*FAST, "clip.frames=2", f"resources.gpus_per_actor={share}"]
        actors = 4 if share == "0.25" else 1
        arguments = [script, str(source), str(tmp_path / "out"), str(tmp_path / "seen"), str(actors), *sets]
        with Job(arguments, cluster.job_env()) as job:
            done = job.wait()
        assert done.code == 0, done.text
        seen = [json.loads(path.read_text()) for path in (tmp_path / "seen").iterdir()]
        assert len(seen) == actors
        assert {(actor["device"], actor["gpus"], actor["visible"]) for actor in seen} == {("cuda", "0", "0")}
        assert all(actor["assigned"] == {"GPU": 1 / actors} for actor in seen)
        assert all("mmap_threshold" in actor["allocator"] for actor in seen), "memory would creep up"
        assert "on the CPU" not in done.text
        output = Output.of(tmp_path / "out")
        output.check_settled()
        assert output.summary["placement"]["actors"] == actors
    finally:
        cluster.close()


def test_the_object_store_holds_references_and_receipts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import internal_api

    frames = 150
    video = make_video(frames=frames, size=(160, 96), options=X264)
    source = write(tmp_path / "in", {f"{number}.mp4": video for number in range(4)})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load(InterpolateConfig, None, [*FAST, "clip.frames=2"])
    peaks: list[tuple[int, int]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            if ray.is_initialized():
                with contextlib.suppress(Exception):  # starting, or ending
                    reply = internal_api.get_memory_info_reply(
                        internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
                    )
                    stats = reply.store_stats
                    peaks.append((stats.object_store_bytes_used, stats.spilled_bytes_total))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        assert driver.run(InterpolateTask(config), str(source), str(tmp_path / "out"), driver.Options()) == 0
    finally:
        over.set()
        watcher.join(10)
    decoded = 4 * frames * 160 * 96 * 3
    assert len(peaks) > 5, "the store was looked at while the run was on"
    assert max(used for used, _ in peaks) < min(64 << 20, decoded // 4)
    assert max(spilled for _, spilled in peaks) == 0
    output = Output.of(tmp_path / "out")
    output.check_settled()
    assert output.summary["clips"] == 4 * frames // 2
