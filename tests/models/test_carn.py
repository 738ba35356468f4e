"""CARN-M against the official code's outputs (golden/README.md), and what its variants must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.cain_sd import CARNM
from models.cain_sd.carn import Sizes
from models.cain_sd.cost import carn_macs_per_pixel
from tests.models.named_weights import GOLDEN, named_like, named_value, picture, published_shapes


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    fixed = CARNM().state_dict()  # the mean shifts keep their own values
    return {
        name: fixed[name] if "shifter" in name else named_value(name, shape)
        for name, shape in published_shapes("carn_m.state_dict.json").items()
    }


@pytest.fixture(scope="module")
def official(published: dict[str, Tensor]) -> CARNM:
    return CARNM.from_reference(published)


@pytest.mark.parametrize("scale", [2, 4])
def test_the_enlarged_picture_is_the_official_one(official: CARNM, scale: int) -> None:
    golden = np.load(GOLDEN / "carn_m_48x64.npz")
    with torch.inference_mode():
        output = official(picture(golden["lr"]), scale)
    assert output.shape[1:] == golden[f"keyed_x{scale}"].shape
    assert np.abs(output[0].numpy() - golden[f"keyed_x{scale}"]).max() <= 1e-5


def test_the_default_network_has_the_published_names_and_sizes(published: dict[str, Tensor]) -> None:
    network = CARNM()
    assert {name: value.shape for name, value in network.to_reference().items()} == {
        name: value.shape for name, value in published.items()
    }
    assert sum(value.numel() for value in network.parameters()) == 414_811
    assert sum(value.numel() for value in network.parameters() if not value.requires_grad) == 24


@pytest.mark.parametrize("sizes", [Sizes(), Sizes(16, 2, (2, 4)), Sizes(8, 1, (4,)), Sizes(8, 4, (3,))])
def test_a_variants_sizes_are_read_off_its_tensors(sizes: Sizes) -> None:
    network = CARNM(sizes)
    again = CARNM.from_reference(network.to_reference())
    assert again.sizes == sizes
    scale = sizes.scales[0]
    image = torch.rand(2, 3, 5, 7)
    with torch.inference_mode():
        output = network(image, scale)
        assert torch.equal(output, again(image, scale))
    assert output.shape == (2, 3, 5 * scale, 7 * scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("sizes", [Sizes(), Sizes(24, 3)])
def test_the_stated_cost_is_what_torch_counts(scale: int, sizes: Sizes) -> None:
    network, image = CARNM(sizes), torch.rand(1, 3, 6, 8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image, scale)
    assert counter.get_total_flops() == 2 * carn_macs_per_pixel(scale, sizes) * 48 * scale**2


def test_wrong_arguments_and_checkpoints_are_named(published: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="scale is 5; this network enlarges by 2, 3, 4"):
        CARNM()(torch.rand(1, 3, 4, 4), 5)
    with pytest.raises(ValueError, match=r"scales are \(5,\)"):
        Sizes(scales=(5,))
    with pytest.raises(ValueError, match="width 10 is no multiple of groups 4"):
        Sizes(width=10)
    with pytest.raises(KeyError, match="not a CARN-M checkpoint: it has no tensor"):
        CARNM.from_reference({"conv.weight": torch.zeros(1)})
    with pytest.raises(KeyError, match=r"1 tensors missing \['exit\.bias'\], 1 unknown \['extra'\]"):
        CARNM.from_reference({**{k: v for k, v in published.items() if k != "exit.bias"}, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"exit\.bias has shape \[4\]"):
        CARNM.from_reference({**published, "exit.bias": torch.zeros(4)})


def test_gradients_reach_everything_but_the_mean_shifts() -> None:
    network = CARNM(Sizes(8, 2, (2, 4)))
    network.load_state_dict({**named_like(network.state_dict()), **{
        name: value for name, value in network.state_dict().items() if "shifter" in name
    }})  # fmt: skip
    image = torch.rand(1, 3, 8, 8)
    (network(image, 2).square().mean() + network(image, 4).square().mean()).backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == ("shifter" in name), name
