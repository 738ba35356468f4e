"""jobs/train.py as a user runs it: a worker that is killed costs the steps since its last checkpoint, and no bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from models import weights
from pipeline.training.export import save_weights
from pipeline.training.kinds import kind_of
from pipeline.training.recipe import Recipe
from pipeline.training.trainer import prefetch
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


def _uninterrupted(folder: Path) -> Path:
    """What the recipe makes in this process, in one go, as it is shipped."""
    recipe = Recipe.model_validate(RECIPE)
    kind = kind_of(recipe)
    sampler = kind.sampler(recipe, kind.sources(recipe, [folder / "clips"], folder / "cache"))
    trainer = kind.trainer(recipe, torch.device("cpu"), sampler)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for batch in prefetch(sampler, 0, STEPS, 0):
            trainer.step(batch)
    finally:
        torch.set_num_threads(threads)
    save_weights(trainer.result, folder / "whole.safetensors", {})
    return folder / "whole.safetensors"


@pytest.mark.slow
def test_a_killed_worker_resumes_from_its_checkpoint_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.mkv", sliding(20, speed=2))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    output = tmp_path / "out"
    options = ["--config", tmp_path / "recipe.yaml", "--data", tmp_path / "clips", "--output", output]
    with Job([str(ROOT / "jobs" / "train.py"), *map(str, options)]) as job:
        until(lambda: f"step={3 * EVERY} " in job.text, "some checkpoints", job)
        (worker,) = workers(job.process.pid, "ray::RayTrainWorker")
        os.kill(worker, signal.SIGKILL)
        until(lambda: "[FailurePolicy] RETRY" in job.text, "another worker", job)
        done = job.wait()
    assert done.code == 0, done.text
    again = done.text.rpartition("[FailurePolicy] RETRY")[2]
    assert f"step={STEPS} " in again
    assert f"step={EVERY} " not in again, "it went on from a checkpoint, not from the beginning"
    rows: list[dict[str, Any]] = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(EVERY, STEPS + 1, EVERY)), "nothing lost or twice"
    found, expected = (
        weights.load(str(path)).tensors for path in (output / "weights.safetensors", _uninterrupted(tmp_path))
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name
