"""Matching without weights: known motions are found, what stands still stays, and sizes do not matter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import alignment
from models.alignment import align, match


def texture(height: int, width: int, seed: int = 3) -> Tensor:
    """Noise [1,3,height,width] in 0..1 of all sizes, as pictures have it."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 3, height, width)
    for cell in (4, 8, 16, 32, 64):
        coarse = torch.rand(1, 3, height // cell + 2, width // cell + 2, generator=generator) - 0.5
        total += cell**0.5 * F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return (0.5 + total / 12).clamp(0, 1)


def panned(dx: int, dy: int, *, moments: int = 3, height: int = 120, width: int = 160) -> list[Tensor]:
    """What a camera sees of a still texture, moved by (dx, dy) px a frame."""
    wide = texture(height + 200, width + 200)
    return [
        wide[..., 100 - dy * k : 100 - dy * k + height, 100 - dx * k : 100 - dx * k + width] for k in range(moments)
    ]


def psnr(picture: Tensor, wanted: Tensor, border: int = 24) -> float:
    inside = (..., slice(border, -border), slice(border, -border))
    return -10 * float((picture[inside] - wanted[inside]).square().mean().log10())


@pytest.mark.parametrize("motion", [(2, 0), (0, -5), (9, 6), (-20, 11), (0, 0)])
def test_the_motion_of_a_camera_is_found(motion: tuple[int, int]) -> None:
    first, _, last = panned(*motion)
    found = match(first, last)[0, :, 24:-24, 24:-24]
    wanted = torch.tensor([2.0 * motion[0], 2.0 * motion[1]])[:, None, None]
    assert (found - wanted).norm(dim=0).median() < 1.5


def test_both_frames_come_to_the_wanted_moment() -> None:
    frames = panned(4, -3, moments=5)
    flow = match(frames[0], frames[4])
    for index in (1, 2, 3):
        still = torch.lerp(frames[0], frames[4], index / 4)
        for picture in align(frames[0], frames[4], flow, index / 4):
            assert psnr(picture, frames[index]) > psnr(still, frames[index]) + 8


def test_equal_frames_stay_as_they_are() -> None:
    frame = texture(64, 80)
    flow = match(frame, frame)
    for picture in align(frame, frame, flow, 0.5):
        assert torch.equal(picture, frame)


def test_a_caption_does_not_move_with_what_is_behind_it() -> None:
    first, _, last = (frame.clone() for frame in panned(6, 0))
    caption = texture(24, 60, seed=8)
    for frame in (first, last):
        frame[..., 48:72, 50:110] = caption
    for picture in align(first, last, match(first, last), 0.5):
        assert torch.equal(picture[..., 50:70, 52:108], caption[..., 2:-2, 2:-2])


def test_light_that_changes_does_not_move() -> None:
    frame = texture(96, 128) * 0.6
    flow = match(frame, frame + 0.2)
    assert flow[..., 24:-24, 24:-24].abs().max() < 0.5


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (50, 300)])
def test_any_size_will_do(size: tuple[int, int]) -> None:
    first, last = texture(*size), texture(*size, seed=4)
    flow = match(first, last)
    assert flow.shape == (1, 2, *size)
    assert all(picture.shape == (1, 3, *size) and picture.isfinite().all() for picture in align(first, last, flow, 0.5))


def test_large_frames_are_searched_at_coarser_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, last = panned(12, -8, height=240, width=320)
    monkeypatch.setattr(alignment, "LARGEST", 120 * 160)
    coarse = match(first, last)
    wanted = torch.tensor([24.0, -16.0])[:, None, None]
    assert (coarse[0, :, 48:-48, 48:-48] - wanted).norm(dim=0).median() < 3


def test_pairs_do_not_depend_on_each_other() -> None:
    first, _, last = panned(5, 2)
    others = texture(120, 160, seed=9), texture(120, 160, seed=10)
    alone = match(first, last)
    together = match(torch.cat([first, others[0]]), torch.cat([last, others[1]]))
    torch.testing.assert_close(together[:1], alone, atol=1e-2, rtol=0)


def test_where_nothing_matches_nothing_moves_far_from_better_pictures() -> None:
    """Fine noise that coarse levels cannot see: what follows a wrong motion is no farther off than what stays."""
    generator = torch.Generator().manual_seed(5)
    wide = torch.rand(1, 3, 96, 140, generator=generator)
    first, last = wide[..., :128], wide[..., 3:131]
    followed = align(first, last, match(first, last), 0.5)
    assert (followed[0] - followed[1]).abs().mean() <= 1.02 * (first - last).abs().mean()


def test_frames_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        match(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 32))
