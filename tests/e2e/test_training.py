"""jobs/train.py as a user runs it: a worker that is killed costs the steps since its last checkpoint, and no bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.support import ROOT, Job, until, workers
from tests.training.clips_factory import sliding, write_clip

STEPS, EVERY = 300, 20
RECIPE = {
    "model": {"channels": 16, "rcabs": 1, "groups": 2, "shuffle": 2, "reduction": 4, "start_as_average": True},
    "data": {"transpose": True},
    "stages": [{"crop": 32, "batch": 2}],
    "optimiser": {"learning_rate": 2e-3},
    "schedule": {"kind": "cosine", "steps": STEPS, "warmup": 3},
    "precision": "fp32",
    "threads": 1,
    "report_every": EVERY,
}


def _arguments(folder: Path, output: Path) -> list[str]:
    return [
        str(ROOT / "jobs" / "train.py"),
        *("--config", str(folder / "recipe.yaml"), "--data", str(folder / "clips"), "--output", str(output)),
    ]


def _history(output: Path) -> list[tuple[Any, ...]]:
    rows = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["learning_rate"]) for row in rows]


@pytest.mark.slow
def test_a_killed_worker_resumes_from_its_checkpoint_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.mkv", sliding(20, speed=2))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    killed, clean = tmp_path / "killed", tmp_path / "clean"
    with Job(_arguments(tmp_path, killed)) as job:
        until(lambda: list(killed.glob("checkpoints/**/state.pt")), "a checkpoint", job)
        (worker,) = workers(job.process.pid, "ray::RayTrainWorker")
        os.kill(worker, signal.SIGKILL)
        done = job.wait()
    assert done.code == 0, done.text
    with Job(_arguments(tmp_path, clean)) as job:
        reference = job.wait()
    assert reference.code == 0, reference.text
    assert [step for step, *_ in _history(killed)] == list(range(EVERY, STEPS + 1, EVERY)), "nothing lost or twice"
    assert _history(killed) == _history(clean)
    assert (killed / "weights.safetensors").read_bytes() == (clean / "weights.safetensors").read_bytes()
