"""Readers of flow data sets: every layout, both directions, honest augmentation, pure batches, clear errors."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import config
from pipeline.errors import ConfigError, InputNotFound, MotionmillError
from pipeline.evaluation.flow_layouts import find_pairs
from pipeline.training import kinds, roots
from pipeline.training.flow_augmentation import DENSE, FASTEST, SPARSE, STYLES, Look, augmented, draw_look, erased
from pipeline.training.flow_dataset_sampling import DatasetSampler
from pipeline.training.flow_datasets import Example, FlowSet, find_triplets, load_sets
from pipeline.training.flow_loop import FlowTrainer
from pipeline.training.flow_recipe import DatasetRecipe, FlowRecipe
from pipeline.training.trainer import prefetch
from tests.training import flow_trees
from tests.training.flow_trees import SIZE, TREES, scattered, scene
from tests.training.test_flow_training import CONFIGS, SUCCESSORS, recipe
from tests.training.test_training import states_equal

BOTH_WAYS = {"things", "spring"}
CAMERAS = {"things": 2, "spring": 2}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: more threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """--data of all sets."""
    return list(flow_trees.roots(tmp_path_factory.mktemp("sets")))


def entry(layout: str, **changes: Any) -> DatasetRecipe:
    return DatasetRecipe.model_validate({"layout": layout, **changes})


def one_set(data: list[Path], layout: str, **changes: Any) -> FlowSet:
    (found,) = load_sets([entry(layout, **changes)], [one for one in data if roots.named(one)[0] == layout])
    return found


def training(datasets: list[dict[str, Any]], **changes: Any) -> FlowRecipe:
    return recipe(datasets=datasets, **changes)


@pytest.mark.parametrize("layout", TREES)
def test_a_set_is_read_as_its_authors_lay_it_out(layout: str, data: list[Path]) -> None:
    found = one_set(data, layout)
    assert len(found.triplets) == 2 * CAMERAS.get(layout, 1)  # the ends of the sequences are none
    for place, seed in enumerate((1, 0) if layout == "things" else (0, 1)):  # TEST comes before TRAIN
        first = place * CAMERAS.get(layout, 1)
        frames, flow = scene(seed)
        example, backwards = found[2 * first], found[2 * first + 1]
        assert torch.equal(example.frames, torch.stack([torch.from_numpy(x).permute(2, 0, 1) for x in frames]).float())
        known = np.zeros((2, *SIZE), bool)
        known[1] = True if layout in ("things", "spring", "sintel") else scattered(seed)
        known[0] = layout in BOTH_WAYS
        if layout == "sintel":
            known[1, :, :4] = False
        if layout == "tartanair":
            known[1, -1] = False
        assert np.array_equal(example.known.numpy(), known)
        assert np.abs(example.flow.numpy() - flow * known[:, None]).max() <= 1 / 128
        assert all(torch.equal(a.flip(0), b) for a, b in zip(example, backwards, strict=True))


@pytest.mark.parametrize("layout", TREES)
def test_the_same_layouts_are_evaluated(layout: str, tmp_path: Path) -> None:
    TREES[layout](tmp_path)
    auto, named = find_pairs(tmp_path), find_pairs(tmp_path, layout)
    assert auto == named
    whole = [pair for pair in named if pair.previous is not None and pair.second.exists()]
    assert {pair.index for pair in whole} == ({0} if layout == "kitti" else {1})
    assert all(pair.first.exists() for pair in named)


def warped(frame: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """The frame read where the flow leads, and where that is inside: [3,H,W] and bool [H,W]."""
    height, width = frame.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = x + flow[0], y + flow[1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    inside = (x >= 1) & (y >= 1) & (x <= width - 2) & (y <= height - 2)
    return F.grid_sample(frame[None], grid[None], align_corners=False)[0], inside


@pytest.mark.parametrize("layout", TREES)
def test_flows_lead_to_the_same_things_after_every_change_of_the_frames(layout: str, data: list[Path]) -> None:
    """Mirrored, stretched, enlarged, cropped, padded: the frame warped by its flow is nearly the middle one."""
    found = one_set(data, layout, pre_scale=0.5, scale=(-0.4, 0.8))
    plain = replace(STYLES[layout], jitter=0.0, hue=0.0, apart=0.0, erased=())
    seen, targets = set(), np.zeros(2)
    for seed in range(24):
        rng = np.random.default_rng([seed, 1])
        example = found[seed % len(found)]
        frames, flow, valid = augmented(example, found.recipe, (72, 104), rng, plain)
        assert frames.shape == (3, 3, 72, 104)
        look = draw_look(SIZE, found.recipe, plain, (72, 104), np.random.default_rng([seed, 1]))
        seen.add(look.mirrored)
        for direction in (0, 1):
            there, inside = warped(frames[2 * direction], flow[direction])
            counted = inside & (valid[direction] > 0) & (frames[2 * direction].sum(0) > 0)
            targets[direction] += float(counted.sum())
            if counted.sum() < 200:
                assert layout not in BOTH_WAYS or inside.float().mean() < 0.2
                continue
            before, after = (
                float((picture - frames[1]).abs().mean(0)[counted].mean()) for picture in (frames[2 * direction], there)
            )
            assert after < max(1.0, 0.35 * before), (seed, direction, before, after)
    assert (targets > 8_000).all()  # one way: the reversed copies fill the other slot
    assert len(seen) > 1  # mirrored ones among them


def test_a_look_reads_what_enlarging_and_cropping_would() -> None:
    picture = torch.rand(4, 20, 30, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(picture[None], scale_factor=(1.7, 2.3), mode="bilinear", recompute_scale_factor=False)[0]
    size = (whole.shape[1], whole.shape[2])
    look = Look((1.7, 2.3), size, size, (True, False), (3, 5), (16, 40))
    assert torch.allclose(look.of(picture), whole.flip(1)[:, 3:19, 5:45], atol=1e-4)
    assert look.inside().all()
    assert look.vector.flatten().tolist() == pytest.approx([2.3, -1.7])


def test_sparse_flow_is_scattered_and_never_mixed() -> None:
    flow, known = torch.zeros(2, 2, 4, 6), torch.zeros(2, 4, 6, dtype=torch.bool)
    flow[1, :, 1, 2], known[1, 1, 2] = torch.tensor([3.0, -1.0]), True
    flow[1, :, 3, 5], known[1, 3, 5] = torch.tensor([9.0, 9.0]), True  # falls out of the crop
    example = Example(torch.zeros(3, 3, 4, 6), flow, known)
    look = Look((2.0, 2.0), (8, 12), (8, 12), (False, True), (1, 2), (6, 8))
    moved, valid = look.scattered(example)
    # The point's middle (1.5, 2.5) is at (3, 5) of the enlarged picture, column 6 of the mirrored, (2, 4) of the crop.
    assert valid.nonzero().tolist() == [[1, 2, 4]]
    assert moved[1, :, 2, 4].tolist() == [-6, -2]
    assert float(moved.abs().sum()) == 8


def test_scattered_vectors_stay_on_the_things_that_they_are_of() -> None:
    seen = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        row, column = rng.integers((8, 8), (72, 88))
        frames, known = torch.zeros(3, 3, *SIZE), torch.zeros(2, *SIZE, dtype=torch.bool)
        frames[:, :, row, column], known[1, row, column] = 255, True
        look = draw_look(SIZE, entry("hd1k"), SPARSE, (96, 100), rng)
        _, valid = look.scattered(Example(frames, torch.ones(2, 2, *SIZE), known))
        light = look.of(frames[1])[0] * look.inside()
        if valid.any() or light.max() > 120:
            place = torch.tensor(np.unravel_index(int(light.argmax()), light.shape))
            assert (valid[1].nonzero() - place).abs().max() <= 1
            seen += 1
    assert seen > 10


def test_a_crop_that_exceeds_the_frame_is_padded_in_sparse_sets_and_filled_in_dense_ones(data: list[Path]) -> None:
    crop = (200, 256)
    for layout in ("kitti", "sintel"):
        found = one_set(data, layout, scale=(0.0, 0.0), mirror=False)
        style = replace(STYLES[layout], upset=0.0)
        for seed in range(4):
            frames, _, valid = augmented(found[0], found.recipe, crop, np.random.default_rng(seed), style)
            lit = frames.sum((0, 1)) > 0
            if layout == "sintel":
                assert lit.all()
                continue
            # 160x192 after the pre-scale, padded to the crop's size and then, perhaps, enlarged to a pixel more
            assert 155 <= int(lit.any(1).sum()) <= 162
            assert 185 <= int(lit.any(0).sum()) <= 194
            assert not valid[:, ~lit].any()
            assert valid[1].any()
            assert not valid[0].any()


def test_unknown_pixels_do_not_bleed_into_dense_flow() -> None:
    flow, known = torch.full((2, 2, 40, 40), 4.0), torch.ones(2, 40, 40, dtype=torch.bool)
    flow[:, :, :, 20:], known[:, :, 20:] = 0, False
    flow[1, 0, :5] = 700  # 1400 px once enlarged: no truth
    example = Example(torch.rand(3, 3, 40, 40) * 255, flow, known)
    style = replace(DENSE, upset=0.0, stretch=0.0)
    settings = entry("sintel", scale=(0.0, 0.0), mirror=False)
    fast = []
    for seed in range(6):
        _, moved, valid = augmented(example, settings, (64, 64), np.random.default_rng(seed), style)
        slow = moved[:, :, 20:]
        assert set(torch.unique(slow[valid[:, None, 20:].expand_as(slow) > 0]).tolist()) == {8.0}
        assert not valid[:, :, 44:].any()
        assert moved.abs().max() < FASTEST
        fast.append(bool(((valid[0] > 0) & (valid[1] == 0)).any()))
    assert any(fast)


def test_looks_are_as_wide_and_as_often_mirrored_as_the_set_says() -> None:
    rng, size, crop = np.random.default_rng(0), (100, 160), (120, 200)
    for style, settings in ((DENSE, entry("sintel")), (SPARSE, entry("kitti", mirror=False))):
        looks = [draw_look(size, settings, style, crop, rng) for _ in range(400)]
        factors = np.log2([look.factors for look in looks])
        apart = factors[:, 0] - factors[:, 1]
        mirrored = np.mean([look.mirrored for look in looks], axis=0)
        starts = np.array([look.start for look in looks])
        ends = np.array([np.subtract(look.canvas, look.crop) for look in looks])
        assert (starts >= 0).all()
        assert (starts <= ends).all()
        assert factors.max() <= 1.6 + style.stretch
        assert (factors >= np.log2(1.2) - 0.01).all()  # a crop fits
        assert (np.abs(apart) > 1e-6).any() == (style is DENSE)
        assert mirrored[0] == pytest.approx(style.upset, abs=0.05)
        assert mirrored[1] == pytest.approx(0.5 if settings.mirror else 0, abs=0.08)
        at_edge = ((starts == 0) | (starts == ends))[:, 1].mean()
        assert (at_edge > 0.3) == (style is SPARSE)  # their margins move crops to the sides


def test_rectangles_hide_parts_of_outer_frames_alone() -> None:
    frames = torch.rand(3, 3, 120, 140) * 255
    hidden = {style: np.zeros(3) for style in (DENSE, SPARSE)}
    for style, counts in hidden.items():
        for seed in range(60):
            changed = erased(frames, style, np.random.default_rng(seed))
            counts += [(a != b).any().item() for a, b in zip(changed, frames, strict=True)]
    assert hidden[SPARSE][0] == hidden[SPARSE][1] == hidden[DENSE][1] == 0
    assert all(15 < count < 45 for count in (hidden[DENSE][0], hidden[DENSE][2], hidden[SPARSE][2]))


def test_an_epoch_has_every_triplet_as_often_as_its_set_repeats_it_and_batches_are_pure(data: list[Path]) -> None:
    datasets = [{"layout": "things", "part": "TRAIN"}, {"layout": "kitti", "repeat": 3}]
    settings = training(datasets, stages=[{"crop": (64, 64), "batch": 4}], workers=2)
    chosen = [one for one in data if roots.named(one)[0] in ("things", "kitti")]
    sampler, again = (DatasetSampler(load_sets(settings.datasets, chosen), settings) for _ in range(2))
    assert len(sampler) == 4 + 3 * 4
    for epoch in (0, 1):
        drawn = [sampler.example(16 * epoch + place) for place in range(16)]
        counts = {(one.recipe.layout, place): 0 for one, place in drawn}
        for one, place in drawn:
            counts[one.recipe.layout, place] += 1
        assert counts == {("things", k): 1 for k in range(4)} | {("kitti", k): 3 for k in range(4)}
    last = again.batch(3, 1)  # as a resumed run asks for it, without the steps before
    for step in range(4):
        first, second = sampler.batch(step, 0), sampler.batch(step, 1)
        assert first.flow.shape == (4, 2, 2, 64, 64)
        assert not torch.equal(first.frames, second.frames)
    assert all(torch.equal(a, b) for a, b in zip(second, last, strict=True))
    several = DatasetSampler(sampler.sets, settings.model_copy(update={"readers": 3}))
    *_, ahead = prefetch(several, 0, 4, 1)
    assert all(torch.equal(a, b) for a, b in zip(ahead, last, strict=True))
    assert 0 <= float(last.frames.min()) < float(last.frames.max()) < 255.01


def test_two_steps_of_training_and_a_resumed_one(data: list[Path]) -> None:
    settings = training([{"layout": "things"}, {"layout": "hd1k"}], stages=[{"crop": (128, 128), "batch": 2}])
    kind = kinds.kind_of(settings)
    chosen = [one for one in data if roots.named(one)[0] in ("things", "hd1k")]
    sampler = kind.sampler(settings, kind.sources(settings, chosen, Path("unused")))
    assert isinstance(sampler, DatasetSampler)
    assert kind.held_out(settings, None) is None
    trainer = FlowTrainer(settings, sampler=sampler)
    outcomes = [trainer.step(sampler.batch(0))]
    resumed = FlowTrainer(settings)
    resumed.load_state_dict(copy.deepcopy(trainer.state_dict()))
    outcomes.append(trainer.step(sampler.batch(1)))
    again = kind.sampler(settings, kind.sources(settings, chosen, Path("unused")))
    assert resumed.step(again.batch(1)) == outcomes[1]
    assert all(outcome["skipped"] == 0 for outcome in outcomes)
    assert states_equal(resumed.state_dict(), trainer.state_dict())


@pytest.mark.parametrize("stage", SUCCESSORS)
def test_every_full_size_recipe_reads_its_sets(stage: str, data: list[Path]) -> None:
    loaded = config.load(FlowRecipe, CONFIGS / f"{stage}.yaml", [])  # type: ignore[type-var]
    wanted = [one for one in data if roots.named(one)[0] in {part.root for part in loaded.datasets}]
    (whole,) = loaded.stages
    settings = loaded.model_copy(update={"stages": (whole.model_copy(update={"crop": (96, 128)}),)})
    batch = DatasetSampler(load_sets(settings.datasets, wanted), settings).batch(0)
    assert batch.frames.shape == (1, 3, 3, 96, 128)
    assert batch.valid.any()
    with pytest.raises(ConfigError, match=r"(?s)without a folder: .*--data \w+=FOLDER.*--set datasets=\[\]"):
        load_sets(loaded.datasets, [Path("pictures")])
    made = config.load(FlowRecipe, CONFIGS / f"{stage}.yaml", ["datasets=[]"])  # type: ignore[type-var]
    assert not made.datasets


def test_what_is_wrong_with_a_set_is_said_before_it_is_trained_on(data: list[Path], tmp_path: Path) -> None:
    def refused(layout: str, message: str, **changes: Any) -> None:
        with pytest.raises(InputNotFound, match=message):
            find_triplets(tmp_path / layout, entry(layout, **changes))

    refused("kitti", r"--data kitti=.*no such folder; it should hold training/image_2")
    for layout in TREES:
        shutil.copytree(roots.named(next(one for one in data if roots.named(one)[0] == layout))[1], tmp_path / layout)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputNotFound, match=r"--data mine=.*no true flow there; it should hold training/clean"):
        find_triplets(tmp_path / "mine", entry("sintel", at="mine"))
    refused("things", "no true flow there", part="VAL")
    (tmp_path / "kitti/training/image_2/000001_09.png").unlink()
    refused("kitti", r"000001_10\.png: has a true flow, but not both neighbours.*multi-view")
    (tmp_path / "spring/train/0002/flow_BW_left/flow_BW_left_0002.flo5").unlink()
    refused("spring", r"frame_left_0002\.png: has one true flow, other frames of the set have both")
    shutil.rmtree(tmp_path / "hd1k/hd1k_input")
    refused("hd1k", "no frame with both neighbours|not both neighbours")
    sets = [entry("kitti")]
    with pytest.raises(ConfigError, match=r"sintel=.*no such set; its sets are at kitti"):
        load_sets(sets, [Path(f"kitti={tmp_path / 'kitti'}"), Path(f"sintel={tmp_path / 'sintel'}")])
    with pytest.raises(ConfigError, match=r"kitti \(layout kitti\); without a folder: kitti"):
        load_sets(sets, [tmp_path / "kitti"])


def test_a_missing_frame_within_a_sequence_is_a_hole(tmp_path: Path) -> None:
    TREES["sintel"](tmp_path)
    folder = tmp_path / "training"
    for number in (4, 5):
        shutil.copy(folder / "clean/alley_1/frame_0003.png", folder / f"clean/alley_1/frame_{number:04d}.png")
        shutil.copy(folder / "flow/alley_1/frame_0002.flo", folder / f"flow/alley_1/frame_{number - 1:04d}.flo")
    assert len(find_triplets(tmp_path, entry("sintel", render="clean"))) == 4
    (folder / "clean/alley_1/frame_0004.png").unlink()
    with pytest.raises(InputNotFound, match=r"frame_0003\.png: .*frame_0004\.png is not there"):
        find_triplets(tmp_path, entry("sintel", render="clean"))


@pytest.mark.parametrize("layout", TREES)
def test_a_damaged_file_ends_the_run_with_its_name(layout: str, tmp_path: Path) -> None:
    TREES[layout](tmp_path)
    found = FlowSet(entry(layout), tmp_path, find_triplets(tmp_path, entry(layout)))
    files = found.triplets[0]
    small = np.zeros((8, 8, 3), np.uint8)
    for name in (files.frames[0], files.flows[1], files.invalid):
        if name is None:
            continue
        path = tmp_path / name
        whole = path.read_bytes()
        for broken in (whole[: len(whole) // 2], b"", b"nothing of the kind", flow_trees.encode_png(small)):
            path.write_bytes(broken)
            with pytest.raises(MotionmillError, match=path.name.replace(".", r"\.")):
                found[0]
        path.unlink()
        with pytest.raises(MotionmillError, match=path.name.replace(".", r"\.")):
            found[1]
        path.write_bytes(whole)
    assert found[0].frames.shape == (3, 3, *SIZE)


def test_data_may_be_named_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert roots.named(Path("kitti=/data/K=1")) == ("kitti", Path("/data/K=1"))
    assert roots.named(Path("a=b")) == ("", Path("a=b"))
    assert roots.resolved(Path("kitti=data")) == f"kitti={tmp_path / 'data'}"
    assert roots.resolved(Path("clips")) == str(tmp_path / "clips")
    with pytest.raises(ConfigError, match="write --data kitti=FOLDER"):
        roots.named(Path("kitti="))
