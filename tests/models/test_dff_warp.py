from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.dff import cells_from_pixels, warp
from tests.models.dff_weights import SIZES, features, golden, relative


def official(features: Tensor, flow: Tensor, scale: Tensor) -> Tensor:
    """As the official graph has it: grid_sample between the outermost centres, zeros outside."""
    height, width = features.shape[-2:]
    x = torch.arange(width) + flow[:, 0]
    y = torch.arange(height)[:, None] + flow[:, 1]
    grid = torch.stack([x / ((width - 1) / 2) - 1, y / ((height - 1) / 2) - 1], -1)
    return F.grid_sample(features, grid, padding_mode="zeros", align_corners=True) * scale


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["flownet", "flownet_half"])
def test_propagated_features_are_the_official_ones(size: str, name: str) -> None:
    expected = golden(size)
    flow, scale = (torch.from_numpy(expected[f"{name}/{part}"]) for part in ("flow", "scale"))
    propagated = warp(features(size)["key"][:, ::8], flow, scale)
    assert relative(propagated, expected[f"{name}/propagated"]) <= 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_features_flow_and_scale_of_our_own_propagate_to_the_official_features(size: str) -> None:
    # Looser than each alone: a flow that is 1e-6 off its largest value reads features 1e-5 off theirs.
    assert relative(features(size)["cur"][:, ::8], golden(size)["flownet/propagated"]) <= 3e-5


@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_all_gradients_are_grid_samples(channels_last: bool) -> None:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    inputs = [torch.randn(2, 16, 9, 13), 4 * torch.randn(2, 2, 9, 13), torch.randn(2, 16, 9, 13)]
    ours, theirs = ([x.clone(memory_format=layout).requires_grad_() for x in inputs] for _ in range(2))
    target = torch.randn(2, 16, 9, 13)
    (warp(*ours) * target).sum().backward()
    (official(*theirs) * target).sum().backward()
    assert (warp(*ours) - official(*theirs)).abs().max() <= 1e-5
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine.grad - reference.grad).abs().max() <= 2e-5 * max(1, reference.grad.abs().max())


def test_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(1)
    # In the middle between cells, away from where bilinear reading has a kink.
    flow = (torch.randint(-3, 4, (1, 2, 4, 5)) + 0.3 + 0.4 * torch.rand(1, 2, 4, 5)).double().requires_grad_()
    key, scale = (torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    # Positions are fp32, so differences are taken over a step that fp32 resolves.
    assert torch.autograd.gradcheck(warp, (key, flow, scale), eps=1e-3, atol=1e-3)


def test_no_motion_gives_the_features_bit_for_bit() -> None:
    key = torch.randn(1, 8, 38, 63)
    assert torch.equal(warp(key, torch.zeros(1, 2, 38, 63)), key)


def test_whole_cells_move_features_and_what_comes_from_outside_is_zero() -> None:
    key = torch.randn(1, 4, 6, 7)
    flow = torch.tensor([2.0, -1.0])[None, :, None, None].expand(1, 2, 6, 7)
    expected = torch.zeros_like(key)
    expected[:, :, 1:, :5] = key[:, :, :5, 2:]
    assert torch.equal(warp(key, flow), expected)


def test_at_the_border_features_fade_within_one_cell() -> None:
    key = torch.ones(1, 1, 3, 3)
    flow = torch.zeros(1, 2, 3, 3)
    flow[:, 0] = -0.25
    assert torch.allclose(warp(key, flow)[0, 0, :, 0], torch.full((3,), 0.75))


def test_one_key_frame_serves_many_flows() -> None:
    key, flow = torch.randn(1, 4, 6, 7), torch.randn(3, 2, 6, 7)
    assert torch.equal(warp(key, flow), torch.cat([warp(key, one[None]) for one in flow]))
    assert torch.equal(warp(key, flow), warp(key.expand(3, -1, -1, -1), flow))


def test_bf16_features_are_read_at_fp32_positions() -> None:
    key = torch.arange(600.0)[None, None, None].bfloat16()
    flow = torch.zeros(1, 2, 1, 600)
    flow[:, 0] = -1
    assert torch.equal(warp(key, flow)[..., 1:], key[..., :-1])


def test_a_flow_that_is_not_finite_shows_and_does_not_crash() -> None:
    flow = torch.zeros(1, 2, 4, 4)
    flow[0, 0, 1, 1], flow[0, 1, 2, 2] = float("nan"), float("inf")
    out = warp(torch.ones(1, 2, 4, 4), flow)
    assert out[0, :, 1, 1].isnan().all()
    assert not out[0, :, 2, 2].eq(1).any()
    assert out.eq(1).sum() == 2 * 14


def test_wrong_shapes_are_named() -> None:
    key, flow = torch.zeros(2, 4, 6, 7), torch.zeros(3, 2, 6, 7)
    with pytest.raises(ValueError, match="2 key frames do not fit 3 flows"):
        warp(key, flow)
    with pytest.raises(ValueError, match=r"it is \[3, 2, 6, 8\]"):
        warp(key, torch.zeros(3, 2, 6, 8))
    with pytest.raises(ValueError, match=r"scale is \[1, 4, 6, 7\]; it must be \[3, 4, 6, 7\]"):
        warp(key[:1], flow, torch.zeros(1, 4, 6, 7))


def test_a_flow_of_pixels_becomes_the_mean_of_each_cell_in_cells() -> None:
    flow = torch.zeros(1, 2, 20, 32)
    flow[:, 0] = 8
    flow[:, 1, :, 16:] = 32
    cells = cells_from_pixels(flow, 16)
    assert torch.equal(cells[0, 0], torch.full((2, 2), 0.5))
    assert torch.equal(cells[0, 1], torch.tensor([[0.0, 2.0], [0.0, 2.0]]))
