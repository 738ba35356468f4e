"""RIFE's finder: its lessons are kept and repeatable, and it learns from them where stopping loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.rife.finder import EVIDENCE, STAGES
from pipeline import config
from pipeline.errors import ConfigError, WeightsUnusable
from pipeline.training import rife_finder_evaluation
from pipeline.training import rife_finder_lessons as lessons
from pipeline.training.kinds import KINDS, recipe_type
from pipeline.training.rife_finder_lessons import FinderBatch, Lessons, LessonSampler, load_lessons
from pipeline.training.rife_finder_loop import FinderTrainer, distance, shares
from pipeline.training.rife_finder_recipe import FinderRecipe
from tests.training.clips_factory import write_clip_and_rife

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finder")
    write_clip_and_rife(path, speed=2)
    return path


def recipe_of(folder: Path, **changes: object) -> FinderRecipe:
    document: dict[str, object] = {
        "network": "rife-finder",
        "backbone": str(folder / "rife.safetensors"),
        "data": {"lessons": 6, "crop": 64, "clips": {"gaps": {1: 0.5, 2: 0.5}, "held_out": 0.4}},
        "optimiser": {"batch": 4},
        "schedule": {"steps": 60},
    }
    return FinderRecipe.model_validate(document | changes)


@pytest.fixture(scope="module")
def taught(folder: Path) -> Lessons:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lessons, "PART", 4)
        return load_lessons(recipe_of(folder), [folder / "clips"], folder / "cache")


def test_a_lesson_is_the_evidence_of_both_stages_and_the_errors_of_all_exits(taught: Lessons) -> None:
    assert [x.shape for x in taught.taught.evidence] == [(6, EVIDENCE, 8, 8)] * len(STAGES)
    assert taught.taught.errors.shape == (6, 4, 1, 1)
    assert len(taught.kept.errors) == 1
    assert (taught.taught.errors > 0).all()


def test_lessons_are_made_once_and_a_run_that_was_cut_off_goes_on_where_it_was(
    folder: Path, taught: Lessons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "PART", 4)
    made: list[object] = []
    original = lessons._lesson
    monkeypatch.setattr(lessons, "_lesson", lambda *args: (made.append(args), original(*args))[1])
    (cache,) = folder.glob("cache/finder-*")
    (cache / "taught-000004.npz").unlink()
    again = load_lessons(recipe_of(folder), [folder / "clips"], folder / "cache")
    assert len(made) == 4, "the missing part alone"
    for first, second in zip(
        (*taught.taught.evidence, taught.taught.errors), (*again.taught.evidence, again.taught.errors), strict=True
    ):
        assert torch.equal(first, second)


def test_batches_depend_on_the_step_and_the_process_alone(folder: Path, taught: Lessons) -> None:
    sampler = LessonSampler(taught.taught, recipe_of(folder))
    once, again, other = (
        torch.cat([x.flatten() for x in (*batch.evidence, batch.errors)])
        for batch in (sampler.batch(3), sampler.batch(3), sampler.batch(3, rank=1))
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def invented(count: int = 64) -> FinderBatch:
    """Where the evidence's first channel is high, each further block halves the error; elsewhere none helps."""
    generator = torch.Generator().manual_seed(0)
    hard = (torch.rand(count, 1, 2, 2, generator=generator) < 0.5).float()
    seen = 0.1 * torch.randn(count, EVIDENCE, 16, 16, generator=generator)
    seen[:, :1] += 2 * hard.repeat_interleave(8, 2).repeat_interleave(8, 3)
    gains = torch.tensor([1.0, 0.5, 0.25, 0.125])[None, :, None, None]
    errors = 1e-3 * torch.where(hard > 0, gains, torch.ones(1))
    return FinderBatch((seen, seen), errors)


def test_it_learns_which_patches_are_worth_going_on_and_resumes_bit_for_bit(folder: Path) -> None:
    recipe = recipe_of(folder, schedule={"steps": 120})
    data = invented()
    sampler = LessonSampler(data, recipe)
    trainer = FinderTrainer(recipe)
    resumed = FinderTrainer(recipe)
    for step in range(120):
        if step == 100:
            torch.save(trainer.state_dict(), folder / "state.pt")
            resumed.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
        trainer.step(sampler.batch(step))
    for step in range(100, 120):
        resumed.step(sampler.batch(step))
    for a, b in zip(trainer.result.parameters(), resumed.result.parameters(), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        predicted = trainer.result.eval()(data.evidence[0], 1)
    hard = data.errors[:, 3] < data.errors[:, 0]
    gain = (predicted[:, 0] - predicted[:, 3]).clamp(-10, 10)
    assert gain[hard].mean() > 1.0  # of 2.08
    assert gain[~hard].abs().mean() < 0.7


def test_the_distance_is_none_for_the_truth_and_shares_are_of_the_frame() -> None:
    errors = torch.rand(2, 4, 3, 3) * 1e-3 + 1e-5
    assert float(distance(errors.log(), errors)) == pytest.approx(0, abs=1e-9)
    assert float(distance(errors.log() + 0.5, errors)) > 0
    assert float(shares(errors)[:, 3].mean()) == pytest.approx(10 / torch.tensor(10.0).log().item(), rel=1e-5)


def test_the_table_sets_qualities_beside_all_four_blocks(folder: Path) -> None:
    rows = rife_finder_evaluation.run(
        folder / "clips", str(folder / "rife.safetensors"), "rife-finder", [0, 0.5, 1], every=2, threads=1
    )
    by_setting = {row.setting: row for row in rows}
    assert list(by_setting) == ["4 blocks", "3 blocks", "quality 0", "quality 0.5", "quality 1"]
    assert by_setting["4 blocks"].lost == 0
    assert by_setting["4 blocks"].flops_share == 1
    assert by_setting["quality 1"].lost == pytest.approx(0, abs=0.01)
    spent = [by_setting[f"quality {quality}"].gflops for quality in ("0", "0.5", "1")]
    assert spent == sorted(spent)
    assert spent[0] < by_setting["3 blocks"].gflops
    assert rows[0].triplets == 2  # at 0 and 20
    assert "quality 0.5" in rife_finder_evaluation.table(rows)


def test_the_shipped_recipe_is_of_this_kind_and_mistakes_are_named(folder: Path) -> None:
    path = ROOT / "configs/train/rife_finder.yaml"
    recipe = config.load(recipe_type(path), path, [])  # type: ignore[type-var]  # any pydantic model
    assert isinstance(recipe, FinderRecipe)
    assert KINDS["rife-finder"].network == "models.rife.finder.Finder"
    with pytest.raises(ConfigError, match="no multiple of the finder's patches, 64"):
        config.load(FinderRecipe, path, ["data.crop=300"])  # type: ignore[type-var]
    with pytest.raises(WeightsUnusable, match="backbone=nowhere"):
        load_lessons(recipe_of(folder, backbone="nowhere"), [folder / "clips"], folder / "cache")
