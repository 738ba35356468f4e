"""What a running job tells Prometheus, through Ray's own endpoint on each node (ray.util.metrics).

Every series has the tags `task` and `session`; Ray adds its own (node, worker). Counters come from the actors when a
clip is done; gauges are the driver's or, where they say so, an actor's. configs/grafana/motionmill.json draws them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge

from pipeline.run.rows import Receipt


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: type[Counter] | type[Gauge]
    text: str
    tags: tuple[str, ...] = ()
    """Beside task and session. Their values are few: stages, outcomes."""

    @property
    def exposed(self) -> str:
        """Its name at the endpoint."""
        return f"ray_{self.name}" + ("_total" if self.kind is Counter else "")


FRAMES = Metric("motionmill_frames", Counter, "Output frames (records) committed")
CLIPS = Metric("motionmill_clips", Counter, "Clips done, by outcome: ok or error", ("status",))
BYTES = Metric("motionmill_output_bytes", Counter, "Bytes of clips' data written")
STAGES = Metric("motionmill_stage_seconds", Counter, "Seconds of actors by stage; those of a clip overlap", ("stage",))
BUSY = Metric("motionmill_model_busy_ratio", Gauge, "Share of its last clip's time that an actor's model ran")
STARVED = Metric("motionmill_decode_starved_ratio", Gauge, "Share of it that the model waited for decoded frames")
VIDEOS = Metric("motionmill_videos", Gauge, "Videos by state: todo, done, quarantined", ("state",))
LEFT = Metric("motionmill_clips_left", Gauge, "Clips to do in the videos that have been probed")
RETRIES = Metric("motionmill_retries", Gauge, "What had to be repeated: store calls, clips", ("what",))
ACTORS = Metric("motionmill_actors", Gauge, "Actors of the run")
OBJECT_STORE = Metric("motionmill_object_store_bytes", Gauge, "Bytes in use in Ray's object store, all nodes")

OF_ACTORS = (FRAMES, CLIPS, BYTES, STAGES, BUSY, STARVED)
OF_DRIVER = (VIDEOS, LEFT, RETRIES, ACTORS, OBJECT_STORE)
ALL = (*OF_ACTORS, *OF_DRIVER)


class _Recorder:
    def __init__(self, task: str, session: str, metrics: tuple[Metric, ...]) -> None:
        self._made: dict[str, Any] = {}
        for metric in metrics:
            made = metric.kind(metric.name, metric.text, ("task", "session", *metric.tags))
            made.set_default_tags({"task": task, "session": session})
            self._made[metric.name] = made

    def add(self, metric: Metric, value: float, tags: Mapping[str, str] | None = None) -> None:
        if value > 0:  # a counter takes nothing else
            self._made[metric.name].inc(value, dict(tags or {}))

    def put(self, metric: Metric, value: float, tags: Mapping[str, str] | None = None) -> None:
        self._made[metric.name].set(value, dict(tags or {}))


class ActorMetrics(_Recorder):
    def __init__(self, task: str, session: str) -> None:
        super().__init__(task, session, OF_ACTORS)

    def clip(self, receipt: Receipt) -> None:
        """After each clip."""
        self.add(CLIPS, 1, {"status": receipt.status})
        self.add(FRAMES, receipt.rows)
        self.add(BYTES, receipt.bytes)
        for stage, seconds in receipt.seconds.items():
            self.add(STAGES, seconds, {"stage": stage})
        span = receipt.times.span_s if receipt.times else 0.0
        if span > 0:
            self.put(BUSY, min(1.0, receipt.seconds.get("model", 0.0) / span))
            self.put(STARVED, min(1.0, receipt.seconds.get("decode_starved", 0.0) / span))


class DriverMetrics(_Recorder):
    def __init__(self, task: str, session: str) -> None:
        super().__init__(task, session, OF_DRIVER)

    def show(
        self, *, todo: int, done: int, quarantined: int, clips_left: int, store_retries: int, clip_retries: int,
        actors: int,
    ) -> None:  # fmt: skip
        """Now and then: how things stand."""
        for state, count in (("todo", todo), ("done", done), ("quarantined", quarantined)):
            self.put(VIDEOS, count, {"state": state})
        self.put(LEFT, clips_left)
        self.put(RETRIES, store_retries, {"what": "store call"})
        self.put(RETRIES, clip_retries, {"what": "clip"})
        self.put(ACTORS, actors)
        if ray.is_initialized():
            self.put(OBJECT_STORE, object_store_bytes())


def object_store_bytes() -> float:
    """In use on all nodes, as Ray's scheduler knows it: a second or so old."""
    name = "object_store_memory"
    return max(0.0, float(ray.cluster_resources().get(name, 0)) - float(ray.available_resources().get(name, 0)))


def endpoints() -> list[str]:
    """Where Prometheus finds each node's metrics."""
    return [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in ray.nodes()
        if node["Alive"] and node.get("MetricsExportPort")
    ]
