"""Copying what stands still, without erasing what passes between the two frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.rife.static import copy_static


def texture(height: int = 48, width: int = 64, seed: int = 0) -> Tensor:
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


def test_an_overlay_over_a_moving_background_is_copied_to_its_edges() -> None:
    scene = texture(48, 80)
    overlay = torch.zeros(1, 1, 48, 64, dtype=torch.bool)
    overlay[..., 10:14, 8:56] = True
    before, middle, after = (torch.where(overlay, 0.9, scene[..., 8 + k : 72 + k]) for k in (-4, 0, 4))
    # What a flow that follows the background everywhere makes of it: the overlay smears.
    warped = (before.roll(-4, 3), after.roll(4, 3))
    smeared = (warped[0] + warped[1]) / 2
    assert ((smeared - middle).abs() * overlay).max() > 0.1
    result = copy_static(smeared, before, after, warped)
    assert ((result - middle).abs() * overlay).max() < 1e-6
    assert torch.equal(result[..., 16:, :], smeared[..., 16:, :]), "the background that moves is left alone"


def test_what_passes_between_the_frames_over_a_still_background_stays() -> None:
    background = texture()
    rows, columns = torch.arange(48)[:, None], torch.arange(64)

    def ball(at: int) -> Tensor:
        inside = (rows - 24) ** 2 + (columns - at) ** 2 <= 36
        return torch.where(inside, torch.tensor([0.9, 0.1, 0.1])[:, None, None], background)

    before, middle, after = ball(14), ball(32), ball(50)
    result = copy_static(middle, before, after, (middle, middle))  # flows that follow the ball
    assert torch.equal(result, middle)
    naive = torch.where((before == after).all(1, keepdim=True), before, middle)
    assert (naive - middle).abs().max() > 0.3, "copying every equal pixel would erase it"


def test_a_pair_of_equal_frames_gives_that_frame_and_inputs_are_not_written_to() -> None:
    frame, made = texture(), texture(seed=1) * 0.02
    noisy = (frame + made).clamp(0, 1)
    before = frame.clone()
    result = copy_static(noisy, frame, frame, (frame - made, frame + made))
    assert torch.equal(result, frame)
    assert torch.equal(frame, before)


@pytest.mark.parametrize("step", [1, 5])
def test_a_pixel_that_changes_by_one_grey_level_is_not_equal(step: int) -> None:
    frame = torch.full((1, 3, 16, 16), 100 / 255)
    other = frame.clone()
    other[:, 1, 4, 4] += step / 255
    made = torch.full_like(frame, 0.7)
    result = copy_static(made, frame, other, (torch.zeros_like(frame), torch.ones_like(frame)))
    assert torch.equal(result[:, :, 4, 4], made[:, :, 4, 4])
    assert torch.allclose(result[:, :, 10, 10], frame[:, :, 10, 10])
