"""MEMFOF's training: cheap forms equal the published ones, a run resumes bit for bit, and it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models import weights
from models.memfof import MEMFOF, Prediction, Sizes, sequence_loss
from pipeline import config
from pipeline.errors import ConfigError
from pipeline.training import flow_loss, kinds
from pipeline.training.export import save_weights
from pipeline.training.flow_loop import EXTRA_STEPS, FlowTrainer, build
from pipeline.training.flow_loss import cell_loss, matching_loss, mean_nll, training_loss, upsampled
from pipeline.training.flow_recipe import FlowLossRecipe, FlowRecipe
from pipeline.training.flow_sampling import FlowBatch, SceneSampler
from pipeline.training.recipe import Recipe
from tests.training.test_flow_scenes import PICTURES
from tests.training.test_training import states_equal

CONFIGS = Path(__file__).parents[2] / "configs" / "train"
# Not fewer than 16: 8 channels, channels_last and fp32 make torch 2.13 damage its heap in a CPU convolution's backward.
SMALL = {"dim": 56, "widths": (16, 16, 32), "blocks": (1, 1, 1), "refine_blocks": 1, "start_calibrated": True}
NO_PADDING = (0, 0, 0, 0)


def recipe(**changes: Any) -> FlowRecipe:
    document: dict[str, Any] = {
        "network": "memfof",
        "model": SMALL,
        "data": {"reach": {"start": 12, "end": 12}, "objects": 1},
        "loss": {"upsampled": "last", "matching": {"start": 1.0, "end": 0.5}},
        "stages": [{"crop": (128, 128), "batch": 2, "iterations": 2}],
        "optimiser": {"learning_rate": 1e-3},
        "schedule": {"steps": 20, "rise": 0.2},
        "average_decay": 0.9,
        "precision": "fp32",
        "threads": 1,
        **changes,
    }
    return FlowRecipe.model_validate(document)


def moved(shift: int, samples: int = 2) -> FlowBatch:
    """Noise that moves right by `shift` px a frame."""
    wide = torch.rand(samples, 1, 3, 128, 192, generator=torch.Generator().manual_seed(0)) * 255
    frames = torch.cat([wide[..., 32 - k * shift : 160 - k * shift] for k in (-1, 0, 1)], 1)
    flow = torch.zeros(samples, 2, 2, 128, 128)
    flow[:, 0, 0], flow[:, 1, 0] = -shift, shift
    return FlowBatch(frames, flow, torch.ones(samples, 2, 128, 128))


@pytest.fixture(scope="module")
def network() -> MEMFOF:
    torch.manual_seed(0)
    return MEMFOF(Sizes(**{key: value for key, value in SMALL.items() if key != "start_calibrated"}))  # type: ignore[arg-type]


def test_upsampling_by_matrix_products_is_upsampling(network: MEMFOF) -> None:
    net, fields = torch.randn(2, 56, 3, 4), torch.randn(2, 2, 6, 3, 4)
    with torch.no_grad():
        assert torch.allclose(upsampled(network, net, fields), network.upsample_weight.upsample(net, fields), atol=1e-5)


def test_the_mean_likelihood_is_the_sequence_loss_of_one_prediction() -> None:
    flow, info = torch.randn(2, 2, 2, 8, 8), torch.randn(2, 2, 4, 8, 8)
    target, valid = torch.randn(2, 2, 2, 8, 8) * 200, (torch.rand(2, 2, 8, 8) > 0.3).float()
    target[0, 0, 0, 0, 0] = 1e9
    expected = sequence_loss(Prediction(flow, info), target, valid)
    assert torch.allclose(mean_nll(flow, info, target, valid), expected)


def test_a_loss_on_all_predictions_is_the_published_one(network: MEMFOF) -> None:
    batch, settings = moved(5), FlowLossRecipe(upsampled="all")
    network.eval()  # in training BatchNorm sees three frames at once here, and one at a time in forward
    with torch.no_grad():
        loss = training_loss(network, batch, 2, settings, 0.0)
        expected = sequence_loss(
            network(batch.frames, 2, every_iteration=True), batch.flow, batch.valid, settings.gamma
        )
    assert torch.allclose(loss, expected, rtol=1e-4)


def test_the_cell_loss_prefers_the_truth() -> None:
    batch = moved(8)
    fields = torch.zeros(2, 2, 6, 8, 8)
    fields[:, :, :2] = batch.flow[..., ::16, ::16] / 16
    assert cell_loss(fields, batch, NO_PADDING) < cell_loss(fields * 1.5, batch, NO_PADDING)


def test_the_matching_loss_is_least_where_correlations_peak_at_the_true_match() -> None:
    batch = moved(16)  # one cell
    keys = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    middle = 4 * keys.T.reshape(1, 256, 8, 8).expand(2, -1, -1, -1)
    previous, following = (torch.roll(middle, shift, 3) for shift in (-1, 1))
    right = matching_loss((previous, middle, following), batch, NO_PADDING)
    wrong = matching_loss((following, middle, previous), batch, NO_PADDING)
    assert right < 0.1 < wrong
    nothing = batch._replace(valid=torch.zeros_like(batch.valid))
    assert matching_loss((previous, middle, following), nothing, NO_PADDING) == 0


def test_targets_that_are_invalid_do_not_count(network: MEMFOF) -> None:
    batch = moved(5)
    half = batch.valid.clone()
    half[:, :, :, 64:] = 0
    wild = batch.flow.clone()
    wild[..., 64:] = 300
    settings = recipe().loss.model_copy(update={"l1": 0.5})
    network.eval()
    with torch.no_grad():
        one, two = (training_loss(network, b, 1, settings, 0.5) for b in
                    (batch._replace(valid=half), batch._replace(valid=half, flow=wild)))  # fmt: skip
    assert torch.equal(one, two)


def test_a_calibrated_start_follows_correlations_as_sharp_as_trained_ones() -> None:
    batch = moved(16)
    sampler = SceneSampler(PICTURES, recipe())
    torch.manual_seed(0)
    network = build(recipe(), sampler)
    network.train()
    with torch.no_grad():
        for parameter in network.fnet.final_conv.parameters():
            parameter.mul_(3)  # correlations nine times as large
        flow = network(batch.frames, 1, every_iteration=False).flow
        gains = [float((one.mean((0, 2, 3)) * truth.mean((0, 2, 3))).sum()) for one, truth in
                 zip(flow.unbind(1), batch.flow.unbind(1), strict=True)]  # fmt: skip
    assert min(gains) > 0  # both flows lean the right way
    with pytest.raises(ValueError, match="needs dim >= 50"):
        build(recipe(model={**SMALL, "dim": 40}), sampler)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    settings = recipe(data={"reuse": 2, "objects": 1})
    sampler = SceneSampler(PICTURES, settings)
    whole = FlowTrainer(settings, sampler=sampler)
    for step in range(6):
        whole.step(sampler.batch(step))
    first = FlowTrainer(settings, sampler=sampler)
    for step in range(3):
        first.step(sampler.batch(step))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = FlowTrainer(settings)  # a resumed process need not calibrate: the state brings all
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    again = SceneSampler(PICTURES, settings)
    for step in range(3, 6):
        second.step(again.batch(step))
    assert states_equal(whole.state_dict(), second.state_dict())


def test_training_lowers_the_loss_and_averages_statistics_of_batch_norm() -> None:
    settings = recipe(schedule={"steps": 40, "rise": 0.1})
    trainer = FlowTrainer(settings, sampler=SceneSampler(PICTURES, settings))
    batch = moved(9)
    before = float(trainer.loss(trainer.network, batch).detach())
    for _ in range(25):
        trainer.step(batch)
    after = float(trainer.loss(trainer.network, batch).detach())
    assert after < 0.8 * before
    averaged, current = (n.fnet.resnet.bn1.running_var for n in (trainer.result, trainer.network))
    assert averaged is not None
    assert current is not None
    assert (averaged - 1).abs().min() > 0.01  # where BatchNorm begins
    assert not torch.equal(averaged, current)


def test_the_rate_rises_then_falls_and_never_reaches_zero() -> None:
    trainer = FlowTrainer(recipe(schedule={"steps": 100, "rise": 0.1}))
    rates = []
    for step in range(101):
        trainer.step_count = step
        rates.append(trainer.learning_rate())
    assert int(np.argmax(rates)) == 10
    assert np.isclose(max(rates), 1e-3)
    assert np.isclose(rates[100], 1e-3 * EXTRA_STEPS / (EXTRA_STEPS + 90))
    assert rates[:10] == sorted(rates[:10])


def test_a_run_may_start_from_one_part_of_other_weights(tmp_path: Path) -> None:
    settings = recipe()
    other = build(settings.model_copy(update={"seed": 1}), SceneSampler(PICTURES, settings))
    save_weights(other, tmp_path / "w.safetensors", {"network": "models.memfof.MEMFOF"})
    start = weights.load(tmp_path / "w.safetensors").tensors
    from_part = build(recipe(initial_weights=str(tmp_path / "w.safetensors"), initial_parts=["fnet"]))
    assert torch.equal(from_part.fnet.final_conv.weight, start["fnet.final_conv.weight"].float())
    assert not torch.equal(from_part.cnet.final_conv.weight, start["cnet.final_conv.weight"].float())
    wide = recipe(model={**SMALL, "widths": (16, 16, 24)}, initial_weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match="the recipe"):
        build(wide)


def test_recipes_say_what_they_train_and_refuse_what_cannot_be_run(tmp_path: Path) -> None:
    assert kinds.recipe_type(CONFIGS / "cain_compact.yaml") is Recipe
    assert kinds.kind_of(recipe()).network == "models.memfof.MEMFOF"
    (tmp_path / "odd.yaml").write_text("network: raft")
    with pytest.raises(ConfigError, match=r"raft.*known here: cain, .*memfof"):
        kinds.recipe_type(tmp_path / "odd.yaml")
    with pytest.raises(ValidationError, match=r"rise to 1\.0"):
        recipe(stages=[{"until": 0.5, "crop": (128, 128)}])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("memfof_*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_is_of_a_network_that_exists(path: Path) -> None:
    loaded = config.load(FlowRecipe, path, [])  # type: ignore[type-var]
    assert loaded.model.sizes == (Sizes() if "compact" not in path.stem else Sizes(64, (16, 32, 64), (1, 1, 1), 1))


SUCCESSORS = {
    "memfof_tartan": "",
    "memfof_things": "memfof_tartan",
    "memfof_tskh": "memfof_things",
    "memfof_sintel": "memfof_tskh",
    "memfof_kitti": "memfof_tskh",
    "memfof_spring_1080p": "memfof_tskh",
}
"""Each full-size stage, and the one whose weights it starts from."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_full_size_stage_takes_a_step_from_the_weights_of_the_stage_before(tmp_path: Path) -> None:
    """75.8 M parameters, 128x128 crops; all else as the recipes say. Through files, as jobs/train.py does."""
    for stage, before in SUCCESSORS.items():
        loaded = config.load(FlowRecipe, CONFIGS / f"{stage}.yaml", [])  # type: ignore[type-var]
        start = str(tmp_path / f"{before}.safetensors") if before else None
        assert (loaded.initial_weights is None) == (start is None)
        (whole,) = loaded.stages
        small = whole.model_copy(update={"crop": (128, 128)})
        settings = loaded.model_copy(update={"stages": (small,), "initial_weights": start})
        sampler = SceneSampler(PICTURES, settings)
        trainer = FlowTrainer(settings, sampler=sampler)
        if start:
            assert torch.equal(
                trainer.network.fnet.final_conv.weight, weights.load(start).tensors["fnet.final_conv.weight"].float()
            )
        head = trainer.network.flow_head[2].weight
        untrained = head.detach().clone()
        outcome = trainer.step(sampler.batch(0))
        assert outcome["skipped"] == 0
        assert 0 < outcome["loss"] < 1000
        assert not torch.equal(head, untrained)
        if stage in SUCCESSORS.values():
            save_weights(trainer.result, tmp_path / f"{stage}.safetensors", {"network": "models.memfof.MEMFOF"})
        del trainer, head


def test_frozen_statistics_are_those_of_evaluation_while_scale_and_shift_are_trained() -> None:
    settings = recipe(batch_norm="frozen")
    trainer = FlowTrainer(settings)
    norm = trainer.network.fnet.resnet.bn1
    mean, scale = (x.detach().clone() for x in (norm.running_mean, norm.weight))
    trainer.step(moved(5))
    assert torch.equal(norm.running_mean, mean)
    assert not torch.equal(norm.weight, scale)
    trained = FlowTrainer(recipe())
    trained.step(moved(5))
    assert not torch.equal(trained.network.fnet.resnet.bn1.running_mean, mean)


def test_a_compact_recipe_leads_to_the_shipped_weights_sizes() -> None:
    compact = config.load(FlowRecipe, CONFIGS / "memfof_compact.yaml", [])  # type: ignore[type-var]
    shipped = MEMFOF.from_reference(weights.load("memfof-compact").tensors)
    assert compact.model.sizes == shipped.sizes


def test_the_padding_of_odd_crops_is_no_target(network: MEMFOF) -> None:
    batch = FlowBatch(*(x[..., :120] for x in moved(4)))
    flow, valid = flow_loss.on_cells(batch, (4, 4, 0, 0), 4)
    assert flow.shape[-2:] == valid.shape[-2:] == (32, 32)
    assert (valid[..., 0] == 0).all()
    assert (valid[..., 2] == 1).all()
    assert torch.isfinite(training_loss(network.eval(), batch, 1, recipe().loss, 0.0))
