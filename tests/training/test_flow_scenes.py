"""Made scenes: their flow is what moved their pixels, their motion is invertible, and batches are pure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import InputNotFound
from pipeline.training import flow_motion
from pipeline.training.flow_motion import Motion
from pipeline.training.flow_recipe import FlowRecipe, MotionRecipe
from pipeline.training.flow_sampling import FlowBatch, SceneSampler, erase, record, varied
from pipeline.training.flow_scene import Layer, Placed, Scene, make_scene, pixel_grid
from pipeline.training.flow_shapes import KINDS, SIDE, draw_shapes
from pipeline.training.flow_textures import Pyramid, load_pyramids, pattern, pyramid
from tests.training.clips_factory import sliding, write_clip

SIZE = (48, 64)
LIVELY = MotionRecipe(still=0.0, elastic=1.0, bend=0.5, objects=3)
CLEAN = MotionRecipe(shutter=0, blur=0, noise=0, jitter=0, eraser=0, still_end=0)


def smooth(seed: int, side: int = 192) -> Tensor:
    """A picture without detail finer than 16 px, so that bilinear reads of it are nearly exact: uint8 [3,S,S]."""
    coarse = torch.rand(1, 3, side // 16, side // 16, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(coarse, (side, side), mode="bicubic")[0].clamp(0, 1) * 255).round().to(torch.uint8)


PICTURES: list[Pyramid] = [pyramid(smooth(seed)) for seed in range(3)]
SHAPES = draw_shapes(np.random.default_rng(0), 8)


def recipe(**changes: Any) -> FlowRecipe:
    document: dict[str, Any] = {
        "network": "memfof", "schedule": {"steps": 10}, "stages": [{"crop": SIZE, "batch": 2}], **changes,
    }  # fmt: skip
    return FlowRecipe.model_validate(document)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("time", [-1.0, 0.4, 1.0])
def test_origin_is_the_inverse_of_displacement(seed: int, time: float) -> None:
    rng = np.random.default_rng(seed)
    motion = flow_motion.combined(
        flow_motion.draw(rng, LIVELY, 30.0, SIZE), flow_motion.draw(rng, LIVELY, 30.0, SIZE)
    )  # fmt: skip
    there = pixel_grid(SIZE)
    origin = motion.origin(there, time)
    assert (origin + motion.displacement(origin, time) - there).abs().max() < 0.02


def test_combined_motion_displaces_by_the_sum_of_both() -> None:
    rng = np.random.default_rng(3)
    first, second = (flow_motion.draw(rng, LIVELY, 20.0, SIZE) for _ in range(2))
    first = replace(first, elastic=None)
    grid = pixel_grid(SIZE)
    both = flow_motion.combined(first, second).displacement(grid, 1.0)
    expected = first.displacement(grid, 1.0) + second.displacement(grid, 1.0)
    assert torch.allclose(both, expected, atol=1e-3)


def test_a_scene_moved_by_whole_pixels_is_the_same_picture_elsewhere() -> None:
    still = Motion(torch.zeros(2), torch.tensor([3.0, -2.0]), torch.zeros(2, 2), torch.zeros(2), torch.zeros(2, 2))
    texture = Placed(smooth(1).float(), torch.eye(2), torch.tensor([40.0, 30.0]), "reflection")
    scene = Scene([Layer(still, texture, None)], SIZE)
    now, later = scene.draw(0.0), scene.draw(1.0)
    assert torch.allclose(now, smooth(1).float()[:, 30:78, 40:104], atol=1e-2)
    assert torch.allclose(later[:, :-2, 3:], now[:, 2:, :-3], atol=1e-2)
    flow = scene.flow()
    assert (flow[1] == torch.tensor([3.0, -2.0])[:, None, None]).all()
    assert (flow[0] == -flow[1]).all()


@pytest.mark.parametrize("seed", range(4))
def test_frames_warped_back_by_the_flow_are_the_middle_frame_where_nothing_hides_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = make_scene(PICTURES, SHAPES, replace_objects(LIVELY, 2), 8.0, SIZE, rng)
    scene = Scene([replace(layer, texture=smooth_texture(layer.texture)) for layer in scene.layers], SIZE)
    middle, flow = scene.draw(0.0), scene.flow()
    front = labels(scene, 0.0)
    height, width = SIZE
    for direction, time in enumerate((-1.0, 1.0)):
        x, y = pixel_grid(SIZE) + flow[direction]
        at = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)[None]
        warped = F.grid_sample(scene.draw(time)[None], at, align_corners=True)[0]
        seen = F.grid_sample(labels(scene, time)[None], at, mode="nearest", align_corners=True)[0]
        inside = (x >= 1) & (x <= width - 2) & (y >= 1) & (y <= height - 2)
        # Away from outlines, which half cover their pixels, and where the same layer is in front in both frames.
        steady = inside & (seen[0] == front[0]) & (edges(front) == 0)
        if steady.sum() < 50:
            continue
        error = (warped - middle).abs().mean(0)[steady]
        assert error.quantile(0.9) < 3, (direction, float(error.quantile(0.9)))  # grey levels; textures span 255


def replace_objects(recipe: MotionRecipe, count: int) -> MotionRecipe:
    return recipe.model_copy(update={"objects": count, "textures_by_code": 0.0})


def smooth_texture(placed: Placed) -> Placed:
    return Placed(smooth(int(placed.picture.sum()) % 7).float(), placed.matrix / 2, placed.shift / 2, placed.padding)


def labels(scene: Scene, time: float) -> Tensor:
    """[1,H,W]: the number of the layer in front."""
    out = torch.zeros(1, *scene.size)
    for number, layer in enumerate(scene.layers):
        if layer.outline is not None:
            out[layer.outline.shape(layer.motion.origin(pixel_grid(scene.size), time)) > 0.5] = number
    return out


def edges(front: Tensor) -> Tensor:
    """Pixels with another label within two."""
    high, low = F.max_pool2d(front[None], 5, 1, 2)[0, 0], -F.max_pool2d(-front[None], 5, 1, 2)[0, 0]
    return high - low


@pytest.mark.parametrize("time", [-1.0, 0.0, 0.5, 1.0])
def test_an_object_is_nowhere_outside_its_window(time: float) -> None:
    rng = np.random.default_rng(5)
    for _ in range(5):
        scene = make_scene(PICTURES, SHAPES, LIVELY, 12.0, SIZE, rng)
        for layer in scene.layers[1:]:
            assert layer.outline is not None
            coverage = layer.outline.shape(layer.motion.origin(pixel_grid(SIZE), time))[0].clone()
            coverage[layer.window(time, SIZE)] = 0
            assert coverage.max() == 0


def test_elastic_motion_never_folds() -> None:
    for seed in range(20):
        waves = flow_motion.random_waves(np.random.default_rng(seed), 50.0, 64)
        slopes = (waves.amplitude.norm(dim=1) * waves.frequency.norm(dim=1)).sum()
        assert slopes <= flow_motion.STRAIN * (1 + 1e-5)


def test_shapes_are_whole_and_leave_the_border_free() -> None:
    shapes = draw_shapes(np.random.default_rng(1), 40)
    assert shapes.shape == (40, 1, SIDE, SIDE)
    assert shapes.amin() == 0
    assert (shapes.amax((1, 2, 3)) == 1).all()
    assert shapes[..., 0, :].max() == shapes[..., -1, :].max() == shapes[..., 0].max() == shapes[..., -1].max() == 0
    axis = (np.arange(SIDE) + 0.5) * 2 / SIDE - 1
    x, y = np.meshgrid(axis, axis)
    for kind in KINDS:
        distance = kind(np.random.default_rng(2), x, y)
        assert distance.shape == (SIDE, SIDE)
        assert (distance > 0).any()
        assert (distance < 0).any()


def test_batches_depend_on_seed_step_and_rank_only() -> None:
    one, two = SceneSampler(PICTURES, recipe()), SceneSampler(PICTURES, recipe())
    two.batch(0)
    assert all(torch.equal(a, b) for a, b in zip(one.batch(3), two.batch(3), strict=True))
    assert not torch.equal(one.batch(3).frames, one.batch(4).frames)
    assert not torch.equal(one.batch(3, rank=0).frames, one.batch(3, rank=1).frames)
    held_out = SceneSampler(PICTURES, recipe(), held_out=True)
    assert not torch.equal(one.batch(3).frames, held_out.batch(3).frames)


def test_reused_scenes_do_not_depend_on_what_was_drawn_before() -> None:
    settings = recipe(data={"reuse": 3})
    one, two = SceneSampler(PICTURES, settings), SceneSampler(PICTURES, settings)
    for step in range(5):
        one.batch(step)
    assert all(torch.equal(a, b) for a, b in zip(one.batch(5), two.batch(5), strict=True))
    assert not torch.equal(one.batch(4).frames, one.batch(5).frames)


def test_batches_have_frames_of_whole_levels_and_a_still_end_moves_nowhere() -> None:
    batch = SceneSampler(PICTURES, recipe(data={"still_end": 1.0})).batch(0)
    assert batch.frames.shape == (2, 3, 3, *SIZE)
    assert batch.flow.shape == (2, 2, 2, *SIZE)
    assert torch.equal(batch.frames, batch.frames.round().clamp(0, 255))
    for frames, flow in zip(batch.frames, batch.flow, strict=True):
        ends = [end for end in (0, 1) if torch.equal(frames[2 * end], frames[1])]
        assert ends
        assert all((flow[end] == 0).all() for end in ends)


def test_a_varied_batch_is_the_same_scene_in_a_mirror_and_backwards() -> None:
    x = torch.arange(64.0).expand(1, 48, 64)
    frames = torch.stack([x, x - 2, x - 4], 1).unsqueeze(2).expand(1, 3, 3, 48, 64)  # moves right by 2 px
    flow = torch.zeros(1, 2, 2, 48, 64)
    flow[:, 0, 0], flow[:, 1, 0] = -2, 2
    for seed in range(8):
        out = varied(FlowBatch(frames, flow, torch.ones(1, 2, 48, 64)), np.random.default_rng(seed))
        rising = out.frames[0, 1, 0, 0, 1] - out.frames[0, 1, 0, 0, 0]  # +1, or -1 in a mirror
        change = out.frames[0, 2, 0, 0, 32] - out.frames[0, 1, 0, 0, 32]
        assert out.flow[0, 1, 0, 0, 0] == -change / rising
        assert (out.flow[:, 0] == -out.flow[:, 1]).all()


def test_a_camera_changes_colours_but_not_what_it_is_told_to_leave() -> None:
    frames = torch.stack([smooth(seed)[:, :48, :64].float() for seed in range(3)])
    rng = np.random.default_rng(0)
    assert torch.equal(record(frames, CLEAN, rng), frames)
    noisy = record(frames, CLEAN.model_copy(update={"noise": 40.0}), np.random.default_rng(2))
    again = record(frames, CLEAN.model_copy(update={"noise": 40.0}), np.random.default_rng(2))
    assert torch.equal(noisy, again)
    frame = frames[0].clone()
    erase(frame, rng)
    changed = (frame != frames[0]).any(0)
    assert 0 < changed.float().mean() < 0.5


def test_pictures_come_from_photographs_and_clips(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv", sliding(20, size=96))
    (tmp_path / "notes.txt").write_text("not a picture")
    pyramids = load_pyramids([tmp_path])
    assert 1 <= len(pyramids) <= 12
    assert pyramids[0][0].shape == (3, 96, 96)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputNotFound, match="give a folder of"):
        load_pyramids([empty])


def test_patterns_are_pictures() -> None:
    for seed in range(20):
        picture = pattern(np.random.default_rng(seed), 64)
        assert picture.shape == (3, 64, 64)
        assert picture.min() >= 0
        assert picture.max() <= 255
