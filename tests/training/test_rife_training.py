"""A compact IFNet's training: lessons are kept and repeatable, follow every turn of the crop, and are learned from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import weights
from models.rife import IFNet
from models.rife.checkpoint import Sizes
from models.rife.warp import grid_of, warp
from pipeline import config
from pipeline.errors import ConfigError, InputNotFound, WeightsUnusable
from pipeline.training import rife_lessons as lessons
from pipeline.training.export import save_weights
from pipeline.training.kinds import KINDS, recipe_type
from pipeline.training.rife_lessons import School, Window, load_school
from pipeline.training.rife_loop import RifeTrainer, _teachers, distance
from pipeline.training.rife_recipe import RifeRecipe
from pipeline.training.rife_sampling import RifeSampler, Sample, turned
from pipeline.training.rife_scenes import make_scene
from pipeline.training.rife_start import PLACES, start_as_matcher
from tests.training.clips_factory import write_clip_and_rife

ROOT = Path(__file__).parents[2]
SPEED = 3  # px a frame, to the right


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rife")
    write_clip_and_rife(path, speed=SPEED)
    return path


def recipe_of(folder: Path, **changes: object) -> RifeRecipe:
    document: dict[str, object] = {
        "network": "rife",
        "teacher": str(folder / "rife.safetensors"),
        "model": {"widths": [32, 24, 24, 24], "convs": 1, "hidden": 16, "features": 4},
        "data": {"lessons": 5, "clips": {"gaps": {1: 0.5, 2: 0.5}, "held_out": 0.4, "transpose": True}},
        "stages": [{"crop": 64, "batch": 4}],
        "optimiser": {"learning_rate": 3e-3},
        "schedule": {"steps": 60, "warmup": 5},
        "average_decay": 0.9,
        "precision": "fp32",
    }
    return RifeRecipe.model_validate(document | changes)


@pytest.fixture(scope="module")
def school(folder: Path) -> School:
    return load_school(recipe_of(folder), [folder / "clips"], folder / "cache")


@pytest.fixture(scope="module")
def true_school(folder: Path, school: School) -> School:
    """Its lessons say how the texture really moves."""
    true = []
    for number, lesson in enumerate(school.lessons):
        known = np.zeros((5, 48, 48), np.float16)
        window = lesson.window
        known[0], known[2] = -SPEED * (window.wanted - window.first), SPEED * (window.last - window.wanted)
        path = folder / f"true-{number}.npy"
        np.save(path, known)
        true.append(replace(lesson, path=path))
    return School(school.clips, true)


def test_lessons_are_flows_and_mask_at_half_the_sides_of_frames_between_two_others(school: School) -> None:
    assert len(school.lessons) == 5
    for lesson in school.lessons:
        assert lesson.flows().shape == (5, 48, 48)
        assert lesson.window.first < lesson.window.wanted < lesson.window.last
        assert 0 < lesson.window.t < 1
    assert len({lesson.window.t for lesson in school.lessons}) > 1


def test_lessons_are_made_once_and_more_of_them_go_on_where_they_ended(
    folder: Path, school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Window] = []
    original = lessons.taught
    monkeypatch.setattr(lessons, "taught", lambda *args: (made.append(args[1]), original(*args))[1])
    data = {"lessons": 7, "clips": {"gaps": {1: 0.5, 2: 0.5}, "held_out": 0.4, "transpose": True}}
    more = load_school(recipe_of(folder, data=data), [folder / "clips"], folder / "cache")
    assert len(made) == 2
    assert [lesson.path for lesson in more.lessons[:5]] == [lesson.path for lesson in school.lessons]


def test_batches_depend_on_the_step_and_the_process_alone(folder: Path, school: School) -> None:
    sampler = RifeSampler(school, recipe_of(folder))
    once, again, other = sampler.batch(3), sampler.batch(3), sampler.batch(3, rank=1)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once.frame0, other.frame0)


def test_the_true_flows_give_the_true_picture_however_a_crop_is_turned(folder: Path, true_school: School) -> None:
    sampler = RifeSampler(true_school, recipe_of(folder))
    inner = (..., slice(16, 48), slice(16, 48))  # what the flows look for beyond the crop's edge is not there
    for step in range(6):
        batch = sampler.batch(step)
        assert bool(batch.taught.all())
        # The mask is even: where both flows are right, so is any mixture.
        assert float((_teachers(batch) - batch.wanted)[inner].abs().max()) < 0.02
        assert float(((batch.frame0 + batch.frame1) / 2 - batch.wanted)[inner].abs().max()) > 0.02


def test_a_sample_turned_twice_alike_is_the_sample_itself() -> None:
    rng = np.random.default_rng(1)
    sample = Sample(rng.integers(0, 255, (3, 8, 8, 3), np.uint8), 0.25, rng.normal(size=(5, 4, 4)).astype(np.float16))
    changed = 0
    for seed in range(24):
        back = once = turned(sample, np.random.default_rng(seed), transpose=False)
        back = turned(once, np.random.default_rng(seed), transpose=False)
        changed += not np.array_equal(once.frames, sample.frames)
        assert np.array_equal(back.frames, sample.frames)
        assert back.flows is not None
        assert sample.flows is not None
        assert np.array_equal(back.flows, sample.flows)
        assert back.t == pytest.approx(0.25)
    assert changed > 12


def test_untaught_held_out_windows_come_from_frames_that_training_never_sees(folder: Path, school: School) -> None:
    recipe = recipe_of(folder)
    held_out = RifeSampler(school, recipe, held_out=True).batch(0)
    assert not bool(held_out.taught.any())
    boundary = round(24 * 0.6)
    assert max(lesson.window.last for lesson in school.lessons) < boundary
    windows = lessons.Windows(school.clips, recipe, held_out=True)
    assert min(windows.draw(np.random.default_rng(k)).first for k in range(50)) >= boundary


def test_a_teacher_is_followed_only_where_its_picture_is_better(folder: Path, true_school: School) -> None:
    recipe = recipe_of(folder)
    trainer = RifeTrainer(recipe)
    batch = RifeSampler(true_school, recipe).batch(0)

    def cost(taught: float, teacher: torch.Tensor) -> float:
        def loss(value: float) -> float:
            told = batch._replace(taught=torch.full((4,), value), teacher=teacher)
            return float(trainer.loss(trainer.network, told).detach())

        return loss(taught) - loss(0.0)

    wrong = batch.teacher * -8
    assert cost(1.0, batch.teacher) > 0.5 * cost(2.0, batch.teacher) > 0, "right nearly everywhere"
    assert cost(1.0, wrong) < 0.3 * cost(2.0, wrong), "flows that are said to be exact count everywhere"


def test_the_distance_is_in_pixels_where_it_counts() -> None:
    known = torch.zeros(2, 4, 8, 8)
    known[0, :2] = torch.tensor([3.0, 4.0])[:, None, None]
    counts = torch.ones(2, 1, 8, 8)
    assert float(distance(known, known, counts)) == pytest.approx(0.01)
    assert float(distance(torch.zeros_like(known), known, counts)) == pytest.approx(5 / 4, abs=0.01)
    assert float(distance(torch.zeros_like(known), known, counts * 0)) == 0


def test_scenes_know_where_each_pixel_was_and_will_be(school: School) -> None:
    grid = grid_of(64, 64, torch.device("cpu"))
    errors, average = [], []
    for seed in range(40):
        scene = make_scene(school.clips, 64, 12, np.random.default_rng(seed))
        assert scene.flows.shape == (5, 32, 32)
        assert 0 < scene.t < 1
        first, wanted, last = torch.from_numpy(scene.frames).permute(0, 3, 1, 2)[:, None].float() / 255
        flow = torch.from_numpy(scene.flows[None, :4]).float().repeat_interleave(2, 2).repeat_interleave(2, 3)
        sides = [warp(first, flow[:, :2], grid), warp(last, flow[:, 2:], grid)]
        # Most of the picture is seen in one of both frames at least.
        nearest = torch.stack([(side - wanted).abs().amax(1) for side in sides]).amin(0)
        errors.append(float((nearest[..., 12:-12, 12:-12] > 0.03).float().mean()))
        average.append(float((((first + last) / 2 - wanted).abs().amax(1) > 0.03).float().mean()))
    assert np.mean(errors) < 0.1
    assert np.mean(average) > 0.2


def test_the_start_compares_both_frames_at_nine_displacements_and_moves_towards_the_nearest() -> None:
    torch.manual_seed(0)
    network = IFNet(Sizes((40, 40, 40, 24), 2, 16, 4))
    start_as_matcher(network)
    texture = F.avg_pool2d(torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(3)), 2)
    picture = F.interpolate(texture, scale_factor=8, mode="bilinear")
    block = network.block2  # works at half the size: 2 of its pixels are 4 of the frame's
    with torch.no_grad():
        for row, column in ((0, 0), (0, 4), (-4, 0), (4, 4)):
            later = picture.roll((row, column), (2, 3))
            ends = [network.encode_frame(each[..., 8:104, 8:104]) for each in (picture, later)]
            parts = [end.image for end in ends] + [end.features for end in ends] + [ends[0].image[:, :2] * 0]
            small = F.avg_pool2d(torch.cat(parts, 1), 2)
            costs = block.conv0(torch.cat([small, small[:, :4] * 0], 1))[0, :9, 2:-2, 2:-2].mean((1, 2))
            assert PLACES[int(costs.argmin())] == (row // 4, column // 4)
            into_first, into_second = network.between(*ends, 0.5).flow[0, :, 24:-24, 24:-24].mean((1, 2)).split(2)
            for flow, sign in ((into_first, -1), (into_second, 1)):
                for found, moved in zip(flow.tolist(), (column, row), strict=True):
                    assert found * sign * moved > 0 if moved else abs(found) < 0.5
    with pytest.raises(ValueError, match="widths from 20"):
        start_as_matcher(IFNet(Sizes((16, 16, 16, 16), 1, 8, 4)))


def test_it_learns_the_motion_it_is_taught_in_stages_and_resumes_bit_for_bit(folder: Path, true_school: School) -> None:
    steps = 60
    stages = [{"until": 0.3, "crop": 64, "batch": 4, "blocks": 3}, {"crop": 64, "batch": 4, "blocks": 4}]
    recipe = recipe_of(folder, schedule={"steps": steps, "warmup": 5}, stages=stages)
    sampler, held_out = RifeSampler(true_school, recipe), RifeSampler(true_school, recipe, held_out=True)
    trainer, resumed = RifeTrainer(recipe), RifeTrainer(recipe)
    fourth = trainer.network.block3.conv0[0][0].weight.detach().clone()
    for step in range(steps):
        if step == 17:
            assert (
                float((trainer.network.block3.conv0[0][0].weight.detach() - fourth).abs().max()) < 1e-3
            )  # decay alone
        if step == steps - 8:
            torch.save(trainer.state_dict(), folder / "state.pt")
            resumed.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
        trainer.step(sampler.batch(step))
    for step in range(steps - 8, steps):
        resumed.step(sampler.batch(step))
    for a, b in zip(trainer.result.parameters(), resumed.result.parameters(), strict=True):
        assert torch.equal(a, b)
    batches = [held_out.batch(index) for index in range(8)]
    average = [((b.frame0 + b.frame1) / 2 - b.wanted).square().mean((1, 2, 3)).log10().mean() * 10 for b in batches]
    assert trainer.measure(held_out) < float(torch.stack(average).mean()) - 1.0, "1 dB above the frame average"


def test_what_it_exports_loads_and_knows_any_time(folder: Path) -> None:
    recipe = recipe_of(folder)
    save_weights(RifeTrainer(recipe).result, folder / "weights.safetensors", {})
    network = IFNet.from_reference(weights.load(folder / "weights.safetensors").tensors)
    assert network.sizes == recipe.model.sizes
    pictures = torch.rand(2, 1, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    made = [network(pictures[0], pictures[1], t) for t in (0.1, 0.5, 0.9)]
    assert all(picture.shape == (1, 3, 40, 56) and bool(picture.isfinite().all()) for picture in made)


def test_the_shipped_recipe_is_of_this_kind_and_mistakes_are_named(folder: Path) -> None:
    path = ROOT / "configs/train/rife_compact.yaml"
    recipe = config.load(recipe_type(path), path, [])  # type: ignore[type-var]  # any pydantic model
    assert isinstance(recipe, RifeRecipe)
    assert KINDS["rife"].network == "models.rife.IFNet"
    for key, message in (
        ("stages=[{crop: 100}]", "crop 100 is no multiple of 32"),
        ("model.widths=[128, 96, 64, 33]", "even"),
        ("data.clips.held_out=0", "measured on frames that it never sees"),
    ):
        with pytest.raises(ConfigError, match=message):
            config.load(RifeRecipe, path, [key])  # type: ignore[type-var]
    with pytest.raises(WeightsUnusable, match="teacher=nowhere"):
        load_school(recipe_of(folder, teacher="nowhere"), [folder / "clips"], folder / "cache")
    data = {"largest": 1000, "clips": {"held_out": 0.4}}
    with pytest.raises(InputNotFound, match="add a smaller scale"):
        load_school(recipe_of(folder, data=data), [folder / "clips"], folder / "cache")
