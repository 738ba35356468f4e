from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.dff import FlowNet
from models.dff.flownet import halved
from tests.models.dff_weights import CURRENT, KEY, SIZES, golden, images, published, relative, resized, shapes

WIDTHS = {"flownet": 1.0, "flownet_half": 0.5}


def compact(width: float = 1 / 16, scale_channels: int | None = 8) -> FlowNet:
    return FlowNet.from_reference(resized(FlowNet(width, scale_channels).to_reference()))


@pytest.mark.parametrize("name", WIDTHS)
def test_flow_and_scale_are_the_official_ones(name: str) -> None:
    network = FlowNet.from_reference(published(name))
    for size in SIZES:  # the second has sides that halve to odd numbers all the way down
        image = images(size)
        with torch.inference_mode():
            flow, scale = network(image[CURRENT : CURRENT + 1], image[KEY : KEY + 1])
        assert scale is not None
        assert relative(flow, golden(size)[f"{name}/flow"]) <= 1e-5
        assert relative(scale[:, ::8], golden(size)[f"{name}/scale"]) <= 1e-5


@pytest.mark.parametrize("name", WIDTHS)
def test_a_fresh_network_has_the_published_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        own = FlowNet(WIDTHS[name]).to_reference()
    assert {name: tuple(tensor.shape) for name, tensor in own.items()} == shapes(name)


@pytest.mark.parametrize("sizes", [{"width": 0.0625, "scale_channels": 8}, {"width": 0.125, "scale_channels": None}])
def test_sizes_are_read_off_the_tensors(sizes: dict[str, float | int | None]) -> None:
    network = FlowNet(**sizes)  # type: ignore[arg-type]
    again = FlowNet.from_reference(network.to_reference())
    assert again.sizes == sizes
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_an_untrained_scale_field_is_one_and_without_it_there_is_none() -> None:
    pair = torch.randn(2, 1, 3, 64, 64) * 50
    _, scale = FlowNet(1 / 16, 8).eval()(*pair)
    assert torch.equal(scale, torch.ones(1, 8, 4, 4))
    assert FlowNet(1 / 16, None).eval()(*pair)[1] is None


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 33), (47, 90), (65, 127)])
def test_any_size_gives_a_cell_for_every_16_pixels_or_part_of_them(height: int, width: int) -> None:
    with torch.inference_mode():
        flow, scale = compact()(*torch.randn(2, 1, 3, height, width))
    assert flow.shape == (1, 2, -(-height // 16), -(-width // 16))
    assert scale.shape == (1, 8, *flow.shape[2:])


@pytest.mark.parametrize("size", [(8, 12), (7, 12), (9, 5), (1, 1)])
def test_images_are_halved_as_published(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(halved(x), F.avg_pool2d(x, 2, ceil_mode=True), rtol=1e-6, atol=1e-6)


def test_current_and_key_are_not_interchangeable() -> None:
    network, (a, b) = compact(), torch.randn(2, 1, 3, 64, 64) * 50
    with torch.inference_mode():
        assert (network(a, b)[0] - network(b, a)[0]).abs().max() > 1e-3


def test_a_pairs_bits_do_not_depend_on_its_batch() -> None:
    network, (a, b) = compact(), torch.randn(2, 3, 3, 50, 70) * 50
    with torch.inference_mode():
        together = network(a, b)
        alone = [network(x[None], y[None]) for x, y in zip(a, b, strict=True)]
    assert torch.equal(together[0], torch.cat([flow for flow, _ in alone]))
    assert torch.equal(together[1], torch.cat([scale for _, scale in alone]))


def test_every_parameter_learns_from_flow_and_scale() -> None:
    network = compact().train()
    flow, scale = network(*(torch.randn(2, 1, 3, 128, 128) * 50))
    (flow.square().sum() + scale.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_under_autocast_the_flow_stays_fp32_and_near() -> None:
    network, pair = compact(), torch.randn(2, 1, 3, 64, 64) * 50
    with torch.inference_mode():
        exact: Tensor = network(*pair)[0]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(*pair)[0]
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"got \[1, 3, 32, 32\] and \[1, 3, 32, 48\]"):
        compact()(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 48))
    with pytest.raises(ValueError, match=r"width is 0\.001"):
        FlowNet(0.001)
    tensors = compact().to_reference()
    del tensors["arg:Convolution5_scale_weight"]
    with pytest.raises(KeyError, match="arg:Convolution5_scale_weight"):
        FlowNet.from_reference(tensors)
