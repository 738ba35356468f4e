"""PWC-Net against the official code's outputs (golden/README.md), and flows whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.cain_sd import PWCNet
from models.cain_sd.cost import pwcnet_macs
from models.cain_sd.pwcnet import RADIUS, WIDTHS, cost_volume, warp
from models.enlarge import Enlarge
from tests.models.named_weights import GOLDEN, named_value, picture, published_shapes


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    shapes = published_shapes("pwc_net.state_dict.json")
    return {name: named_value(name, shape, gain=1.5) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def official(published: dict[str, Tensor]) -> PWCNet:
    return PWCNet.from_reference(published)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "pwc_64x128_g1.5.npz"))


def test_every_level_is_the_official_one(official: PWCNet, golden: dict[str, np.ndarray]) -> None:
    with torch.inference_mode():
        flows = official.levels(picture(golden["im0"]), picture(golden["im1"]))
    assert sorted(flows) == [2, 3, 4, 5, 6]
    for level, flow in flows.items():
        # The tolerance is in pixels, and the network's unit is twenty of them.
        assert 20 * np.abs(flow[0].numpy() - golden[f"flow{level}"]).max() <= 1e-4, level


def test_the_flow_is_the_finest_level_in_pixels_at_the_frames_size(
    official: PWCNet, golden: dict[str, np.ndarray]
) -> None:
    with torch.inference_mode():
        flow = official(picture(golden["im0"]), picture(golden["im1"]))
    assert flow.shape == (1, 2, 64, 128)
    quarter = torch.nn.functional.avg_pool2d(flow[..., 1:-1, 1:-1], 2)  # about where level 2's cells lie
    fine = torch.from_numpy(20 * golden["flow2"])[None]
    assert (flow.mean() - fine.mean()).abs() < 0.02 * fine.abs().max()
    assert quarter.abs().max() <= fine.abs().max() + 1e-3


def test_a_frame_of_another_size_gets_its_own_pixels(official: PWCNet, golden: dict[str, np.ndarray]) -> None:
    """Stretched by 3/4 and 7/8, the frames are worked on at the size they had: flow shrinks as they did."""
    frames = [picture(golden[key]) for key in ("im0", "im1")]
    small = [torch.nn.functional.interpolate(f, size=(56, 96), mode="bilinear") for f in frames]
    with torch.inference_mode():
        flow = official(*small)
        again = [torch.nn.functional.interpolate(f, size=(64, 128), mode="bilinear") for f in small]
        whole = torch.nn.functional.interpolate(official(*again), size=(56, 96), mode="bilinear")
    assert flow.shape == (1, 2, 56, 96)
    assert torch.allclose(flow[:, 0], 0.75 * whole[:, 0], atol=1e-4)
    assert torch.allclose(flow[:, 1], 0.875 * whole[:, 1], atol=1e-4)


def test_the_cost_volume_is_the_official_one() -> None:
    golden = np.load(GOLDEN / "corr81.npz")
    costs = cost_volume(torch.from_numpy(golden["a"]), torch.from_numpy(golden["b"]))
    assert np.abs(costs.numpy() - golden["out"]).max() <= 1e-6


def test_the_masked_warp_is_the_official_one() -> None:
    golden = np.load(GOLDEN / "warp.npz")
    warped = warp(torch.from_numpy(golden["x"]), torch.from_numpy(golden["flow"]))
    assert np.abs(warped.numpy() - golden["out"]).max() <= 1e-6


def test_the_cheapest_match_lies_where_things_moved_to() -> None:
    torch.manual_seed(0)
    first = torch.randn(1, 32, 12, 14)
    second = first.roll((2, -3), (2, 3))  # 2 down, 3 left
    best = cost_volume(first, second).argmax(1)[0, 4:-4, 4:-4]
    assert (best == 9 * (2 + RADIUS) + (-3 + RADIUS)).all()


def test_the_network_has_the_published_names_and_sizes(published: dict[str, Tensor]) -> None:
    network = PWCNet()
    assert {name: value.shape for name, value in network.to_reference().items()} == {
        name: value.shape for name, value in published.items()
    }
    assert sum(value.numel() for value in network.parameters()) == 9_374_340


def test_the_stated_cost_is_what_torch_counts_plus_the_cost_volumes(
    official: PWCNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Enlarge, "forward", torch.nn.ConvTranspose2d.forward)  # ours adds a row and a column of cells
    frame = torch.rand(1, 3, 60, 100)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        official(frame, frame)
    volumes = sum((2 * RADIUS + 1) ** 2 * WIDTHS[level - 1] * (64 * 128 >> 2 * level) for level in range(2, 7))
    assert counter.get_total_flops() / 2 + volumes == pwcnet_macs(60, 100)
    assert pwcnet_macs(192, 364) == pytest.approx(13.54e9, rel=1e-3)  # specs: the small frame of 2048x1080


def test_wrong_frames_and_checkpoints_are_named(official: PWCNet, published: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"got \[1, 3, 8, 8\] and \[1, 3, 8, 9\]"):
        official(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9))
    rest = {name: value for name, value in published.items() if name != "dc_conv7.bias"}
    with pytest.raises(KeyError, match=r"not a checkpoint of PWC-Net: 1 tensors missing \['dc_conv7\.bias'\]"):
        PWCNet.from_reference(rest)
    with pytest.raises(ValueError, match=r"dc_conv7\.bias has shape \[3\]; PWC-Net needs \[2\]"):
        PWCNet.from_reference({**rest, "dc_conv7.bias": torch.zeros(3)})
