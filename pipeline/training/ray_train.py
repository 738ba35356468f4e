"""The rim that binds the training loop to Ray Train: processes, devices, checkpoints, resuming.

OUTPUT/
  recipe.yaml            the run's recipe; a resume must bring the same, except for the keys in RESUMABLE
  checkpoints/           Ray Train's storage
  history.jsonl          one measurement a line
  weights.safetensors    fp16, published names (models.weights.load reads it)
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import yaml
from pydantic import ValidationError

from pipeline.config import ResourcesConfig
from pipeline.errors import ConfigError, MotionmillError, OutputConflict
from pipeline.run import cluster
from pipeline.training.export import save_weights
from pipeline.training.kinds import KINDS, AnyRecipe, kind_of, network_of
from pipeline.training.roots import resolved
from pipeline.training.trainer import BaseTrainer, prefetch

RESUMABLE = (
    "schedule",
    "phases",
    "workers",
    "gpus_per_worker",
    "threads",
    "readers",
    "report_every",
    "keep_checkpoints",
)
STATE, HISTORY, RECIPE = "state.pt", "history.jsonl", "recipe.yaml"
CHECKPOINTS = "checkpoints"
MAX_FAILURES = 3  # of worker processes, each resumed from the last checkpoint


def run(
    recipe: AnyRecipe, data: Sequence[Path], output: Path, *, resume: bool = False, cache: Path | None = None
) -> dict[str, Any]:
    """Train to the end and export. Returns the last measurement with the path and digest of the weights.

    data: folders of video files (MEMFOF: of photographs too), or NAME=FOLDER where the recipe names its sets;
    cache: where decoded frames are kept (OUTPUT/frames if None).
    """
    output = output.resolve()
    _refuse_another(recipe, output, resume)
    cache = (cache or output / "frames").resolve()
    kind = kind_of(recipe)
    kind.sampler(recipe, kind.sources(recipe, data, cache))  # errors show before any worker starts
    _claim(recipe, output, resume)
    cluster.connect(ResourcesConfig(cluster_cpus=recipe.workers + 1))
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={
            "network": network_of(recipe),
            "recipe": recipe.model_dump(mode="json"),
            "data": [resolved(folder) for folder in data],
            "cache": str(cache),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=recipe.workers,
            use_gpu=recipe.gpus_per_worker > 0,
            resources_per_worker={"CPU": 1, **({"GPU": recipe.gpus_per_worker} if recipe.gpus_per_worker else {})},
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=str(output),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=recipe.keep_checkpoints),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.WorkerGroupError as error:
        known = _told(error)
        if known is None:
            raise
        raise known from error
    if result.checkpoint is None:
        raise MotionmillError(f"{output}: training ended without a checkpoint; see the messages above")
    return _export(recipe, result.checkpoint, output)


def _told(error: ray.train.WorkerGroupError) -> MotionmillError | None:
    """What a worker raised on purpose, as a message; None where none did."""
    for failure in error.worker_failures.values():
        cause = getattr(failure, "_base_exc", failure)  # as Ray wraps what a worker raises
        if isinstance(cause, MotionmillError):
            return MotionmillError(f"{cause}; then go on with --resume")
    return None


def _claim(recipe: AnyRecipe, output: Path, resume: bool) -> None:
    _refuse_another(recipe, output, resume)
    output.mkdir(parents=True, exist_ok=True)
    (output / RECIPE).write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def _refuse_another(recipe: AnyRecipe, output: Path, resume: bool) -> None:
    """Raises OutputConflict or ConfigError rather than mix two runs in one folder."""
    kept = output / RECIPE
    document = recipe.model_dump(mode="json")
    if kept.exists():
        if not resume:
            raise OutputConflict(f"{output}: holds a training run; continue it with --resume, or name another folder")
        before = _with_defaults(recipe, yaml.safe_load(kept.read_text(encoding="utf-8")))
        changed = [key for key in document if key not in RESUMABLE and document[key] != before.get(key)]
        if changed:
            raise OutputConflict(
                f"{output}: its run has another recipe (different: {', '.join(changed)}); resume with the recipe in "
                f"{kept}, or name another folder"
            )
    elif resume:
        raise ConfigError(f"{output}: no training run to resume (recipe.yaml is missing); leave out --resume")


def _with_defaults(recipe: AnyRecipe, document: dict[str, Any]) -> dict[str, Any]:
    """A kept recipe with the keys that came after it."""
    try:
        return type(recipe).model_validate(document).model_dump(mode="json")
    except ValidationError:  # of keys that are gone: it is another recipe
        return document


def _worker(config: dict[str, Any]) -> None:
    """One process of the run."""
    kind = KINDS[config["network"]]
    recipe = kind.recipe.model_validate(config["recipe"])
    torch.set_num_threads(recipe.threads)
    rank = ray.train.get_context().get_world_rank()
    sources = kind.sources(recipe, [Path(folder) for folder in config["data"]], Path(config["cache"]))
    sampler, held_out = kind.sampler(recipe, sources), kind.held_out(recipe, sources)
    trainer = kind.trainer(recipe, ray.train.torch.get_device(), sampler)
    history: list[dict[str, float]] = []
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.load_state_dict(torch.load(Path(folder) / STATE, trainer.device, weights_only=True))
            history = [json.loads(line) for line in (Path(folder) / HISTORY).read_text().splitlines()]

    losses: list[float] = []
    skipped, since, last = 0, time.monotonic(), recipe.schedule.steps
    for batch in prefetch(sampler, trainer.step_count, last, rank):
        outcome = trainer.step(batch)
        losses.append(outcome["loss"])
        skipped += int(outcome["skipped"])
        if trainer.step_count % recipe.report_every and trainer.step_count != last:
            continue
        metrics = {
            "step": trainer.step_count,
            "loss": sum(losses) / len(losses),
            "skipped": skipped,
            "learning_rate": trainer.learning_rate(),
            "steps_per_second": len(losses) / (time.monotonic() - since),
        }
        if held_out is not None:
            metrics["held_out_loss"] = trainer.measure(held_out)
        history.append(metrics)
        if rank == 0:
            print(" ".join(f"{key}={value:.6g}" for key, value in metrics.items()), flush=True)
        _report(trainer, metrics, history, rank)
        losses, skipped, since = [], 0, time.monotonic()


def _report(
    trainer: BaseTrainer[Any, Any], metrics: dict[str, float], history: list[dict[str, float]], rank: int
) -> None:
    """Hand a measurement, and from the first process a checkpoint, to Ray Train."""
    if rank:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(trainer.state_dict(), Path(folder) / STATE)
        lines = (json.dumps(row) + "\n" for row in history)
        (Path(folder) / HISTORY).write_text("".join(lines), encoding="utf-8")
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _export(recipe: AnyRecipe, checkpoint: ray.train.Checkpoint, output: Path) -> dict[str, Any]:
    kind = kind_of(recipe)
    trainer = kind.trainer(recipe, None, None)
    with checkpoint.as_directory() as folder:
        trainer.load_state_dict(torch.load(Path(folder) / STATE, "cpu", weights_only=True))
        shutil.copyfile(Path(folder) / HISTORY, output / HISTORY)
    path = output / "weights.safetensors"
    metadata = {"network": kind.network, "steps": str(trainer.step_count), "seed": str(recipe.seed)}
    metadata |= getattr(trainer.result, "metadata", dict)()  # what the tensors alone do not say
    metadata |= {"frames": "aligned"} if getattr(getattr(recipe, "data", None), "align", False) else {}
    digest = save_weights(trainer.result, path, metadata)
    last: dict[str, Any] = json.loads((output / HISTORY).read_text(encoding="utf-8").splitlines()[-1])
    return {**last, "weights": str(path), "sha256": digest}
