"""CAIN-SD's training on clips made by code: every phase learns what it should and nothing else, and runs resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from models import weights
from models.cain_sd import CAINSD, PWCNet
from pipeline import config
from pipeline.plan.adaptive import frontier, taken
from pipeline.training.clips import Clip, load_clips
from pipeline.training.export import save_weights
from pipeline.training.kinds import KINDS, recipe_type
from pipeline.training.sd_build import PINNED
from pipeline.training.sd_loop import SDTrainer
from pipeline.training.sd_recipe import SDRecipe
from pipeline.training.sd_sampling import SDSampler
from pipeline.training.trainer import prefetch
from tests.training.clips_factory import sliding, write_clip

CONFIGS = Path(__file__).parents[2] / "configs" / "train"


def recipe(**changes: Any) -> SDRecipe:
    document: dict[str, Any] = {
        "network": "cain-sd",
        "model": {"channels": 16, "rcabs": 1, "groups": 2, "shuffle": 2, "reduction": 4, "start_as_average": True},
        "enlarger": {"width": 16},
        "data": {"transpose": True, "synthetic": {"start": 0.3, "end": 0.3}},
        "phases": [
            {"kind": "exits", "steps": 4, "crop": 32, "batch": 2, "loss": "log_mse", "scales": {1: 1, 2: 1, 4: 1}},
            {"kind": "depth", "steps": 3, "crop": 32, "batch": 2, "loss": "log_mse", "finder_factor": 10},
            {"kind": "scale", "steps": 3, "crop": 32, "batch": 2, "loss": "log_mse", "every_choice": 0.5},
            {"kind": "finder", "steps": 5, "frames": 2, "learning_rate": 1e-3},
        ],
        "grid": {"size": 48, "overlap": 8},
        "average_decay": 0.9,
        "precision": "fp32",
        "threads": 1,
    }
    return SDRecipe.model_validate({**document, **changes})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the recipe says, and as the training's processes set it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "slow.mkv", sliding(12, speed=1))
    write_clip(folder / "fast.mkv", sliding(12, speed=3, seed=1))
    return load_clips(folder, tmp_path_factory.mktemp("cache"), [1.0], 32)


def train(trainer: SDTrainer, clips: list[Clip], until: int) -> list[float]:
    sampler = SDSampler(clips, trainer.recipe)
    return [trainer.step(batch)["loss"] for batch in prefetch(sampler, trainer.step_count, until)]


def parts(network: CAINSD) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.to_tensors().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Parts of which a tensor changed."""
    names = {name for name in before if not torch.equal(before[name], after[name])}
    return {".".join(name.split(".")[: 2 if name.startswith("finder") else 1]) for name in names}


def test_each_phase_trains_its_own_parts_and_leaves_the_others(clips: list[Clip]) -> None:
    trainer = SDTrainer(recipe(average_decay=0.0))
    found, before = [], parts(trainer.network)
    for end in (4, 7, 10, 15):
        assert all(loss == loss for loss in train(trainer, clips, end))
        after = parts(trainer.network)
        found.append(changed(before, after))
        before = after
    assert found == [
        {"cain", "enlarger"},
        {"cain", "finder.depth_net"},
        {"cain", "enlarger", "finder.scale_net"},
        {"finder.depth_net", "finder.scale_net"},
    ]


@pytest.mark.parametrize("stop", [2, 5, 8, 12])
def test_a_run_resumed_in_any_phase_equals_an_uninterrupted_one_bit_for_bit(clips: list[Clip], stop: int) -> None:
    whole = SDTrainer(recipe())
    expected = train(whole, clips, 15)
    first = SDTrainer(recipe())
    losses = train(first, clips, stop)
    second = SDTrainer(recipe())
    second.load_state_dict(first.state_dict())
    losses += train(second, clips, 15)
    assert losses == expected
    assert not changed(parts(whole.result), parts(second.result))


def test_a_phase_starts_from_the_averaged_weights_of_the_one_before(clips: list[Clip]) -> None:
    trainer = SDTrainer(recipe())
    train(trainer, clips, 10)
    averaged = parts(trainer.result)
    assert changed(averaged, parts(trainer.network))
    train(trainer, clips, 11)
    assert not {name for name in changed(averaged, parts(trainer.network)) if not name.startswith("finder")}


def test_a_high_price_of_arithmetic_makes_the_finder_choose_cheaper(clips: list[Clip]) -> None:
    """The same data and draws at two prices: expected FLOPs after the finder's phase differ the right way."""
    shares = []
    for price in (0.0, 10.0):
        steady = {"start": price, "end": price}
        phases = [{"kind": "finder", "steps": 40, "frames": 2, "learning_rate": 1e-2, "price": steady}]
        trainer = SDTrainer(recipe(phases=phases, average_decay=0.0))
        train(trainer, clips, 40)
        batch = SDSampler(clips, trainer.recipe).batch(0)
        logits, _ = trainer.of_frame(trainer.network, batch)
        chance = logits.scale[0].softmax(-1)[:, :, None] * logits.depth[0].softmax(-1)[:, None, :]
        shares.append(float((chance.detach() * trainer.costs / trainer.costs[0, -1]).sum((1, 2)).mean()))
    assert shares[1] < 0.8 * shares[0]


@pytest.mark.parametrize(("kind", "net"), [("depth", "depth_net"), ("scale", "scale_net")])
def test_the_resource_loss_pushes_drawn_choices_towards_cheap_ones(clips: list[Clip], kind: str, net: str) -> None:
    phases = [{"kind": kind, "steps": 30, "crop": 32, "batch": 2, "learning_rate": 1e-3, "finder_factor": 30}]
    resources = {"scale_lambda": 1e-2, "depth_lambda": 1e-2}
    trainer = SDTrainer(recipe(phases=phases, resources=resources, average_decay=0.0))
    train(trainer, clips, 30)
    bias = getattr(trainer.network.finder, net).conv3.bias
    cheap, dear = (-1, 0) if kind == "scale" else (0, -1)
    assert bias[cheap] > bias[dear] + 0.05


def test_what_is_not_adapted_is_pinned_and_never_chosen(clips: list[Clip]) -> None:
    phases = [{"kind": "finder", "steps": 3, "frames": 2, "learning_rate": 1e-3}]
    trainer = SDTrainer(recipe(phases=phases, adapts=["scale"]))
    train(trainer, clips, 3)
    network = trainer.result
    batch = SDSampler(clips, trainer.recipe).batch(0)
    logits, _ = trainer.of_frame(network, batch)
    costs, patches = network.flops_per_pixel(), logits.depth.shape[1]
    score = logits.scale[0].log_softmax(-1)[:, :, None] + logits.depth[0].log_softmax(-1)[:, None, :]
    for price in (0.0, 30.0):
        depths = {taken(frontier(score[i].tolist(), costs), price / costs[0][-1]).exit for i in range(patches)}
        assert depths == {network.depths - 1}
    bias = network.finder.depth_net.conv3.bias
    assert bias is not None
    assert bias.tolist() == [0.0, PINNED]


def test_the_exported_file_is_the_averaged_network(clips: list[Clip], tmp_path: Path) -> None:
    trainer = SDTrainer(recipe())
    train(trainer, clips, 6)
    path = tmp_path / "weights.safetensors"
    digest = save_weights(trainer.result, path, {"network": KINDS["cain-sd"].network})
    loaded = weights.load(path, digest)
    again = CAINSD.from_tensors(loaded.tensors)
    assert not changed({k: v.half().float() for k, v in parts(trainer.result).items()}, parts(again))
    start = SDTrainer(recipe(initial_weights=str(path)))
    assert not changed(parts(again), parts(start.network))


def test_held_out_frames_are_measured_apart_from_those_that_are_learned_from(clips: list[Clip]) -> None:
    phases = [{"kind": "finder", "steps": 8, "frames": 4, "learning_rate": 1e-3}]
    trainer = SDTrainer(recipe(phases=phases, data={"held_out": 0.5}))
    taught, kept = (SDSampler(clips, trainer.recipe, held_out=held_out) for held_out in (False, True))
    for index in range(4):
        trainer.step(taught.batch(index))
    fresh = SDTrainer(recipe(phases=phases, data={"held_out": 0.5}))
    fresh.load_state_dict(trainer.state_dict())
    assert trainer.measure(kept) == fresh.measure(kept)


def test_a_finder_starts_from_the_one_at_hand_or_anew(clips: list[Clip], tmp_path: Path) -> None:
    first = SDTrainer(recipe())
    train(first, clips, 13)
    path = tmp_path / "weights.safetensors"
    save_weights(first.network, path, {})
    shipped = parts(CAINSD.from_tensors(weights.load(path).tensors))
    again, anew = (
        parts(SDTrainer(recipe(initial_weights=str(path), finder={"anew": value})).network) for value in (False, True)
    )
    assert not changed(shipped, again)
    assert changed(shipped, anew) == {"finder.depth_net", "finder.scale_net"}
    assert anew["finder.scale_net.conv3.bias"].eq(0).all()


def test_a_finder_that_is_to_see_detail_starts_anew_on_trained_networks(clips: list[Clip], tmp_path: Path) -> None:
    first = SDTrainer(recipe())
    path = tmp_path / "weights.safetensors"
    save_weights(first.network, path, {})
    phases = [{"kind": "finder", "steps": 3, "frames": 2, "learning_rate": 1e-3}]
    second = SDTrainer(recipe(phases=phases, finder={"detail": True}, initial_weights=str(path), average_decay=0.0))
    networks = {k: v for k, v in parts(CAINSD.from_tensors(weights.load(path).tensors)).items() if "finder" not in k}
    before = parts(second.network)
    assert all(torch.equal(before[name], value) for name, value in networks.items())
    train(second, clips, 3)
    assert changed(before, parts(second.network)) == {"finder.depth_net", "finder.scale_net"}


def test_the_full_size_recipes_train_at_toy_size(clips: list[Clip], tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "pwc.safetensors"
    save_weights(PWCNet(), path, {})
    for name in ("cain_sd_full", "cain_s_full", "cain_d_full"):
        file = CONFIGS / f"{name}.yaml"
        assert recipe_type(file) is SDRecipe
        full = config.load(SDRecipe, file)
        document = full.model_dump(mode="json")
        if document["motion"]["kind"] == "pwc":
            document["motion"]["weights"] = str(path)
        document["model"] |= {"channels": 16, "rcabs": 1, "shuffle": 2, "reduction": 4}
        document["enlarger"] |= {"width": 16}
        document["phases"] = [{**phase, "steps": 1, "crop": 32, "batch": 1} for phase in document["phases"]]
        trainer = SDTrainer(SDRecipe.model_validate(document))
        before = parts(trainer.network)
        train(trainer, clips, trainer.steps)
        assert changed(before, parts(trainer.network)) >= {f"finder.{net}_net" for net in full.adapts}


@pytest.mark.parametrize("name", ["cain_sd", "cain_s", "cain_d"])
def test_the_compact_finders_recipes_start_from_the_shipped_networks_and_leave_them(
    name: str, clips: list[Clip]
) -> None:
    document = config.load(SDRecipe, CONFIGS / f"{name}_compact_finder.yaml").model_dump(mode="json")
    document["phases"] = [{**phase, "steps": 1, "frames": 1} for phase in document["phases"]]
    trainer = SDTrainer(SDRecipe.model_validate(document))
    shipped = parts(CAINSD.from_tensors(weights.load("cain-sd-compact").tensors))
    before = parts(trainer.network)
    assert changed(shipped, before) == {"finder.depth_net", "finder.scale_net"}, "which starts anew"
    train(trainer, clips, trainer.steps)
    assert changed(before, parts(trainer.network)) == {f"finder.{net}_net" for net in trainer.recipe.adapts}


def test_the_full_size_recipe_has_the_papers_sizes_and_lambdas() -> None:
    full = config.load(SDRecipe, CONFIGS / "cain_sd_full.yaml")
    assert (full.resources.scale_lambda, full.resources.depth_lambda) == (5e-9, 5e-11)
    assert [phase.kind for phase in full.phases] == ["exits", "depth", "scale"]
    assert {phase.crop for phase in full.phases} == {256}
    assert full.model.channels == 192
    assert full.schedule.steps == sum(phase.steps for phase in full.phases)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phases": [{"kind": "exits", "steps": 1, "crop": 36}]}, "crop 36 of phase exits is no multiple of 8"),
        ({"phases": [{"kind": "scale", "steps": 1}], "adapts": ["depth"]}, "which `adapts` .* leaves out"),
        ({"phases": [{"kind": "exits", "steps": 1, "scales": {3: 1}}]}, "give weights for some of"),
        ({"phases": [{"kind": "exits", "steps": 1, "exits": [3]}]}, "this network has 1 to 2"),
        ({"motion": {"kind": "pwc"}}, "needs motion.weights"),
        ({"phases": []}, "must not be empty"),
    ],
)
def test_recipes_that_cannot_be_trained_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**change)
