"""A running job is watched from outside: its node's Prometheus endpoint has what the dashboard draws."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.support import Cluster, Job, Output, job_arguments, start, until, write
from tests.media_factory import make_video
from tests.run.test_metrics import named

SLOW = ("model=blend", "encode.preset=veryslow", "clip.frames=6", "resources.actors=1")
"""Many clips that take a moment each: the endpoint is a second or two behind."""
VIDEOS, FRAMES = 3, 96


def scraped(url: str) -> dict[str, list[tuple[Mapping[str, str], float]]]:
    """Samples by name: (labels, value)."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for name, labels, value in re.findall(r"^(ray_\w+)\{(.*)\} (\S+)$", text, re.M):
        found.setdefault(name, []).append((dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)))
    return found


def test_every_metric_of_the_dashboard_is_at_the_endpoint_while_the_job_runs(tmp_path: Path, cluster: Cluster) -> None:
    videos = {f"{number}.mp4": make_video(size=(320, 240), frames=FRAMES) for number in range(VIDEOS)}
    source = write(tmp_path / "in", {"0bad.mp4": b"not a video", **videos})
    with start(source, tmp_path / "out", SLOW, env=cluster.job_env()) as job:
        (url, *_) = until(lambda: re.findall(r"^metrics: (http://\S+?)(?:,|$)", job.text, re.M), "an endpoint", job)
        (session,) = re.findall(r"^session (\S+?);", job.text, re.M)

        def complete() -> dict[str, list[tuple[Mapping[str, str], float]]] | None:
            found = {
                name: [(tags, value) for tags, value in samples if tags.get("session") in (None, session)]
                for name, samples in scraped(url).items()
            }
            missing = [name for name in named() if not found.get(name)]
            quarantined = [v for tags, v in found.get("ray_motionmill_videos", []) if tags["state"] == "quarantined"]
            return found if not missing and quarantined == [1] else None

        found = until(complete, f"all of {sorted(named())} at {url}", job)
        assert job.process.poll() is None, "the job was running"
        done = job.wait()
    assert done.code == 3, done.text
    one = {name: samples[0] for name, samples in found.items() if samples and "motionmill" in name}
    assert all(tags["task"] == "interpolate" and tags["session"] == session for tags, _ in one.values())
    assert 0 < one["ray_motionmill_frames_total"][1] <= VIDEOS * 2 * FRAMES
    assert one["ray_motionmill_output_bytes_total"][1] > 0
    assert one["ray_motionmill_actors"][1] == 1
    assert 0 <= one["ray_motionmill_model_busy_ratio"][1] <= 1
    stages = {tags["stage"] for tags, _ in found["ray_motionmill_stage_seconds_total"]}
    assert {"total", "model", "decode", "encode"} <= stages
    summary = Output.of(tmp_path / "out").summary
    assert summary["frames"] == VIDEOS * 2 * FRAMES
    speed = summary["speed"]
    assert abs(sum(speed["shares"].values()) - 1) < 0.001
    assert speed["calibrated"]
    assert 0 < speed["reached"] <= speed["ceiling"]
    assert {"cluster", "checks", "actors", "load", "first_clip", "first_frame"} <= set(summary["start_up"])
    last = summary["timeline"][-1]
    assert (last["frames"], last["clips"]) == (VIDEOS * 2 * FRAMES, VIDEOS * FRAMES // 6)


def test_a_run_tells_the_next_plan_what_it_costs_and_a_limit_holds(tmp_path: Path, cluster: Cluster) -> None:
    source = write(tmp_path / "in", {"a.mp4": make_video(frames=24)})
    sets = ["model=blend", "encode.preset=ultrafast"]
    env = {**cluster.job_env(), "MOTIONMILL_CALIBRATION": str(tmp_path / "cache")}

    def run(*flags: str, more: tuple[str, ...] = ()) -> tuple[int, str]:
        with Job(job_arguments(source, tmp_path / "out", [*sets, *more], flags), env) as job:
            done = job.wait()
        return done.code, done.text

    code, text = run(more=("limits.max_hours=0.0000000001",))
    assert code == 2, text
    assert "measured just now" not in text, "refused before it is said"
    assert "limits.max_hours=1e-10" in text
    assert not Output.of(tmp_path / "out").files, "nothing was done"
    code, text = run(more=("limits.max_hours=10",))
    assert code == 0, text
    assert "measured just now, for limits.max_hours" in text
    files = Output.of(tmp_path / "out").files
    assert "_motionmill/calibration.json" in files
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["interpolate-blend-cpu-fp32.json"]
    write(source, {"b.mp4": make_video(frames=240)})
    code, text = run("--plan-json", str(tmp_path / "plan.json"))
    assert code == 0, text
    assert "this output's last run" in text
    assert "1 videos done before" in text
    assert Output.of(tmp_path / "out").files == files, "a plan changes nothing"
    assert (tmp_path / "plan.json").exists()
