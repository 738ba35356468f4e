"""RIFE 4.14's IFNet against the reference's outputs (golden/README.md), and what its callers rely on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.enlarge import Enlarge
from models.rife import SCALES, IFNet
from models.rife.checkpoint import Sizes
from models.rife.cost import block_macs, encode_macs
from models.rife.ifnet import padding_multiple
from models.rife.warp import grid_of, warp
from tests.models.named_weights import GOLDEN, named_like, named_value, picture, published_shapes

COMPACT = Sizes(widths=(24, 16, 16, 8), convs=2, hidden=8, features=4)


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return {name: named_value(name, shape) for name, shape in published_shapes("rife414.state_dict.json").items()}


@pytest.fixture(scope="module")
def official(published: dict[str, Tensor]) -> IFNet:
    return IFNet.from_reference(published)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """Outputs keep every third pixel of the original file: no stride of the network hides between them."""
    return dict(np.load(GOLDEN / "rife414_128x192.npz"))


@pytest.fixture(scope="module")
def frames(golden: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    return picture(golden["in0"]), picture(golden["in1"])


def compact(seed: int = 0) -> IFNet:
    torch.manual_seed(seed)
    network = IFNet(COMPACT)
    network.load_state_dict(named_like(network.state_dict()))
    return network.eval()


def assert_near(value: Tensor, golden: np.ndarray) -> None:
    assert np.abs(value[..., ::3, ::3].numpy() - golden).max() <= 1e-5


@pytest.mark.parametrize("t", [0.5, 0.25])
def test_every_block_gives_the_reference_s_frame_and_the_last_its_flow_and_mask(
    official: IFNet, golden: dict[str, np.ndarray], frames: tuple[Tensor, Tensor], t: float
) -> None:
    key = f"t0{100 * t:.0f}"
    with torch.inference_mode():
        first, second = (official.encode_frame(frame) for frame in frames)
        assert np.abs(first.features[..., ::4, ::4].numpy() - golden["encode0"]).max() <= 1e-5
        found = list(official.exits(first, second, t))
    for index, synthesis in enumerate(found):
        assert_near(synthesis.frame, golden[f"{key}_out{index}"])
    assert_near(found[-1].flow, golden[f"{key}_flow3"])
    assert_near(found[-1].mask, golden[f"{key}_mask3"])


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("ens", {"ensemble": True}),
        ("scale05", {"scales": [2 * scale for scale in SCALES]}),
        ("scale2", {"scales": [scale / 2 for scale in SCALES]}),
    ],
)
def test_ensemble_and_other_scales_are_the_reference_s(
    official: IFNet, golden: dict[str, np.ndarray], frames: tuple[Tensor, Tensor], key: str, options: dict[str, object]
) -> None:
    with torch.inference_mode():
        assert_near(official(*frames, 0.5, **options), golden[f"{key}_t050_out3"])


def test_sizes_that_do_not_divide_are_padded_as_the_reference_pads(
    official: IFNet, golden: dict[str, np.ndarray], frames: tuple[Tensor, Tensor]
) -> None:
    with torch.inference_mode():
        output = official(*(frame[..., :117, :187] for frame in frames), 0.5)
    assert output.shape == (1, 3, 117, 187)
    assert_near(output, golden["crop_t050_out3"])


def test_the_default_network_has_the_published_names_and_sizes(published: dict[str, Tensor]) -> None:
    network = IFNet()
    assert {name: value.shape for name, value in network.to_reference().items()} == {
        name: value.shape for name, value in published.items()
    }
    assert sum(value.numel() for value in network.parameters()) == 5_364_312


@pytest.mark.parametrize("sizes", [Sizes(), COMPACT, Sizes((16, 8), 1, 4, 2)])
def test_a_variants_sizes_are_read_off_its_tensors(sizes: Sizes) -> None:
    network = IFNet(sizes)
    again = IFNet.from_reference(network.to_reference())
    assert again.sizes == sizes
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_an_exit_is_the_whole_network_s_state_after_that_block(blocks: int) -> None:
    network, (first, last) = compact(), torch.rand(2, 1, 3, 40, 50)
    with torch.inference_mode():
        early = network(first, last, 0.4, blocks)
        encoded = network.encode_frame(first), network.encode_frame(last)
        every = [found.frame for found in network.exits(*encoded, 0.4)]
        assert torch.equal(early, every[blocks - 1])
        assert torch.equal(network.between(*encoded, 0.4, blocks).frame, early)
    assert (every[0] - every[-1]).abs().max() > 1e-4, "blocks that change nothing would pass as exits"


def test_a_later_block_runs_only_when_it_is_asked_for() -> None:
    network, ran = compact(), []
    for index in range(4):
        getattr(network, f"block{index}").register_forward_hook(lambda *_, index=index: ran.append(index))
    with torch.inference_mode():
        frame = network.encode_frame(torch.rand(1, 3, 32, 32))
        exits = network.exits(frame, frame, 0.5)
        next(exits)
        assert ran == [0]
        next(exits)
        assert ran == [0, 1]


def test_features_are_encoded_once_a_frame_however_many_times_are_wanted() -> None:
    network, encoded = compact(), []
    network.encode.register_forward_hook(lambda *_: encoded.append(1))
    with torch.inference_mode():
        frames = [network.encode_frame(frame) for frame in torch.rand(3, 1, 3, 32, 32)]
        for first, second in pairwise(frames):
            for t in (0.25, 0.5, 0.75):
                network.between(first, second, t)
    assert len(encoded) == 3


def test_the_ensemble_gives_the_same_picture_either_way_round() -> None:
    network, (first, last) = compact(), torch.rand(2, 1, 3, 33, 47)
    with torch.inference_mode():
        there = network(first, last, 0.3, ensemble=True)
        back = network(last, first, 0.7, ensemble=True)
        plain = network(first, last, 0.3) - network(last, first, 0.7)
    assert (there - back).abs().max() < 1e-5
    assert plain.abs().max() > 1e-3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 64), (33, 31), (32, 96)])
@pytest.mark.parametrize("scales", [SCALES, (4.0, 2.0, 1.0), (16.0, 8.0, 4.0, 1.0), (4.0, 2.0, 1.0, 0.5)])
def test_any_size_and_list_of_scales_gives_a_frame_of_that_size(
    height: int, width: int, scales: tuple[float, ...]
) -> None:
    network, (first, last) = compact(), torch.rand(2, 2, 3, height, width)
    with torch.inference_mode():
        output = network(first, last, 0.5, scales=scales)
    assert output.shape == first.shape
    assert output.min() >= 0
    assert output.max() <= 1


def test_each_sample_may_have_its_own_time() -> None:
    network, (first, last) = compact(), torch.rand(2, 2, 3, 32, 40)
    with torch.inference_mode():
        both = network(first, last, torch.tensor([0.2, 0.7]))
        apart = [network(first[i : i + 1], last[i : i + 1], t) for i, t in enumerate((0.2, 0.7))]
        same = network(first, last, 0.2)
    assert torch.allclose(both, torch.cat(apart), atol=1e-6)
    assert (both[1] - same[1]).abs().max() > 1e-4, "the time changes nothing"


def test_a_frame_does_not_depend_on_the_number_of_threads() -> None:
    network, (first, last) = compact(), torch.rand(2, 1, 3, 90, 118)
    threads, outputs = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.inference_mode():
                outputs.append(network(first, last, 0.5))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*outputs)


def test_under_autocast_flows_and_warps_stay_in_fp32(
    official: IFNet, frames: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[torch.dtype] = []
    sample = torch.nn.functional.grid_sample

    def spy(x: Tensor, grid: Tensor, **more: object) -> Tensor:
        sampled.extend((x.dtype, grid.dtype))
        return sample(x, grid, **more)

    monkeypatch.setattr(torch.nn.functional, "grid_sample", spy)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        first, second = (official.encode_frame(frame) for frame in frames)
        found = official.between(first, second, 0.5)
    assert set(sampled) == {torch.float32}
    assert {found.flow.dtype, found.mask.dtype, found.frame.dtype, first.features.dtype} == {torch.float32}


def test_a_warp_by_whole_pixels_moves_the_picture_to_the_pixel_even_far_out() -> None:
    """At 3000 px, half precision would be off by a pixel."""
    x = torch.rand(1, 2, 2, 4000)
    flow = torch.zeros(1, 2, 2, 4000)
    flow[:, 0] = 7
    moved = warp(x, flow, grid_of(2, 4000, x.device))
    assert (moved[..., :-7] - x[..., 7:]).abs().max() < 2e-3
    assert (moved[..., -7:] - x[..., -1:]).abs().max() < 2e-3, "beyond the border, the border goes on"


def test_the_stated_cost_is_what_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Enlarge, "forward", torch.nn.ConvTranspose2d.forward)  # ours adds a row and a column of cells
    for sizes, scales in ((Sizes(), SCALES), (COMPACT, (4.0, 2.0, 1.0)), (COMPACT, (16.0, 8.0, 4.0, 2.0))):
        network, multiple = IFNet(sizes), padding_multiple(scales)
        area = multiple * (2 * multiple)
        frame = torch.rand(1, 3, multiple, 2 * multiple - 5)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(frame, frame, 0.5, scales=scales)
        macs = 2 * encode_macs(sizes) * area + sum(block_macs(i, s, sizes) for i, s in enumerate(scales)) * area
        assert counter.get_total_flops() == pytest.approx(2 * macs)


def test_a_pixel_costs_what_the_specification_measured() -> None:
    assert encode_macs() == pytest.approx(5848, abs=0.5)
    assert [block_macs(i, s) for i, s in enumerate(SCALES)] == pytest.approx([2904, 5340, 12348, 23136], abs=0.5)


def test_wrong_arguments_are_named() -> None:
    network, frame = compact(), torch.rand(1, 3, 32, 32)
    for t in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            network(frame, frame, t)
    with pytest.raises(ValueError, match="t has 3 values for 1 samples"):
        network(frame, frame, torch.tensor([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="blocks is 5; this network with 4 scales has exits 1 to 4"):
        network(frame, frame, 0.5, 5)
    with pytest.raises(ValueError, match="blocks is 5; this network with 5 scales has exits 1 to 4"):
        network(frame, frame, 0.5, scales=(16.0, 8.0, 4.0, 2.0, 1.0))
    with pytest.raises(ValueError, match="powers of two"):
        network(frame, frame, 0.5, scales=(8.0, 3.0))
    with pytest.raises(ValueError, match=r"got \[1, 3, 32, 32\], \[1, 3, 32, 31\]"):
        network(frame, frame[..., :31], 0.5)
    encoded = network.encode_frame(frame)
    with pytest.raises(ValueError, match="takes 1 to 4, one a block"):
        next(network.exits(encoded, encoded, 0.5, (8.0, 8.0, 4.0, 2.0, 1.0)))
    with pytest.raises(ValueError, match="was not encoded for scales"):
        network.between(encoded, encoded, 0.5, scales=(16.0, 8.0))


def test_checkpoints_that_are_not_ifnet_are_refused(published: dict[str, Tensor]) -> None:
    with pytest.raises(KeyError, match="not an IFNet checkpoint"):
        IFNet.from_reference({"conv.weight": torch.zeros(1)})
    with pytest.raises(KeyError, match=r"prefix 'module\.': strip it"):
        IFNet.from_reference({f"module.{name}": value for name, value in published.items()})
    gone = "block2.convblock.3.beta"
    rest = {name: value for name, value in published.items() if name != gone}
    with pytest.raises(KeyError, match=rf"1 tensors missing \['{gone}'\], 1 unknown \['extra'\]"):
        IFNet.from_reference({**rest, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=rf"{gone} has shape \[96\]"):
        IFNet.from_reference({**published, gone: torch.zeros(96)})
