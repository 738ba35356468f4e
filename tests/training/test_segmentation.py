"""Training of Deep Feature Flow on labelled pictures made by code: pairs are exact, it learns, and its file loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from pydantic import ValidationError

from models import weights
from models.dff import warp
from models.dff.bundle import unpack
from pipeline import config
from pipeline.errors import ConfigError
from pipeline.training import kinds
from pipeline.training.export import save_weights
from pipeline.training.segmentation_evaluation import agreement, made_motion, per_frame
from pipeline.training.segmentation_loop import SegmentationTrainer, flow_loss, rate_of
from pipeline.training.segmentation_motion import camera_flow
from pipeline.training.segmentation_recipe import CameraRecipe, SegmentationRecipe
from pipeline.training.segmentation_sampling import IGNORED, Labelled, PairSampler, load_labelled

CONFIG = Path(__file__).parents[2] / "configs" / "train" / "dff_camvid.yaml"
CLASSES = ("left", "right", "disc")
SIZE = (96, 128)


def recipe(**changes: Any) -> SegmentationRecipe:
    document: dict[str, Any] = {
        "network": "dff",
        "classes": CLASSES,
        "model": {"width": 4, "flow_width": 1 / 32, "head_width": 16},
        "data": {"followers": 2, "turn": 6, "elastic": 2, "noise": 0, "dark": 1.0, "still": 0},
        "stages": [{"crop": [64, 96], "batch": 2}],
        "optimiser": {"learning_rate": 3e-3, "features_factor": 1.0, "warmup": 2},
        "schedule": {"steps": 12},
        "frozen_stages": 0,
        "precision": "fp32",
        "threads": 1,
    }
    return SegmentationRecipe.model_validate({**document, **changes})


def picture(seed: int) -> Labelled:
    """Two halves with a disc between, each of its own colour, smoothly textured."""
    rng = np.random.default_rng(seed)
    labels = torch.zeros(SIZE, dtype=torch.uint8)
    labels[:, SIZE[1] // 2 :] = 1
    y, x = (
        torch.arange(SIZE[0])[:, None] - float(rng.uniform(30, 60)),
        torch.arange(SIZE[1]) - float(rng.uniform(40, 80)),
    )
    labels[x**2 + y**2 < 20**2] = 2
    colours = torch.tensor([[200.0, 40, 40], [40, 200, 40], [40, 40, 200]])
    texture = F.interpolate(torch.from_numpy(rng.uniform(-30, 30, (1, 3, 12, 16))).float(), SIZE, mode="bicubic")[0]
    image = colours[labels.long()].permute(2, 0, 1) + texture
    return Labelled(f"made{seed}", image.clamp(0, 255).to(torch.uint8), labels)


@pytest.fixture(scope="module")
def pictures() -> list[Labelled]:
    return [picture(seed) for seed in range(4)]


def write_png(path: Path, array: np.ndarray, form: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width = array.shape[:2]
        stream.pix_fmt = form
        container.mux(stream.encode(av.VideoFrame.from_ndarray(array, form)))
        container.mux(stream.encode())


def test_a_view_is_its_key_frame_read_at_the_flow(pictures: list[Labelled]) -> None:
    batch = PairSampler(pictures, recipe()).batch(0)
    for number, key in enumerate(batch.keys):
        flow = batch.flow[number]
        seen = warp(key[None], flow)
        inside = warp(torch.ones(1, 1, *key.shape[-2:]), flow)[:, 0] > 0.999
        assert flow.abs().max() > 2
        difference = (seen - batch.views[number]).abs().mean(1)[inside]
        assert difference.mean() < 8, "pixels differ by more than brightness and interpolation"
        flipped = warp(key[None], -flow)
        assert (flipped - batch.views[number]).abs().mean(1)[inside].mean() > 1.3 * difference.mean()


def test_labels_move_with_their_pixels_and_are_void_outside_the_picture(pictures: list[Labelled]) -> None:
    far = CameraRecipe(still=0, turn=0, bump=0, roll=0, elastic=0, followers=1, zoom=(2.0, 2.0), dark=1.0)
    batch = PairSampler(pictures, recipe(data=far.model_dump())).batch(0)
    assert (batch.key_labels == IGNORED).any(), "a crop that is larger than the picture has something outside"
    known = batch.key_labels[0] < len(CLASSES)
    dominant = batch.keys[0].argmax(0)  # each class's colour has its own strongest channel
    assert (dominant[known] == batch.key_labels[0][known]).float().mean() > 0.9


def test_motion_that_drives_forward_spreads_from_a_point_near_the_middle() -> None:
    drive = CameraRecipe(still=0, turn=0, bump=0, roll=0, elastic=0)
    fields = [camera_flow((96, 128), drive, np.random.default_rng(seed)) for seed in range(20)]
    for field in fields:
        bottom, outward = field[1, -1].mean(), field[0, -1, -1] - field[0, -1, 0]
        assert bottom * outward > 0, "what is below the horizon moves down where the sides move apart"
        assert field[:, 20:40, 40:90].norm(dim=0).mean() < field[:, -10:].norm(dim=0).mean()


def test_batches_are_the_same_each_time_and_every_picture_comes_once_an_epoch(pictures: list[Labelled]) -> None:
    sampler = PairSampler(pictures, recipe())
    first, again, other = sampler.batch(1), sampler.batch(1), sampler.batch(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.keys, other.keys)


def test_the_classes_frequencies_sum_to_one_and_leave_void_out() -> None:
    labels = torch.tensor([[0, 0, 1, 11], [0, 255, 1, 1]], dtype=torch.uint8)
    sampler = PairSampler([Labelled("x", torch.zeros(3, 2, 4, dtype=torch.uint8), labels)], recipe())
    torch.testing.assert_close(sampler.frequencies(), torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))


def test_the_flow_loss_is_zero_for_the_right_flow_and_counts_in_cells() -> None:
    target = torch.full((1, 2, 64, 64), 8.0)
    right = [torch.full((1, 2, size, size), 8.0 / 40) for size in (1, 2, 4, 8, 4)]
    assert flow_loss(right, target) < 0.02
    wrong = [*right[:-1], right[-1] + torch.tensor([16.0 / 40, 0.0])[None, :, None, None]]
    assert flow_loss(wrong, target) - flow_loss(right, target) == pytest.approx(1.0, abs=0.02)


def test_training_lowers_the_loss_and_its_file_gives_the_same_labels(pictures: list[Labelled], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    plan = recipe(schedule={"steps": 25})
    sampler = PairSampler(pictures, plan)
    trainer = SegmentationTrainer(plan, None, sampler)
    losses = [trainer.step(sampler.batch(step))["loss"] for step in range(25)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])

    path = tmp_path / "weights.safetensors"
    save_weights(trainer.result, path, trainer.result.metadata())
    found = weights.load(path)
    bundle = unpack(found.tensors, found.metadata)
    assert bundle.classes == CLASSES
    frame = pictures[0].picture[None]
    with torch.no_grad():
        own = trainer.result.eval().bundle().model
        ours = own.network.head(own.network.features(frame), SIZE).labels  # type: ignore[union-attr]
        theirs = bundle.model.network.head(bundle.model.network.features(frame), SIZE).labels  # type: ignore[union-attr]
    assert (ours == theirs).float().mean() > 0.99, "half precision moves outlines by a pixel at most"

    assert per_frame(bundle.model, pictures, len(CLASSES)).pixel_accuracy > 0.4
    gaps = made_motion(bundle.model, pictures[:1], len(CLASSES))
    at_key = [total.miou for total in gaps[0].values()]
    assert at_key == [at_key[0]] * 4, "a key frame is the same whichever way features travel"
    still = agreement(bundle.model, [frame, frame, frame], len(CLASSES), 3)
    assert still["key features unmoved"].pixel_accuracy == 1.0, "a key frame's features fit where nothing moves"


def test_parts_that_do_not_learn_stay_as_they_are(pictures: list[Labelled]) -> None:
    plan = recipe(trained=["flow"], model={"width": 4, "flow_width": 1 / 32, "head_width": 16, "scale": False})
    sampler = PairSampler(pictures, plan)
    trainer = SegmentationTrainer(plan, None, sampler)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.step(sampler.batch(0))
    changed = {
        name.split(".")[0] for name, value in trainer.network.state_dict().items() if (value != before[name]).any()
    }
    assert changed == {"flow"}
    assert trainer.network.flow.Convolution5_scale is None


def learned(plan: SegmentationRecipe, pictures: list[Labelled]) -> tuple[SegmentationTrainer, set[str]]:
    """A trainer after two steps, and its parts that have changed."""
    sampler = PairSampler(pictures, plan)
    trainer = SegmentationTrainer(plan, None, sampler)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    for step in range(2):
        assert not trainer.step(sampler.batch(step))["skipped"]
    after = trainer.network.state_dict()
    return trainer, {name.split(".")[0] for name in after if (after[name] != before[name]).any()}


@pytest.mark.parametrize(
    ("loss", "changed"),
    [
        ({"views": 0, "flow": 0}, {"features", "head"}),  # frames one by one: neither flow nor scale has a part in it
        ({"keys": 0, "views": 0}, {"flow"}),  # motion alone, as on Flying Chairs
        ({"keys": 0, "flow": 0}, {"features", "head", "flow"}),
    ],
)
def test_only_what_the_loss_weighs_is_learned(
    pictures: list[Labelled], loss: dict[str, float], changed: set[str]
) -> None:
    assert learned(recipe(loss=loss), pictures)[1] == changed


def test_a_flow_network_that_knows_motion_is_taken_over_and_its_scale_starts_anew(
    pictures: list[Labelled], tmp_path: Path
) -> None:
    first, _ = learned(recipe(), pictures)
    path = tmp_path / "first.safetensors"
    save_weights(first.network, path, first.network.metadata())
    assert (first.network.flow.Convolution5_scale.weight != 0).any()  # type: ignore[union-attr]
    for scale in (True, False):
        model = {"width": 4, "flow_width": 1 / 32, "head_width": 16, "scale": scale}
        plan = recipe(initial_flow=str(path), trained=["features", "head"], model=model)
        second, changed = learned(plan, pictures)
        assert changed == {"features", "head"}
        ours, theirs = second.network.flow.state_dict(), first.network.flow.state_dict()
        for name, value in ours.items():
            if name.startswith("Convolution5_scale"):
                assert (value == float(name.endswith("bias"))).all()
            else:
                assert torch.equal(value, theirs[name].half().float()), name
        assert (second.network.flow.Convolution5_scale is not None) == scale
    with pytest.raises(RuntimeError, match="size mismatch"):
        learned(recipe(initial_flow=str(path), model={"width": 4, "flow_width": 1 / 16, "head_width": 16}), pictures)


def test_a_state_that_is_loaded_goes_on_as_if_never_stopped(pictures: list[Labelled]) -> None:
    torch.set_num_threads(1)
    plan = recipe(schedule={"steps": 4}, average_decay=0.9)
    sampler = PairSampler(pictures, plan)
    whole = SegmentationTrainer(plan, None, sampler)
    losses = [whole.step(sampler.batch(step))["loss"] for step in range(4)]
    first, second = SegmentationTrainer(plan, None, sampler), SegmentationTrainer(plan, None, sampler)
    for step in range(2):
        first.step(sampler.batch(step))
    second.load_state_dict(first.state_dict())
    assert [second.step(sampler.batch(step))["loss"] for step in (2, 3)] == losses[2:]


def test_pictures_are_read_with_their_labels_and_missing_ones_are_named(tmp_path: Path) -> None:
    one = picture(0)
    write_png(tmp_path / "train" / "a.png", one.picture.permute(1, 2, 0).contiguous().numpy(), "rgb24")
    with pytest.raises(ConfigError, match=r"a\.png: no labels"):
        load_labelled([tmp_path])
    write_png(tmp_path / "train_labels" / "a.png", one.labels.numpy(), "gray")
    found = load_labelled([tmp_path])
    assert torch.equal(found[0].picture, one.picture)
    assert torch.equal(found[0].labels, one.labels)
    with pytest.raises(ConfigError, match="dev_labels"):
        load_labelled([tmp_path], "dev")


def test_the_shipped_recipe_is_valid_and_known_to_the_job() -> None:
    kind = kinds.recipe_type(CONFIG)
    assert kind is SegmentationRecipe
    loaded = config.load(SegmentationRecipe, CONFIG, [])
    assert len(loaded.classes) == 11
    assert kinds.kind_of(loaded).network == "models.dff.bundle.unpack"


def test_the_papers_recipe_is_sgd_whose_rate_falls_once_and_learns_from_carried_frames() -> None:
    loaded = config.load(SegmentationRecipe, CONFIG.with_name("dff_paper.yaml"), [])
    rates = [rate_of(loaded.optimiser, step, step / loaded.schedule.steps) for step in (0, 14999, 15000, 19999)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    assert (loaded.optimiser.kind, loaded.loss.keys, loaded.loss.flow, loaded.frozen_stages) == ("sgd", 0, 0, 1)
    assert len(loaded.classes) == 19


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": [{"crop": [100, 96]}]}, "stride"),
        ({"classes": []}, "empty"),
        ({"stages": [{"until": 0.5}]}, "rise"),
        ({"loss": {"keys": 0, "views": 0, "flow": 0}}, "nothing would be learned"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    document = {**yaml.safe_load(CONFIG.read_text()), **changes}
    with pytest.raises(ValidationError, match=message):
        SegmentationRecipe.model_validate(document)
