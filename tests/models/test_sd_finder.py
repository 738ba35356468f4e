"""The choice of scale and depth: what each net sees, honest draws, the price on FLOPs, and the paper's counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.cain_sd import CAIN
from models.cain_sd import cost as costs
from models.cain_sd.carn import Sizes as SuperResolution
from models.cain_sd.sd_finder import (
    Logits,
    SDFinder,
    Window,
    mean_over,
    motion_magnitude,
    resource_loss,
    shrink,
    straight_through,
)
from pipeline.plan.cost import cain_macs

WHOLE = [Window(0, 0, 64, 96)]
QUARTERS = [Window(top, left, 32, 48) for top in (0, 32) for left in (0, 48)]


def still(frame0: Tensor, frame1: Tensor) -> Tensor:
    return torch.zeros(frame0.shape[0], 2, *frame0.shape[-2:])


def pair(seed: int = 0, count: int = 2) -> tuple[Tensor, Tensor]:
    first, second = torch.rand(2, count, 3, 64, 96, generator=torch.Generator().manual_seed(seed))
    return first, second


def finder() -> SDFinder:
    torch.manual_seed(0)
    return SDFinder()


# Networks


def test_every_patch_gets_its_logits_and_a_batch_changes_none() -> None:
    network, (first, second) = finder(), pair()
    with torch.inference_mode():
        logits = network(first, second, QUARTERS, still)
        alone = network(first[1:], second[1:], QUARTERS, still)
    assert logits.scale.shape == (2, 4, 3)
    assert logits.depth.shape == (2, 4, 5)
    assert torch.allclose(logits.depth[1:], alone.depth, atol=1e-6)


def test_scale_follows_motion_alone_and_depth_the_difference_alone() -> None:
    network, (first, second) = finder(), pair()

    def moving(frame0: Tensor, frame1: Tensor) -> Tensor:
        return still(frame0, frame1) + 3

    with torch.inference_mode():
        base = network(first, second, QUARTERS, still)
        moved = network(first, second, QUARTERS, moving)
        brighter = network(first * 0.5 + 0.25, second * 0.5 + 0.25, QUARTERS, still)
        both = network(first + 0.1, second + 0.1, QUARTERS, still)
    assert torch.equal(base.depth, moved.depth)
    assert not torch.allclose(base.scale, moved.scale)
    assert torch.equal(base.scale, brighter.scale)
    assert not torch.allclose(base.depth, brighter.depth)
    assert torch.allclose(base.depth, both.depth, atol=1e-5), "what both frames share is no difference"


def test_the_flow_network_is_asked_both_ways_on_small_frames_and_gets_no_gradient() -> None:
    asked: list[tuple[tuple[int, ...], float]] = []
    gain = torch.ones((), requires_grad=True)

    def motion(frame0: Tensor, frame1: Tensor) -> Tensor:
        asked.append((tuple(frame0.shape), float((frame0 - frame1).mean())))
        return gain * (frame0 - frame1)[:, :2]

    network = finder()
    first, second = torch.rand(2, 1, 3, 384, 500)
    logits = network(first, second, [Window(0, 0, 384, 500)], motion)
    (logits.scale.sum() + logits.depth.sum()).backward()
    assert [shape for shape, _ in asked] == [(1, 3, 192, 250)] * 2
    assert asked[0][1] == pytest.approx(-asked[1][1])
    assert gain.grad is None
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_magnitude_is_the_larger_of_both_directions() -> None:
    forward = torch.tensor([[[[3.0, 0.0, 3.0]], [[0.0, 0.0, 4.0]]]])
    backward = torch.tensor([[[[0.0, 0.0, 1.0]], [[0.0, 4.0, 1.0]]]])
    assert motion_magnitude(forward, backward).flatten().tolist() == [3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("size", "small"), [((1080, 2048), (192, 364)), ((720, 1280), (192, 341)), ((100, 150), (100, 150))]
)
def test_small_frames_have_a_short_side_of_192_and_are_never_enlarged(
    size: tuple[int, int], small: tuple[int, int]
) -> None:
    assert shrink(torch.zeros(1, 3, *size)).shape[-2:] == small


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_the_mean_over_a_window_sees_its_cells_and_no_others(height: int, width: int, data: st.DataObject) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    cells = torch.full((1, 1, height, width), 5.0)
    cells[..., top : top + window.height, left : left + window.width] = 1.0
    assert mean_over(cells, [window], (height, width)).item() == pytest.approx(1.0)
    coarse = torch.rand(1, 2, -(-height // 4), -(-width // 4))
    assert torch.isfinite(mean_over(coarse, [window], (height, width))).all()


def test_windows_outside_the_frame_and_empty_lists_are_refused() -> None:
    network, (first, second) = finder(), pair()
    for window in (Window(0, 0, 65, 96), Window(-1, 0, 8, 8), Window(0, 0, 0, 8)):
        with pytest.raises(ValueError, match="does not lie in a frame of 64x96"):
            network(first, second, [window], still)
    with pytest.raises(ValueError, match="no windows"):
        network(first, second, [], still)


# Draws


def test_draws_are_one_hot_and_as_frequent_as_the_softmax_says() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0]).expand(20_000, 3)
    draws = straight_through(logits, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(draws.sum(-1), torch.ones(20_000))
    assert ((draws - draws.round()).abs() < 1e-6).all()
    assert torch.allclose(draws.mean(0), torch.softmax(logits[0], -1), atol=0.01)


def test_the_gradient_is_the_tempered_softmax_s_and_the_same_seed_draws_the_same() -> None:
    logits = torch.tensor([[0.3, -0.2, 0.9]], requires_grad=True)
    weights = torch.tensor([1.0, 5.0, 25.0])
    draws = [straight_through(logits, tau=0.7, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*draws)
    (draws[0] * weights).sum().backward()
    uniform = torch.rand(1, 3, generator=torch.Generator().manual_seed(4))
    again = logits.detach().clone().requires_grad_()
    noise = -torch.log(-torch.log(uniform))
    (torch.softmax((torch.log_softmax(again, -1) + noise) / 0.7, -1) * weights).sum().backward()
    assert torch.allclose(logits.grad, again.grad, atol=1e-6)
    assert logits.grad.abs().max() > 0.1


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    draw = straight_through(logits)
    draw.sum().backward()
    assert torch.isfinite(draw).all()
    assert torch.isfinite(logits.grad).all()


# What it costs


def test_the_resource_loss_is_the_paper_s_formula_by_hand() -> None:
    table = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, 30.0, 40.0, 50.0], [0.1, 0.2, 0.3, 0.4, 0.5]])
    scale, depth = torch.eye(3)[[1, 2]][None], torch.eye(5)[[0, 4]][None]
    windows = [Window(0, 0, 10, 10), Window(0, 5, 10, 20)]
    loss = resource_loss(scale, depth, table, windows, (10, 25), scale_weight=2.0, depth_weight=3.0)
    by_hand = (100 * (2 * 10 + 3 * 10) + 200 * (2 * 0.5 + 3 * 0.5)) / 250
    assert loss.tolist() == pytest.approx([by_hand])


def test_each_choice_is_charged_at_the_other_as_drawn() -> None:
    table = torch.tensor(costs.patch_flops_per_pixel())
    logits = Logits(torch.zeros(1, 1, 3, requires_grad=True), torch.zeros(1, 1, 5, requires_grad=True))
    drawn = [straight_through(each, generator=torch.Generator().manual_seed(3)) for each in logits]
    resource_loss(drawn[0], drawn[1], table, WHOLE, (64, 96), scale_weight=0.0, depth_weight=1.0).sum().backward()
    assert logits.depth.grad is not None
    assert logits.depth.grad.abs().max() > 0
    assert logits.scale.grad is None or logits.scale.grad.abs().max() == 0


def test_the_paper_s_first_table_is_reproduced() -> None:
    assert round(costs.paper_flops(1080, 2048) / 1e12, 3) == 3.133
    assert round(costs.paper_flops(720, 1280) / 1e12, 3) == 1.305


def test_patches_cost_what_the_specification_s_table_says() -> None:
    table = [[65536 * value / 1e9 for value in row] for row in costs.patch_flops_per_pixel()]
    expected = [
        [19.03, 36.01, 53.00, 69.99, 86.97],
        [17.72, 21.97, 26.22, 30.46, 34.71],
        [5.81, 6.87, 7.93, 8.99, 10.06],
    ]
    for row, wanted in zip(table, expected, strict=True):
        assert row == pytest.approx(wanted, abs=0.0051)


def test_the_plan_and_the_networks_count_alike() -> None:
    small = {"channels": 48, "rcabs": 3, "groups": 2, "shuffle": 4}
    network, frame = CAIN(**small, reduction=16), torch.rand(1, 3, 32, 48)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(frame, frame, 2, pad_multiple=4)
    per_pixel = costs.cain_macs_per_pixel(2, channels=48, rcabs=3, shuffle=4)
    assert per_pixel * 32 * 48 == cain_macs(32, 48, 48, 3, 4, 2, 4)
    assert counter.get_total_flops() == 2 * per_pixel * 32 * 48


def test_a_cheaper_super_resolution_makes_scaled_patches_cheaper_and_native_ones_not() -> None:
    full, light = (costs.patch_flops_per_pixel(super_resolution=s) for s in (None, SuperResolution(32, 4)))
    assert full[0] == light[0]
    assert all(a > b for a, b in zip(full[1] + full[2], light[1] + light[2], strict=True))
