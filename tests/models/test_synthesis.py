"""Softmax splatting, and both frames at a moment: whole steps are exact, nothing is lost but over the edge."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.alignment import align, to_middle
from models.synthesis import splatting
from models.synthesis.moment import Between, compose
from models.synthesis.splatting import softmax_splat
from tests.models.test_alignment import panned, psnr, texture


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def shifted(dx: float, dy: float, like: Tensor) -> Tensor:
    return torch.tensor([dx, dy], dtype=like.dtype).reshape(1, 2, 1, 1).expand(len(like), 2, *like.shape[-2:])


@given(dx=st.integers(-9, 9), dy=st.integers(-9, 9), height=st.integers(1, 12), width=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_whole_steps_move_pixels_exactly_and_leave_holes(dx: int, dy: int, height: int, width: int) -> None:
    x = noise(2, 3, height, width)
    found = softmax_splat(x, shifted(dx, dy, x), 5 * noise(2, 1, height, width, seed=1))
    wanted, arrived = torch.zeros_like(x), torch.zeros(2, 1, height, width)
    for row in range(height):
        for column in range(width):
            if 0 <= row + dy < height and 0 <= column + dx < width:
                wanted[..., row + dy, column + dx] = x[..., row, column]
                arrived[..., row + dy, column + dx] = 1
    torch.testing.assert_close(found.value, wanted)
    assert torch.equal(found.arrived, arrived)


def test_as_much_arrives_as_stays_within_the_picture() -> None:
    x = noise(1, 3, 24, 32)
    flow = 6 * noise(1, 2, 24, 32, seed=2) - 3
    flow[..., :4, :], flow[..., -4:, :], flow[..., :4], flow[..., -4:] = 0, 0, 0, 0  # nothing gets over the edge
    found = softmax_splat(x, flow, 3 * noise(1, 1, 24, 32, seed=3))
    assert float(found.arrived.sum()) == pytest.approx(24 * 32, rel=1e-5)
    seen = found.arrived > 0
    assert bool((found.value.amin(1, keepdim=True)[seen] >= x.min() - 1e-6).all())
    assert bool((found.value.amax(1, keepdim=True)[seen] <= x.max() + 1e-6).all())
    assert bool((found.value[(~seen).expand_as(x)] == 0).all())


def test_parts_of_a_pixel_are_shared_out_bilinearly() -> None:
    x = torch.zeros(1, 1, 3, 4)
    x[..., 1, 1] = 1
    flow = torch.full((1, 2, 3, 4), 100.0)  # all others leave
    flow[..., 1, 1] = torch.tensor([0.25, -0.5])
    found = softmax_splat(x, flow)
    wanted = torch.zeros(3, 4)
    wanted[0:2, 1:3] = torch.tensor([[0.75, 0.25], [0.75, 0.25]]) * 0.5
    torch.testing.assert_close(found.arrived[0, 0], wanted)
    assert torch.equal(found.value[0, 0], (wanted > 0).float())


def test_where_two_meet_the_more_important_one_is_seen_whatever_the_scale() -> None:
    x = torch.tensor([[[[0.2, 0.0, 0.9]]]])
    flow = torch.tensor([[[[1.0, 9.0, -1.0]], [[0.0, 0.0, 0.0]]]])
    for level in (0.0, 500.0, -500.0):
        alike, apart = (
            float(softmax_splat(x, flow, torch.tensor([[[[level, level, level + more]]]])).value[0, 0, 0, 1])
            for more in (0.0, 20.0)
        )
        assert alike == pytest.approx(0.55)
        assert apart == pytest.approx(0.9)


def test_gradients_are_those_of_the_formula() -> None:
    x = noise(1, 2, 4, 5, dtype=torch.float64).requires_grad_()
    flow = (2 * noise(1, 2, 4, 5, seed=4, dtype=torch.float64) - 1).requires_grad_()
    importance = noise(1, 1, 4, 5, seed=5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(softmax_splat, (x, flow, importance))


def test_splatting_does_not_depend_on_threads() -> None:
    x, importance = noise(1, 3, 200, 300), noise(1, 1, 200, 300, seed=6)
    flow = 30 * noise(1, 2, 200, 300, seed=7) - 15
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(softmax_splat(x, flow, importance))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert torch.equal(other.value, found[0].value)
        assert torch.equal(other.arrived, found[0].arrived)


def test_in_whole_numbers_as_on_a_gpu_the_order_of_the_pixels_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x, importance = 100 * noise(1, 2, 60, 80) - 50, 8 * noise(1, 1, 60, 80, seed=6)
    flow = 30 * noise(1, 2, 60, 80, seed=7) - 15
    found = {}
    for whole in (False, True):
        monkeypatch.setattr(splatting, "_in_whole_numbers", lambda carried, whole=whole: whole)
        found[whole] = softmax_splat(x, flow, importance)
        turned = softmax_splat(x.mT.contiguous(), flow.flip(1).mT.contiguous(), importance.mT.contiguous())
        assert torch.equal(turned.value.mT, found[whole].value) == whole
    torch.testing.assert_close(found[True].value, found[False].value, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(found[True].arrived, found[False].arrived, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("flow", "importance"), [((1, 2, 4, 5), None), ((1, 3, 4, 4), None), ((1, 2, 4, 4), (1, 2, 4, 4))]
)
def test_shapes_that_do_not_belong_together_are_refused(
    flow: tuple[int, ...], importance: tuple[int, ...] | None
) -> None:
    with pytest.raises(ValueError, match="for a picture of"):
        softmax_splat(
            torch.zeros(1, 3, 4, 4), torch.zeros(flow), None if importance is None else torch.zeros(importance)
        )


def test_both_ends_of_the_interval_are_the_frames_themselves() -> None:
    first, _, last = panned(7, -4)
    between = Between(first, last)
    nonsense = texture(120, 160, seed=5)
    for t, frame in ((0.0, first), (1.0, last)):
        torch.testing.assert_close(compose(*between.at(t), nonsense, t), frame, atol=1e-4, rtol=0)


def test_at_the_middle_all_is_as_if_it_were_the_only_moment() -> None:
    first, _, last = panned(7, -4)
    brought = Between(first, last).at(0.5)
    assert all(torch.equal(a, b) for a, b in zip(brought, to_middle(first, last), strict=True))
    assert torch.equal(compose(*brought, last, 0.5), last)


def test_a_correction_fades_towards_the_ends_and_the_average_has_the_weights_of_the_time() -> None:
    first, last = noise(1, 3, 4, 4), noise(1, 3, 4, 4, seed=1)
    average = (first + last) / 2
    for t, share in ((0.25, 0.75), (0.75, 0.75), (0.1, 0.36)):
        found = compose(first, last, average + 0.1, t)
        torch.testing.assert_close(found, (1 - t) * first + t * last + 0.1 * share)


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_pan_is_followed_to_any_moment(index: int) -> None:
    frames = panned(5, -3, moments=5)
    followed = torch.lerp(*Between(frames[0], frames[4]).at(index / 4), index / 4)
    average = torch.lerp(frames[0], frames[4], index / 4)
    assert psnr(followed, frames[index]) > psnr(average, frames[index]) + 8


def test_of_a_thing_before_a_background_the_motion_arrives_where_the_thing_is() -> None:
    behind, thing = texture(96, 160), texture(40, 40, seed=9)

    def shown(left: int) -> Tensor:
        frame = behind.clone()
        frame[..., 28:68, left : left + 40] = thing
        return frame

    first, last = shown(40), shown(64)
    motion = torch.zeros(1, 2, 96, 160)  # as the middle sees it
    motion[:, 0, 28:68, 52:92] = 24
    for t, left in ((0.25, 46), (0.75, 58)):
        inner = (..., slice(30, 66), slice(left + 2, left + 38))
        followed = torch.lerp(*Between(first, last, motion).at(t), t)
        not_splatted = torch.lerp(*align(first, last, motion, t), t)
        errors = [float((found - shown(left))[inner].abs().mean()) for found in (followed, not_splatted)]
        assert errors[0] < 0.002
        assert errors[1] > 0.01


def test_what_a_moved_thing_uncovers_takes_the_motion_around_it() -> None:
    first, last = texture(64, 96), texture(64, 96, seed=2)
    motion = torch.full((1, 2, 64, 96), 4.0)
    motion[:, :, 20:44, 30:60] = 24
    found = Between(first, last, motion).splatted(0.0)
    assert bool(found.isfinite().all())
    assert float(found.min()) > 3.9
    assert float(found.max()) < 24.1
    assert float(found[..., 10:30, 54:60].mean()) < 6, "the thing was here at the middle, and is not at the start"


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (50, 31)])
def test_any_size_will_do(size: tuple[int, int]) -> None:
    first, last = texture(*size), texture(*size, seed=4)
    for picture in Between(first, last).at(0.3):
        assert picture.shape == (1, 3, *size)
        assert bool(picture.isfinite().all())
