"""Training of the detector on videos made by code: labels, scenes, loss, learning, and the teacher's graph."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import weights
from models.dff import Detections, warp
from models.dff.bundle import unpack
from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.training import kinds
from pipeline.training.detection_loop import DetectionTrainer, build
from pipeline.training.detection_loss import assign, detection_loss, ious
from pipeline.training.detection_recipe import DetectionDataRecipe, DetectionRecipe
from pipeline.training.detection_sampling import UNKNOWN, DetectionSampler
from pipeline.training.detection_scenes import moved, place_in, placed
from pipeline.training.detection_shelves import Shelves
from pipeline.training.detection_sources import Labelled, Source, load_sources
from pipeline.training.detection_teacher import Teacher, read_graph
from pipeline.training.export import save_weights
from pipeline.training.segmentation_motion import Place
from tests.training.clips_factory import texture, write_clip

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "train").glob("dff_detect*.yaml"))
SIDE = 128


def frames_of(count: int, cut: int) -> tuple[list[np.ndarray], list[list[float]]]:
    """A red square of 40 px that moves 3 px a frame over a grey texture; the background is another from `cut`."""
    frames, boxes = [], []
    for number in range(count):
        picture = (texture(7 if number < cut else 8)[:SIDE, :SIDE] // 3 + 40).astype(np.uint8)
        picture[..., :] = picture.mean(-1, keepdims=True)
        left = 10 + 3 * number
        picture[50:90, left : left + 40] = (250, 20, 20)
        frames.append(picture)
        boxes.append([left, 50, 40, 40])
    return frames, boxes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("detection")
    frames, boxes = frames_of(14, 8)
    write_clip(root / "moving.mkv", frames)
    document = {
        "images": [{"id": n + 1, "file_name": f"moving/{n:06d}.jpg"} for n in range(0, 14, 2)],
        "annotations": [
            {"id": n + 1, "image_id": n + 1, "category_id": 3, "bbox": boxes[n], "score": 0.9} for n in range(0, 14, 2)
        ],
        "categories": [{"id": 3, "name": "square"}, {"id": 9, "name": "disc"}],
    }
    (root / "labels.json").write_text(json.dumps(document))
    return root


def recipe(folder: Path, **changes: Any) -> DetectionRecipe:
    document: dict[str, Any] = {
        "network": "dff-detection",
        "labels": str(folder / "labels.json"),
        "model": {"width": 4, "flow_width": 1 / 32, "head_width": 16},
        "data": {
            "crop": [96, 112], "batch": 2, "followers": 1, "offset": 4, "pasted": 2, "zoom": [0.9, 1.1],
            "pasted_side": [24, 60], "speed": 4, "camera": {"turn": 4, "elastic": 1, "noise": 0, "dark": 1.0},
        },
        "optimiser": {"learning_rate": 4e-3, "features_factor": 1.0, "warmup": 2},
        "schedule": {"steps": 60},
        "frozen_stages": 0,
        "precision": "fp32",
        "threads": 1,
    }  # fmt: skip
    return DetectionRecipe.model_validate({**document, **changes})


@pytest.fixture(scope="module")
def labelled(folder: Path) -> Labelled:
    return load_sources(folder / "labels.json", [folder], folder / "cache", 400)


def test_labelled_frames_are_those_that_the_file_names_in_their_shots(labelled: Labelled, folder: Path) -> None:
    (source,) = labelled.sources
    assert labelled.classes == ("square", "disc")
    assert list(source.numbers) == list(range(0, 14, 2))
    assert [bool(source.picture(i)[0, 70, 30 + 3 * n] > 200) for i, n in enumerate(source.numbers)] == [True] * 7
    assert source.objects[2][0].tolist() == pytest.approx([22, 50, 62, 90, 0, 0.9])
    small = load_sources(folder / "labels.json", [folder], folder / "cache", 64).sources[0]
    assert small.frames.shape == (7, 64, 64, 3)
    assert small.objects[2][0, :4].tolist() == pytest.approx([11, 25, 31, 45])


def test_followers_come_from_the_same_shot_and_near_frames(labelled: Labelled) -> None:
    (source,) = labelled.sources
    assert source.shots[0] != source.shots[-1]
    for index in range(len(source)):
        for other in source.near(index, 4):
            assert source.shots[other] == source.shots[index]
            assert 0 < abs(source.numbers[other] - source.numbers[index]) <= 4


@pytest.mark.parametrize("scenes", [0.0, 1.0])
def test_boxes_lie_on_what_they_name_in_all_views(labelled: Labelled, folder: Path, scenes: float) -> None:
    made = recipe(folder, data={**recipe(folder).data.model_dump(), "scenes": scenes, "pasted": 0})
    sampler = DetectionSampler(labelled, made)
    seen = 0
    for step in range(4):
        batch = sampler.batch(step)
        images = torch.cat([batch.keys[:, None], batch.views], 1)
        for row in range(2):
            for column in range(2):
                image = images[row, column]
                red = (image[0] - image[1:].mean(0)) > 60
                for x1, y1, x2, y2, kind, score in batch.objects[row, column].tolist():
                    if kind < 0 or score == 0:
                        continue
                    inside = red[round(y1) + 2 : round(y2) - 2, round(x1) + 2 : round(x2) - 2].float().mean()
                    assert inside > 0.85
                    assert float(red.sum()) <= 1.35 * (x2 - x1) * (y2 - y1)
                    seen += 1
        assert bool((batch.flow >= UNKNOWN).all()) == (scenes == 0)
    assert seen >= 8


def test_a_scene_s_views_are_its_key_frame_read_at_the_flow(labelled: Labelled, folder: Path) -> None:
    sampler = DetectionSampler(labelled, recipe(folder, data={**recipe(folder).data.model_dump(), "scenes": 1.0}))
    for step in range(3):
        batch = sampler.batch(step)
        seen, wrong = (warp(batch.keys, sign * batch.flow[:, 0]) for sign in (1, -1))
        inside = warp(torch.ones(2, 1, 96, 112), batch.flow[:, 0])[:, 0] > 0.999
        errors = [(one - batch.views[:, 0]).abs().mean(1)[inside] for one in (seen, wrong)]
        assert errors[0].median() < 12, "brightness and interpolation"
        moved_far = float(batch.flow.abs().max()) > 2
        assert not moved_far or errors[0].mean() < errors[1].mean()


def test_batches_are_the_same_each_time(labelled: Labelled, folder: Path) -> None:
    sampler = DetectionSampler(labelled, recipe(folder))
    first, again, other = sampler.batch(1), sampler.batch(1), sampler.batch(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.keys, other.keys)


def test_boxes_go_where_a_place_and_a_field_take_them() -> None:
    box = torch.tensor([[20.0, 30, 60, 70, 0, 1]])
    zoomed = placed(box, Place(10, 10, 0.5))
    assert zoomed[0, :4].tolist() == [20, 40, 100, 120]
    mirrored = placed(box, Place(100, 10, 1.0, -1))
    assert mirrored[0, :4].tolist() == [40, 20, 80, 60]
    field = torch.tensor([5.0, -3.0])[:, None, None].expand(2, 128, 128)
    assert moved(box, field)[0, :4].tolist() == [15, 33, 55, 73], "a field points to where things came from"


def test_the_smallest_box_has_a_place_and_unsure_ones_are_left_out() -> None:
    objects = torch.tensor(
        [[0.0, 0, 96, 96, 0, 0.9], [40, 40, 60, 60, 1, 0.9], [100, 0, 128, 40, 0, 0.1], [0, 0, 0, 0, -1, -1]]
    )
    owner, left_out = assign(objects, 12, 16, 0.4)
    assert owner[6, 6] == 1, "the middle of both"
    assert (owner == 0).sum() > 2
    assert set(owner.unique().tolist()) == {-1, 0, 1}
    assert left_out[2, 14]
    assert left_out.sum() == 3 * 5
    nothing, none_left = assign(objects[:0], 12, 16, 0.4)
    assert (nothing == -1).all()
    assert not none_left.any()


def test_the_loss_is_least_for_the_truth() -> None:
    objects = torch.tensor([[[16.0, 16, 64, 64, 1, 0.9]]])
    owner, _ = assign(objects[0], 12, 12, 0.4)
    logits = torch.full((1, 2, 12, 12), -8.0)
    logits[0, 1][owner == 0] = 8.0
    boxes = objects[0, 0, :4, None, None].expand(4, 12, 12)[None]
    best = detection_loss(logits, boxes, objects, 0.4, 1.5)
    assert best < 0.01
    assert detection_loss(-logits, boxes, objects, 0.4, 1.5) > best + 1
    assert detection_loss(logits, boxes + 8, objects, 0.4, 1.5) > best + 0.3
    none = torch.full((1, 1, 6), -1.0)
    assert detection_loss(torch.full((1, 2, 12, 12), -8.0), boxes, none, 0.4, 1.5) < 1e-3
    overlap, generalised = ious(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[20.0, 0, 30, 10]]))
    assert (overlap.item(), generalised.item()) == pytest.approx((0, -1 / 3))


def test_a_box_that_fills_the_frame_does_not_outweigh_the_others() -> None:
    objects = torch.tensor([[[0.0, 0, 352, 352, 0, 0.9], [160, 0, 192, 32, 1, 0.9]]])
    owner, _ = assign(objects[0], 44, 44, 0.4)
    assert (owner == 0).sum() > 16 * (owner == 1).sum()
    logits = torch.full((1, 2, 44, 44), -8.0)
    for kind in (0, 1):
        logits[0, kind][owner == kind] = 8.0

    def loss(wrong: int, places: int | None) -> float:
        boxes = objects[0, owner.clamp(min=0), :4].permute(2, 0, 1)[None]
        boxes = torch.where(owner == wrong, boxes + 400, boxes)
        return float(detection_loss(logits, boxes, objects, 0.4, 1.5, places))

    assert loss(1, 8) - loss(-2, 8) > 3 * (loss(1, None) - loss(-2, None))
    assert loss(0, 8) - loss(-2, 8) < loss(0, None) - loss(-2, None)


def shelved(kinds: list[list[float]]) -> Source:
    """A source whose frames have an object of 40 px of each class that is named."""
    boxes = [torch.tensor([[10.0, 20, 50, 60, kind, 0.9] for kind in one]).reshape(-1, 6) for one in kinds]
    return Source("made", np.zeros((len(kinds), 96, 128, 3), np.uint8), range(len(kinds)), [0] * len(kinds), boxes)


def test_balanced_draws_take_each_class_alike_and_empty_frames_too() -> None:
    rare = shelved([[1.0]])
    sources = (shelved([[0.0]] * 90 + [[]] * 30), rare, shelved([[]] * 9))
    shelves = Shelves(sources, 3, DetectionDataRecipe(balanced=True))
    rng = np.random.default_rng(1)
    drawn = [shelves.any(rng) for _ in range(600)]
    shares = [sum(one.wanted == kind for one in drawn) / len(drawn) for kind in (0, 1, 2, None)]
    assert shares == pytest.approx([0.4, 0.4, 0.0, 0.2], abs=0.06)
    assert all(one.wanted is None or one.wanted in one.source.objects[one.frame][:, 4] for one in drawn)
    empty = [one for one in drawn if one.wanted is None]
    assert all(len(one.source.objects[one.frame]) == 0 for one in empty)
    assert 0.15 < sum(one.source is sources[2] for one in empty) / len(empty) < 0.55, "roots of 30 and 9: 0.35"
    assert all(one.source is not rare for one in (shelves.moving(rng) for _ in range(50)))
    assert all(shelves.pasted(rng, True).wanted is not None for _ in range(50))


@pytest.mark.parametrize("box", [[40.0, 30, 80, 50, 0, 0.9], [0, 0, 256, 190, 0, 0.9], [250, 180, 299, 199, 0, 0.9]])
def test_a_close_up_shows_its_object_as_large_as_asked_or_as_the_picture_allows(box: list[float]) -> None:
    data = DetectionDataRecipe(crop=(96, 128), zoom=(0.2, 1.5), closeups=1.0, filled=(0.5, 0.8))
    picture, objects = torch.zeros(3, 200, 300, dtype=torch.uint8), torch.tensor([box])
    rng, sides = np.random.default_rng(2), set()
    for _ in range(40):
        place = place_in(picture, objects, data, rng)
        sides.add(place.side)
        x1, y1, x2, y2 = placed(objects, place)[0, :4].tolist()
        filled = max((x2 - x1) / 128, (y2 - y1) / 96)
        assert 0.49 < filled < 0.81 or place.zoom == pytest.approx(1.5)
        assert min(x2, 128) - max(x1, 0) > 0.45 * min(x2 - x1, 128)
        ends = place.x, place.x + place.side * place.zoom * 127
        assert -0.01 <= min(ends) <= max(ends) <= 299.01
        assert -0.01 <= place.y <= 199.01 - place.zoom * 95
    assert sides == {-1, 1}


def test_a_run_that_sees_farther_starts_as_the_model_that_it_goes_on_from(
    labelled: Labelled, folder: Path, tmp_path: Path
) -> None:
    made = recipe(folder)
    sampler = DetectionSampler(labelled, made)
    start = DetectionTrainer(made, labelled.classes, None, sampler)
    path = tmp_path / "start.safetensors"
    save_weights(start.result, path, {"network": "models.dff.bundle.unpack", **start.result.metadata()})
    farther = recipe(folder, model={**made.model.model_dump(), "head_contexts": 4}, initial_weights=str(path))
    network = build(farther, labelled.classes, sampler).eval()
    assert [len(each.head.contexts) for each in (start.network, network)] == [3, 4]
    assert float(network.head.contexts[3].weight.detach().abs().max()) > 0, "or it would never learn"
    frames = torch.stack([labelled.sources[0].picture(index) for index in (0, 1)])
    with torch.no_grad():
        before, now = (each.head.raw(each.features(frames)) for each in (start.network.eval(), network))
    assert (before[0] - now[0]).abs().max() < 0.2
    nearer = recipe(folder, model={**made.model.model_dump(), "head_contexts": 2}, initial_weights=str(path))
    with pytest.raises(RuntimeError, match="contexts"):
        build(nearer, labelled.classes, sampler)


def test_it_learns_resumes_and_its_file_is_the_network(labelled: Labelled, folder: Path, tmp_path: Path) -> None:
    made = recipe(folder)
    sampler = DetectionSampler(labelled, made)
    trainer = DetectionTrainer(made, labelled.classes, None, sampler)
    losses = [trainer.step(sampler.batch(step))["loss"] for step in range(30)]
    again = DetectionTrainer(made, labelled.classes, None, sampler)
    again.load_state_dict(copy.deepcopy(trainer.state_dict()))
    for step in range(30, 60):
        batch = sampler.batch(step)
        losses.append(trainer.step(batch)["loss"])
        if step < 32:
            assert again.step(batch)["loss"] == losses[-1]
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:5])
    path = tmp_path / "weights.safetensors"
    save_weights(trainer.result, path, {"network": "models.dff.bundle.unpack", **trainer.result.metadata()})
    found = weights.load(path)
    bundle = unpack(found.tensors, found.metadata)
    frames = torch.stack([labelled.sources[0].picture(index) for index in (0, 1)])
    network = bundle.model.network
    own = trainer.result.eval()
    with torch.no_grad():
        expected = own.head.raw(own.features(frames))
        logits, boxes = network.task.raw(network.features(frames))  # type: ignore[union-attr]
        objects = bundle.model.predict(frames, [0, 0])
    assert (logits - expected[0]).abs().max() < 0.1, "half precision"
    assert (boxes - expected[1]).abs().max() < 2
    assert [type(one) for one in objects] == [Detections, Detections]


def test_the_recipe_files_are_recipes_and_labels_that_are_none_are_refused(folder: Path, tmp_path: Path) -> None:
    assert len(CONFIGS) == 2
    assert {kinds.recipe_type(config) for config in CONFIGS} == {DetectionRecipe}
    assert [load(DetectionRecipe, config).short_side for config in CONFIGS] == [360, 360]
    with pytest.raises(ConfigError, match=r"labels=.*missing\.json: no COCO file"):
        load_sources(tmp_path / "missing.json", [folder], tmp_path, 400)
    with pytest.raises(ConfigError, match="has no image of a file in"):
        load_sources(folder / "labels.json", [tmp_path], tmp_path, 400)


# ---- the teacher


GRAPH = """7767517
10 11
Input           images  0 1 images
YoloV5Focus     focus   1 1 images a
Convolution     c1      1 1 a b 0=4 1=3 3=2 4=1 5=1 6=432
Swish           s1      1 1 b c
Split           split   1 2 c c0 c1
Pooling         pool    1 1 c0 d 1=5 3=2 5=1
BinaryOp        add     2 1 d c1 e
Interp          up      1 1 e f 0=1 1=2.000000e+00 2=2.000000e+00
Convolution     c2      1 1 f g 0=85 1=1 5=1 6=340 9=4
Reshape         shape   1 1 g h 0=-1 1=85
Permute         turn    1 1 h output 0=1
"""


def test_an_ncnn_graph_computes_what_it_says() -> None:
    torch.manual_seed(0)
    tensors = {"c1.weight": torch.randn(4, 12, 3, 3), "c1.bias": torch.randn(4),
               "c2.weight": torch.randn(85, 4, 1, 1), "c2.bias": torch.randn(85)}  # fmt: skip
    image = torch.randn(1, 3, 32, 32)
    found = Teacher(read_graph(GRAPH), tensors).raw(image)
    x = torch.cat([image[..., ::2, ::2], image[..., 1::2, ::2], image[..., ::2, 1::2], image[..., 1::2, 1::2]], 1)
    x = F.conv2d(x, tensors["c1.weight"], tensors["c1.bias"], 2, 1)
    x = x * x.sigmoid()
    x = F.interpolate(F.max_pool2d(x, 5, 1, 2) + x, scale_factor=2)
    x = F.conv2d(x, tensors["c2.weight"], tensors["c2.bias"]).sigmoid()
    assert torch.allclose(found, x.flatten(2)[0].t())
    with pytest.raises(ConfigError, match="first line is 7767517"):
        read_graph("something else")
    with pytest.raises(ConfigError, match="a layer Tanh"):
        Teacher(read_graph("7767517\n2 2\nInput i 0 1 a\nTanh t 1 1 a b\n"), {}).raw(image)


def test_the_teacher_s_boxes_are_pixels_of_the_picture() -> None:
    class Told(Teacher):
        def raw(self, image: torch.Tensor) -> torch.Tensor:
            height, width = image.shape[-2:]
            places = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
            raw = torch.zeros(places, 85)
            first = 3 * (width // 8) + 5  # row 3, column 5 of the finest grid
            for place, number in ((first, 2), (first + 1, 16)):  # a car, and a dog, which is nobody's business
                raw[place, :5] = torch.tensor([0.5, 0.5, np.log(4.0), np.log(2.0), 0.9])
                raw[place, 5 + number] = 1.0
            return raw

    boxes, scores, classes = Told([], {}).boxes(torch.zeros(3, 180, 320, dtype=torch.uint8))
    assert classes.tolist() == [1]
    assert scores.tolist() == pytest.approx([0.9])
    x, y = 5.5 * 8 / 2, 3.5 * 8 / 2  # the picture was doubled to 640 px
    assert boxes[0].tolist() == pytest.approx([x - 8, y - 4, x + 8, y + 4])
