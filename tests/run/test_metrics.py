"""The dashboard draws what the code exports, and all of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.run import metrics
from pipeline.run.metrics import ActorMetrics, DriverMetrics

DASHBOARD = Path(__file__).resolve().parents[2] / "configs" / "grafana" / "motionmill.json"


def named() -> set[str]:
    """Every metric that a panel or a variable of the dashboard asks for."""
    document = json.loads(DASHBOARD.read_text())
    texts = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    texts += [str(item["query"]) for item in document["templating"]["list"]]
    return set(re.findall(r"\bray_\w+", " ".join(texts)))


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    own = {name for name in named() if name.startswith("ray_motionmill_")}
    assert own == {metric.exposed for metric in metrics.ALL}
    assert named() - own == {"ray_object_store_memory"}, "of Ray's own, this one"


def test_the_dashboard_s_queries_keep_to_the_tags_that_exist() -> None:
    document = json.loads(DASHBOARD.read_text())
    tags = {tag for metric in metrics.ALL for tag in metric.tags} | {"task", "session"}
    for panel in document["panels"]:
        for target in panel["targets"]:
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            used = {tag.strip() for group in grouped for tag in group.split(",")}
            used |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert used <= tags, (panel["title"], used)
            assert target["expr"].count("(") == target["expr"].count(")")
    places = [tuple(panel["gridPos"].values()) for panel in document["panels"]]
    assert len({place[:2] for place in places}) == len(places), "no panel lies on another"


class Seen:
    """Stands for a metric of Ray's: what it was told."""

    def __init__(self) -> None:
        self.values: list[tuple[float, dict[str, str]]] = []

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values.append((value, tags))

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0, "Ray refuses anything else"
        self.values.append((value, tags))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Seen]:
    return {metric.name: Seen() for metric in metrics.ALL}


def test_a_clip_counts_as_what_it_was(seen: dict[str, Seen]) -> None:
    from tests.run.test_speed import receipt

    recorder: Any = ActorMetrics("flow", "session-1")
    recorder._made = seen
    recorder.clip(receipt("a", 0, 8.0, model=6.0, starved=1.0, frames=50))
    assert seen["motionmill_clips"].values == [(1, {"status": "ok"})]
    assert seen["motionmill_frames"].values == [(50, {})]
    assert seen["motionmill_output_bytes"].values == [], "nothing written, nothing counted"
    assert seen["motionmill_model_busy_ratio"].values == [(0.75, {})]
    assert seen["motionmill_decode_starved_ratio"].values == [(0.125, {})]
    stages = {tags["stage"]: value for value, tags in seen["motionmill_stage_seconds"].values}
    assert stages == {"model": 6.0, "decode_starved": 1.0, "total": 8.0}


def test_the_driver_shows_what_is_zero_too(seen: dict[str, Seen]) -> None:
    recorder: Any = DriverMetrics("flow", "session-1")
    recorder._made = seen
    recorder.show(todo=3, done=0, quarantined=0, clips_left=9, store_retries=0, clip_retries=2, actors=2)
    assert seen["motionmill_videos"].values == [
        (3, {"state": "todo"}), (0, {"state": "done"}), (0, {"state": "quarantined"}),
    ]  # fmt: skip
    assert seen["motionmill_retries"].values == [(0, {"what": "store call"}), (2, {"what": "clip"})]
    assert (seen["motionmill_clips_left"].values, seen["motionmill_actors"].values) == ([(9, {})], [(2, {})])
