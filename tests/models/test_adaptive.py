"""CAIN-SD as one network: its choices, its scales, its arithmetic, its file."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models import weights
from models.alignment import to_middle
from models.cain_sd import CAIN, CAINSD, CARNM, PWCNet, carn, cost
from models.cain_sd.adaptive import is_adaptive
from models.cain_sd.block_motion import BlockMotion
from models.cain_sd.cain import depth_to_space
from models.cain_sd.light_sr import LightSizes, LightSR, bicubic
from models.cain_sd.sd_finder import SDFinder, Window, lost_detail

SIZES = {"channels": 16, "rcabs": 1, "groups": 3, "shuffle": 2, "reduction": 4}


def small(enlarger: LightSR | CARNM | None = None) -> CAINSD:
    torch.manual_seed(0)
    network = CAINSD(CAIN(**SIZES), enlarger or LightSR(LightSizes(16)), SDFinder(3, 3))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.abs().sum() == 0:
                parameter.normal_(0, 0.02)
    return network.eval()


def smooth(height: int, width: int, seed: int = 0, grain: int = 4) -> Tensor:
    noise = torch.rand(1, 3, height // grain + 2, width // grain + 2, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=False).clamp(0, 1)


@pytest.fixture(scope="module")
def network() -> CAINSD:
    return small()


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 96), (50, 61), (17, 20)])
def test_every_scale_and_exit_gives_a_patch_of_the_size_it_was_given(network: CAINSD, size: tuple[int, int]) -> None:
    frame0, frame1 = smooth(*size), smooth(*size, seed=1)
    kept = frame0.clone()
    pictures = [network.synthesise(frame0, frame1, scale, depth) for scale in network.scales for depth in (1, 3)]
    assert all(picture.shape == frame0.shape for picture in pictures)
    assert all(torch.isfinite(picture).all() for picture in pictures)
    assert torch.equal(frame0, kept)
    assert not any(torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])


@torch.inference_mode()
def test_running_all_exits_at_once_gives_what_each_gives_alone(network: CAINSD) -> None:
    frame0, frame1 = smooth(64, 80), smooth(64, 80, seed=1)
    means = (torch.full((1, 3, 1, 1), 0.4), torch.full((1, 3, 1, 1), 0.6))
    for scale in network.scales:
        together = network.every_exit(frame0, frame1, scale, means)
        alone = [network.synthesise(frame0, frame1, scale, depth, means) for depth in (1, 2, 3)]
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_scale_one_is_the_plain_network_without_padding(network: CAINSD) -> None:
    frame0, frame1 = smooth(50, 62), smooth(50, 62, seed=1)
    plain = network.cain(frame0, frame1, 2, pad_multiple=2)
    assert torch.equal(network.synthesise(frame0, frame1, 1, 2), plain)


@torch.inference_mode()
def test_a_still_patch_keeps_its_detail_at_a_quarter_of_the_size_once_the_enlarger_copies_it() -> None:
    """Detail lost by making small stands in both neighbours: a linear enlarger that adds it back is exact."""
    enlarger = LightSR(LightSizes(12, (2,)))
    branch = enlarger.up["2"]
    for parameter in branch.parameters():
        parameter.zero_()
    for k in range(12):  # of the first neighbour's 12 folded channels; shifted up, so that no rectifier cuts them
        branch.conv1.weight[k, k, 1, 1] = branch.conv2.weight[k, k, 1, 1] = branch.conv3.weight[k, k, 1, 1] = 1
        branch.conv1.bias[k], branch.conv3.bias[k] = 2, -2
    picture = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(3))
    blurred = F.avg_pool2d(picture, 2)
    torch.testing.assert_close(enlarger(blurred, 2, picture, picture), picture, atol=1e-5, rtol=0)
    assert (depth_to_space(bicubic(blurred, 2), 2) - picture).abs().mean() > 0.1


def test_an_untrained_enlarger_is_bicubic_enlargement() -> None:
    image, frame = smooth(16, 20), smooth(64, 80, seed=2)
    expected = F.interpolate(image, scale_factor=4, mode="bicubic", align_corners=False)
    torch.testing.assert_close(LightSR()(image, 4, frame, frame), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("enlarger", ["light", "carn"])
@torch.inference_mode()
def test_flops_are_what_torch_counts(scale: int, enlarger: str) -> None:
    network = small(CARNM(carn.Sizes(16, 4)) if enlarger == "carn" else None)
    patch = smooth(64, 64)
    table = network.flops_per_pixel()
    for depth in (1, 3):
        with FlopCounterMode(display=False) as counter:
            network.synthesise(patch, patch, scale, depth)
        counts = counter.get_flop_counts()["Global"]
        convolutions = sum(count for operation, count in counts.items() if "convolution" in str(operation))
        assert convolutions == pytest.approx(table[network.scales.index(scale)][depth - 1] * 64 * 64, rel=1e-6)


def test_the_light_enlarger_stays_below_five_thousand_multiplications_a_pixel() -> None:
    assert all(cost.light_sr_macs_per_pixel(scale) < 5000 for scale in (2, 4))
    assert cost.carn_macs_per_pixel(2) > 19 * cost.light_sr_macs_per_pixel(2)


def test_the_finder_and_its_motion_cost_less_than_a_hundredth_of_the_compact_network() -> None:
    network = CAINSD(CAIN(channels=32, rcabs=2, groups=5, shuffle=2, reduction=8))
    full = network.flops_per_pixel()[0][-1] * 720 * 1280
    assert 0 < network.finder_flops(720, 1280) < full / 100


@torch.inference_mode()
def test_every_window_is_judged_and_by_its_own_pair_alone(network: CAINSD) -> None:
    frame0, frame1 = smooth(96, 128), smooth(96, 128, seed=1)
    windows = [Window(0, 0, 64, 64), Window(32, 64, 64, 64)]
    alone = network.logits(frame0, frame1, windows)
    assert alone.scale.shape == (1, 2, 3)
    assert alone.depth.shape == (1, 2, 3)
    assert not torch.equal(alone.scale[:, 0], alone.scale[:, 1])
    others = [torch.cat([x, smooth(96, 128, seed=5)]) for x in (frame0, frame1)]
    for one, two in zip(network.logits(*others, windows), alone, strict=True):
        torch.testing.assert_close(one[:1], two)


@pytest.mark.parametrize("speed", [(0, 0), (4, -8), (10, 3)])
def test_block_matching_finds_how_far_a_texture_moved(speed: tuple[int, int]) -> None:
    picture = smooth(192, 256, grain=12)
    moved = picture.roll(speed, (2, 3))
    flow = BlockMotion()(picture, moved)
    assert flow.shape == (1, 2, 192, 256)
    middle = flow[0, :, 48:144, 64:192].flatten(1).mean(1)
    assert middle.tolist() == pytest.approx([speed[1], speed[0]], abs=1.2)


def test_block_matching_says_nothing_moves_where_nothing_can_be_seen() -> None:
    flow = BlockMotion()(torch.full((1, 3, 40, 60), 0.5), torch.full((1, 3, 40, 60), 0.5))
    assert flow.abs().max() < 1e-3


def test_still_detail_is_not_lost_and_moving_detail_is() -> None:
    """What half and a quarter of the size lose, beyond what both neighbours tell: nothing where nothing moves."""
    fine, coarse = smooth(96, 128, grain=2), smooth(96, 128, grain=24)
    still = lost_detail(fine, fine, (24, 32))
    assert still.shape == (1, 3, 24, 32)
    assert still[:, :2].abs().max() < 1e-3
    assert still[:, 2].mean() > 0.1
    moving, gliding = (lost_detail(x, x.roll(3, 3), (24, 32)).mean((2, 3))[0] for x in (fine, coarse))
    assert (moving[:2] > 4 * gliding[:2]).all()


@torch.inference_mode()
def test_a_finder_that_sees_detail_judges_frames_of_any_size() -> None:
    torch.manual_seed(0)
    network = CAINSD(CAIN(**SIZES), LightSR(LightSizes(16)), SDFinder(3, 3, detail=True)).eval()
    for size in ((33, 47), (250, 301)):
        found = network.logits(smooth(*size), smooth(*size, seed=1), [Window(0, 0, *size)])
        assert found.scale.shape == found.depth.shape == (1, 1, 3)
    again = CAINSD.from_tensors(network.to_tensors())
    assert again.finder.detail
    assert again.finder_flops(720, 1280) > small().finder_flops(720, 1280)


@pytest.mark.parametrize("kind", ["light", "carn", "pwc"])
def test_a_file_of_tensors_gives_the_same_network_again(kind: str) -> None:
    network = small(CARNM(carn.Sizes(16, 4)) if kind == "carn" else None)
    if kind == "pwc":
        network = CAINSD(network.cain, network.enlarger, network.finder, PWCNet())
    tensors = network.to_tensors()
    assert is_adaptive(tensors)
    assert not is_adaptive(network.cain.to_reference())
    again = CAINSD.from_tensors(tensors)
    assert again.scales == network.scales == (1, 2, 4)
    found = again.to_tensors()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert type(again.enlarger) is type(network.enlarger)
    assert type(again.motion) is type(network.motion)


def test_other_tensors_are_refused_by_name_and_by_shape(network: CAINSD) -> None:
    tensors = network.to_tensors()
    with pytest.raises(KeyError, match=r"no tensor begins with finder\."):
        CAINSD.from_tensors({name: x for name, x in tensors.items() if not name.startswith("finder.")})
    with pytest.raises(KeyError, match="begins with none of cain, enlarger, finder, motion"):
        CAINSD.from_tensors({**tensors, "stranger": torch.zeros(1)})
    with pytest.raises(KeyError, match="1 tensors missing"):
        CAINSD.from_tensors({name: x for name, x in tensors.items() if name != "finder.scale_net.conv1.bias"})
    with pytest.raises(ValueError, match="has shape"):
        CAINSD.from_tensors({**tensors, "enlarger.up.2.conv2.weight": torch.zeros(3, 3, 3, 3)})
    with pytest.raises(ValueError, match="3 scales and 5 depths"):
        CAINSD(network.cain, network.enlarger, SDFinder(3, 5))


def test_wrong_scales_are_refused(network: CAINSD) -> None:
    patch = smooth(32, 32)
    with pytest.raises(ValueError, match="scale is 3; this network has 1, 2, 4"):
        network.synthesise(patch, patch, 3, 1)
    with pytest.raises(ValueError, match="exit_depth is 4"):
        network.synthesise(patch, patch, 2, 4)


@torch.inference_mode()
def test_the_shipped_network_beats_the_average_of_the_aligned_frames_and_gains_by_depth() -> None:
    network = CAINSD.from_tensors(weights.load("cain-sd-compact").tensors)
    picture = smooth(136, 188, grain=6)
    frame0, middle, frame1 = (picture[..., 4:132, x : x + 160] for x in (0, 6, 12))
    aligned = to_middle(frame0, frame1)
    average, moved = (((a + b) / 2 - middle).square().mean() for a, b in ((frame0, frame1), aligned))
    full, half = (
        [(found - middle).square().mean() for found in network.every_exit(*aligned, scale)] for scale in (1, 2)
    )
    assert full[-1] < full[0] < moved < average
    assert half[-1] < half[0] < moved
