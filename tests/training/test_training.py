"""A short training run on clips made by code: it learns, resumes bit for bit, and refuses what it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.train
import torch
import yaml
from pydantic import ValidationError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from models import weights
from models.cain_sd import CAIN
from pipeline import config
from pipeline.errors import ConfigError, MotionmillError, OutputConflict, UnreadableVideo
from pipeline.training import ray_train
from pipeline.training.clips import Clip, load_clips
from pipeline.training.export import save_weights
from pipeline.training.loop import Trainer, prefetch
from pipeline.training.losses import LOSSES
from pipeline.training.recipe import Ramp, Recipe
from pipeline.training.sampling import TripletSampler, colour_jitter, flip
from pipeline.training.synthetic import make_triplet
from tests.training.clips_factory import sliding, write_clip

CONFIGS = Path(__file__).parents[2] / "configs" / "train"
STEPS = 30


def recipe(**changes: Any) -> Recipe:
    document: dict[str, Any] = {
        "model": {"channels": 16, "rcabs": 1, "groups": 2, "shuffle": 2, "reduction": 4, "start_as_average": True},
        "data": {"seek_motion": True, "transpose": True, "synthetic": {"start": 0.5, "end": 0.2}},
        "stages": [{"until": 0.5, "crop": 32, "batch": 2, "loss": "relative"}, {"crop": 48, "batch": 2}],
        "optimiser": {"learning_rate": 2e-3, "tail_factor": 0.05, "clip_norm": 1.0, "skip_above": None},
        "schedule": {"kind": "cosine", "steps": STEPS, "warmup": 3},
        "average_decay": 0.9,
        "precision": "fp32",
        "threads": 1,
    }
    return Recipe.model_validate({**document, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "slow.mkv", sliding(20, speed=1))
    write_clip(folder / "fast.mkv", sliding(20, speed=3, seed=1))
    return folder


@pytest.fixture(scope="module")
def clips(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return load_clips(folder, tmp_path_factory.mktemp("cache"), [1.0], 48)


def train(trainer: Trainer, clips: list[Clip], until: int) -> list[float]:
    sampler = TripletSampler(clips, trainer.recipe)
    return [trainer.step(batch)["loss"] for batch in prefetch(sampler, trainer.step_count, until)]


def states_equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(states_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(states_equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    clips: list[Clip], tmp_path: Path, precision: str
) -> None:
    whole = Trainer(recipe(precision=precision))
    train(whole, clips, 12)
    first = Trainer(recipe(precision=precision))
    train(first, clips, 5)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Trainer(recipe(precision=precision))
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(second, clips, 12)
    assert states_equal(whole.state_dict(), second.state_dict())


def test_the_first_output_is_exactly_the_average_and_training_beats_it(clips: list[Clip]) -> None:
    # One slow pan, real frames only: enough to learn it in seconds.
    settings = recipe(
        data={"seek_motion": True}, stages=[{"crop": 32, "batch": 4}], schedule={"kind": "cosine", "steps": 150},
    )  # fmt: skip
    trainer = Trainer(settings)
    sampler = TripletSampler([c for c in clips if c.name == "fast.mkv"], settings)
    batch = sampler.batch(10_000)
    average = (batch.frame0 + batch.frame1) / 2
    with torch.inference_mode():
        start = trainer.network(batch.frame0, batch.frame1)
        assert (start - average).abs().max() < 1e-5
    for training_batch in prefetch(sampler, 0, 150):
        trainer.step(training_batch)
    with torch.inference_mode():
        end = trainer.result.eval()(batch.frame0, batch.frame1, pad_multiple=2)
    before, after = ((x - batch.middle).abs().mean() for x in (average, end))
    assert after < 0.9 * before


def test_a_step_whose_loss_explodes_is_skipped(clips: list[Clip]) -> None:
    settings = recipe(optimiser={"skip_above": 10.0}, stages=[{"crop": 32, "batch": 2, "loss": "l1"}])
    trainer = Trainer(settings)
    batch = TripletSampler(clips, settings).batch(0)
    assert trainer.step(batch)["skipped"] == 0
    weights_before = [p.clone() for p in trainer.network.parameters()]
    wild = batch._replace(middle=batch.middle + 50)
    assert trainer.step(wild)["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(weights_before, trainer.network.parameters(), strict=True))


def test_the_rate_falls_when_held_out_loss_stays_on_a_plateau(clips: list[Clip]) -> None:
    settings = recipe(
        data={"held_out": 0.4}, stages=[{"crop": 32, "batch": 2}],
        schedule={"kind": "plateau", "steps": STEPS, "plateau_patience": 2},
    )  # fmt: skip
    trainer = Trainer(settings)
    held_out = TripletSampler(clips, settings, held_out=True)
    rates = []
    for _ in range(4):
        trainer.measure(held_out)
        rates.append(trainer.learning_rate())
    assert rates[:3] == [rates[0]] * 3
    assert rates[3] == rates[0] / 2


def test_batches_depend_on_seed_step_and_rank_only(clips: list[Clip]) -> None:
    one, two = TripletSampler(clips, recipe()), TripletSampler(clips, recipe())
    two.batch(0)
    assert all(torch.equal(a, b) for a, b in zip(one.batch(7), two.batch(7), strict=True))
    assert not torch.equal(one.batch(7).middle, one.batch(8).middle)
    assert not torch.equal(one.batch(7, rank=0).middle, one.batch(7, rank=1).middle)
    assert not torch.equal(one.batch(7).middle, TripletSampler(clips, recipe(seed=1)).batch(7).middle)


def test_aligned_triplets_are_of_the_same_size_and_nearer_to_their_middle(clips: list[Clip]) -> None:
    fast = [clip for clip in clips if clip.name == "fast.mkv"]
    plain, aligned = recipe(), recipe(data={**recipe().data.model_dump(), "align": True})
    assert TripletSampler(clips, aligned).batch(3).middle.shape == TripletSampler(clips, plain).batch(3).middle.shape

    def apart(settings: Recipe) -> float:
        sampler = TripletSampler(fast, settings)
        batches = [sampler.batch(step) for step in range(6)]
        return float(
            torch.stack(
                [(b.frame0 - b.middle).abs().mean() + (b.frame1 - b.middle).abs().mean() for b in batches]
            ).mean()
        )

    assert apart(aligned) < 0.8 * apart(plain)


def test_training_never_sees_held_out_frames(clips: list[Clip]) -> None:
    settings = recipe(data={"held_out": 0.4})
    seen, kept = TripletSampler(clips, settings), TripletSampler(clips, settings, held_out=True)
    assert max(source.starts.max() + 2 for source in seen._sources) < 12
    assert min(source.starts.min() for source in kept._sources) >= 12


def test_flips_treat_all_frames_of_a_triplet_alike() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (8, 8, 3), np.uint8)
    frames = np.stack([base, base, base])
    for seed in range(16):
        flipped = flip(frames, np.random.default_rng(seed), transpose=True)
        assert (flipped == flipped[0]).all()


def test_colour_jitter_draws_once_for_all_frames_and_keeps_greys_grey() -> None:
    frame = torch.rand(1, 3, 8, 8)
    changed = colour_jitter(frame.repeat(3, 1, 1, 1), np.random.default_rng(0), 0.05)
    assert torch.equal(changed[0], changed[2])
    assert 0 < (changed[0] - frame[0]).abs().max() < 0.3
    grey = colour_jitter(torch.rand(3, 1, 8, 8).repeat(1, 3, 1, 1), np.random.default_rng(1), 0.05)
    assert (grey - grey.mean(1, keepdim=True)).abs().max() < 5e-3


def test_made_triplets_are_symmetric_in_time(clips: list[Clip]) -> None:
    frames = make_triplet(clips, 32, 0.0, np.random.default_rng(0))
    assert frames.shape == (3, 32, 32, 3)
    assert (frames == frames[0]).all()
    moving = make_triplet(clips, 32, 6.0, np.random.default_rng(1))
    assert not np.array_equal(moving[0], moving[1])


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_prefers_the_truth(name: str) -> None:
    middle, average = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    assert LOSSES[name](middle, middle, average) < LOSSES[name](middle + 0.01, middle, average)


def test_ramps_rise_and_stay() -> None:
    ramp = Ramp(start=2.0, end=6.0, until=0.5)
    assert [ramp.at(p) for p in (0.0, 0.25, 0.5, 1.0)] == [2.0, 4.0, 6.0, 6.0]


def test_recipes_refuse_what_cannot_be_run() -> None:
    with pytest.raises(ValidationError, match=r"rise to 1\.0"):
        recipe(stages=[{"until": 0.5, "crop": 32}])
    with pytest.raises(ValidationError, match="no multiples of the model's shuffle"):
        recipe(stages=[{"crop": 33}])
    with pytest.raises(ValidationError, match="held_out > 0"):
        recipe(schedule={"kind": "plateau", "steps": 1})
    with pytest.raises(ValidationError, match="channels >= 12"):
        recipe(model={"channels": 8, "shuffle": 2, "start_as_average": True})


def test_the_shipped_recipes_load_and_the_compact_one_is_of_the_shipped_weights() -> None:
    full = config.load(Recipe, CONFIGS / "cain_full.yaml", [])  # type: ignore[type-var]
    assert (full.model.channels, full.model.rcabs, full.model.groups) == (192, 12, 5)
    assert (full.optimiser.clip_norm, full.optimiser.skip_above) == (0.1, 10.0)
    compact = config.load(Recipe, CONFIGS / "cain_compact.yaml", [])  # type: ignore[type-var]
    shipped = CAIN.from_reference(weights.load("cain-compact").tensors)
    assert compact.model.model_dump(exclude={"start_as_average"}) == shipped.sizes


def test_exported_weights_load_again_and_have_the_digest_that_was_said(tmp_path: Path) -> None:
    network = CAIN(16, 1, 2, 2, 4)
    digest = save_weights(network, tmp_path / "w.safetensors", {"network": "CAIN"})
    assert save_weights(network, tmp_path / "again.safetensors", {"network": "CAIN"}) == digest
    loaded = weights.load(tmp_path / "w.safetensors", sha256=digest)
    assert CAIN.from_reference(loaded.tensors).sizes == network.sizes
    with torch.no_grad():
        network.head.bias[0] = 1e6
    with pytest.raises(ValueError, match=r"headConv\.bias.*not finite"):
        save_weights(network, tmp_path / "bad.safetensors", {})


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no training run to resume"):
        ray_train._claim(recipe(), tmp_path / "run", resume=True)
    ray_train._claim(recipe(), tmp_path / "run", resume=False)
    with pytest.raises(OutputConflict, match="--resume"):
        ray_train._claim(recipe(), tmp_path / "run", resume=False)
    with pytest.raises(OutputConflict, match="different: seed"):
        ray_train._claim(recipe(seed=1), tmp_path / "run", resume=True)
    longer = recipe(schedule={"kind": "cosine", "steps": STEPS + 10, "warmup": 3})
    ray_train._claim(longer, tmp_path / "run", resume=True)
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["schedule"]["steps"] == STEPS + 10


def test_a_run_goes_on_where_its_recipe_lacks_keys_that_came_later(tmp_path: Path) -> None:
    ray_train._claim(recipe(), tmp_path / "run", resume=False)
    kept = tmp_path / "run" / "recipe.yaml"
    document = yaml.safe_load(kept.read_text())
    assert document.pop("initial_weights") is None
    assert document["model"].pop("start_as_average") is True
    kept.write_text(yaml.safe_dump(document))
    with pytest.raises(OutputConflict, match=r"different: model\)"):  # by default it is not
        ray_train._claim(recipe(), tmp_path / "run", resume=True)
    document["model"]["start_as_average"] = True
    kept.write_text(yaml.safe_dump(document))
    ray_train._claim(recipe(), tmp_path / "run", resume=True)


def test_what_a_worker_raises_on_purpose_is_told_without_its_traceback() -> None:
    ours = UserExceptionWithTraceback(UnreadableVideo("a.png: no readable picture; restore it"), "Traceback …")
    told = ray_train._told(ray.train.WorkerGroupError("…", {0: RuntimeError("connection reset"), 1: ours}))
    assert isinstance(told, MotionmillError)
    assert str(told) == "a.png: no readable picture; restore it; then go on with --resume"
    bug = ray.train.WorkerGroupError("…", {0: UserExceptionWithTraceback(TypeError("no"), "Traceback …")})
    assert ray_train._told(bug) is None
