"""IFNet by patches: what is skipped changes nothing elsewhere, and what is spent is what was counted."""

from __future__ import annotations

from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models import weights
from models.rife import IFNet, adaptive
from models.rife.adaptive import FADE, AdaptiveIFNet, Run, sampled
from models.rife.adaptive_cover import Area, cover
from models.rife.checkpoint import Sizes
from models.rife.finder import EVIDENCE, PATCH, STAGES, Finder, continues, exits_of, finder_macs, price_of
from models.rife.warp import resize
from tests.models.named_weights import named_like

SIZES = Sizes(widths=(16, 12, 8, 8), convs=2, hidden=8, features=4)
SIZE = (200, 300)  # of the frame; 224x320 padded, four by five patches
T = 0.25


def network(sizes: Sizes = SIZES) -> IFNet:
    made = IFNet(sizes)
    made.load_state_dict(named_like(made.state_dict()))
    return made.eval()


def finder() -> Finder:
    torch.manual_seed(3)
    made = Finder().eval()
    for stage in STAGES:  # errors of natural size, which differ from patch to patch
        last = getattr(made, f"stage{stage}").conv3
        torch.nn.init.normal_(last.weight, std=0.05)
        torch.nn.init.constant_(last.bias[-1], -6.0)
    return made


@pytest.fixture(scope="module")
def model() -> AdaptiveIFNet:
    return AdaptiveIFNet(network(), finder())


@pytest.fixture(scope="module")
def frames() -> tuple[Tensor, Tensor]:
    """Smooth pictures, three pixels apart: what networks of random weights are least wild about."""
    noise = torch.rand(1, 3, 30, 40, generator=torch.Generator().manual_seed(1))
    wide = torch.nn.functional.interpolate(noise, size=(SIZE[0], SIZE[1] + 3), mode="bicubic").clamp(0, 1)
    return wide[..., :-3].contiguous(), wide[..., 3:].contiguous()


def between(model: AdaptiveIFNet, frames: tuple[Tensor, Tensor], price: float, **options: object) -> adaptive.Adapted:
    with torch.inference_mode():
        ends = [model.network.encode_frame(frame) for frame in frames]
        return model.between(ends[0], ends[1], T, price, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_at_full_depth_the_picture_is_the_network_s_own(
    model: AdaptiveIFNet, frames: tuple[Tensor, Tensor], blocks: int
) -> None:
    made = between(model, frames, -inf, deepest=blocks)
    assert {depth for row in made.depths for depth in row} == {blocks}
    with torch.inference_mode():
        expected = model.network(*frames, T, blocks)
    torch.testing.assert_close(made.found.frame, expected, atol=2e-4, rtol=0)


def test_at_an_endless_price_the_first_block_is_all(model: AdaptiveIFNet, frames: tuple[Tensor, Tensor]) -> None:
    made = between(model, frames, inf)
    assert {depth for row in made.depths for depth in row} == {1}
    with torch.inference_mode():
        torch.testing.assert_close(made.found.frame, model.network(*frames, T, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("index", [2, 3])
def test_inside_a_window_s_patches_all_is_as_on_the_whole_frame_and_far_outside_as_without_the_block(
    model: AdaptiveIFNet, frames: tuple[Tensor, Tensor], index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The whole reach of the block's convolutions; the margins in use are shorter, for what reaches far is faint.
    monkeypatch.setitem(adaptive.MARGINS, index, 2**5 * (2 if index == 2 else 1))
    with torch.inference_mode():
        first, second = (model.network.encode_frame(frame) for frame in frames)

        def state(areas: list[Area] | None) -> Tensor:
            run = Run(model.network, first, second, T)
            for block in range(index):
                run.refine(block, [run.whole])
            if areas is not None:
                run.refine(index, areas or [run.whole])
            found = run.synthesis()
            return torch.cat([found.flow, found.mask], 1)

        patch = Area(64, 128, 128, 192)
        without, whole, windowed = state(None), state([]), state([patch])
    inside = (..., slice(64, 128), slice(128, 192))
    changed = (whole - without)[inside].abs().amax()
    assert changed > 0.01
    assert (windowed - whole)[inside].abs().amax() < 0.01 * changed
    outside = torch.ones(SIZE, dtype=torch.bool)
    outside[64 - FADE : 128 + FADE, 128 - FADE : 192 + FADE] = False
    assert torch.equal(windowed[..., outside], without[..., outside])


def test_a_correction_fades_out_without_a_step(model: AdaptiveIFNet, frames: tuple[Tensor, Tensor]) -> None:
    ramp = adaptive._fading(Area(64, 0, 128, 320), Area(40, 0, 152, 320), torch.device("cpu"))[:, 0]
    assert ramp[24:88].eq(1).all()
    assert ramp.diff().abs().max() <= 1 / FADE + 1e-6
    assert ramp[0] == ramp[-1] == 0


def test_patches_never_get_deeper_as_the_price_rises_and_the_cost_counts_what_ran(
    model: AdaptiveIFNet, frames: tuple[Tensor, Tensor]
) -> None:
    before, seen = None, set()
    for price in (-inf, 0.01, 0.1, 0.3, 1.0, 3.0, inf):
        with FlopCounterMode(display=False) as counter:
            made = between(model, frames, price)
        encode = 2 * 224 * 320 * (9 * 8 * (3 + 2 * 8) + 16 * 8 * 4) / 4
        # A transposed convolution works on one cell more than it has, which shows in networks as small as this one.
        assert 1 <= (counter.get_total_flops() / 2 - encode) / made.macs < 1.25
        depths = torch.tensor(made.depths)
        assert before is None or bool((depths <= before).all())
        before = depths
        seen |= set(depths.flatten().tolist())
    assert {1, 2, 4} <= seen


def test_a_budget_is_kept_as_far_as_the_first_block_lets_it(
    model: AdaptiveIFNet, frames: tuple[Tensor, Tensor]
) -> None:
    full = between(model, frames, -inf)
    for share in (0.9, 0.6, 0.4, 0.3):
        made = between(model, frames, 0.01, budget=share * full.macs)
        assert made.macs <= share * full.macs
    assert between(model, frames, 0.0, budget=0.0).depths == between(model, frames, inf).depths
    assert between(model, frames, 0.01, budget=inf).depths == between(model, frames, 0.01).depths


def test_equal_frames_take_no_arithmetic_and_equal_patches_no_windows(
    model: AdaptiveIFNet, frames: tuple[Tensor, Tensor]
) -> None:
    made = between(model, (frames[0], frames[0].clone()), 0.0)
    assert made.macs == 0
    assert {depth for row in made.depths for depth in row} == {0}
    assert bool(made.still.all())
    assert torch.equal(made.found.frame, frames[0])

    right = frames[0].clone()
    right[..., :40, :40] = frames[1][..., :40, :40]  # within the first patch
    made = between(model, (frames[0], right), -inf)
    assert [[depth > 0 for depth in row] for row in made.depths] == [
        [row < 2 and column < 2 for column in range(5)] for row in range(4)
    ], "the patch and those around it, where something could have come from"
    assert not made.still[..., : 2 * PATCH, : 2 * PATCH].any()
    assert made.still[..., 2 * PATCH :, :].all()


def test_decisions_are_a_function_of_the_pair_and_the_time(model: AdaptiveIFNet, frames: tuple[Tensor, Tensor]) -> None:
    made = between(model, frames, 0.1)
    between(model, (frames[1], frames[0]), 0.5)
    again = between(AdaptiveIFNet(network(), finder()), frames, 0.1)
    assert made.depths == again.depths
    assert torch.equal(made.found.frame, again.found.frame)


def test_other_networks_than_of_four_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="has 3 blocks; the finder knows the errors of 4"):
        AdaptiveIFNet(network(Sizes(widths=(8, 8, 8), convs=1, hidden=8, features=4)), Finder())


def test_samples_hold_what_a_quarter_of_the_size_is_made_of() -> None:
    x = torch.rand(1, 2, 16, 24)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(sampled(x), 2), resize(x, 1 / 4))


def test_the_shipped_finder_is_the_one_in_the_table_and_its_cost_is_what_it_takes() -> None:
    loaded = weights.load("rife-finder")
    shipped = Finder.from_reference(loaded.tensors)
    assert set(shipped.to_reference()) == set(loaded.tensors)
    for stage in STAGES:
        seen = torch.zeros(1, EVIDENCE, 32, 64)  # of 256x512
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            errors = shipped(seen, stage)
        assert errors.shape == (1, 5 - stage, 4, 8)
        assert counter.get_total_flops() == pytest.approx(2 * finder_macs(stage) * 256 * 512)


def test_the_price_falls_from_endless_to_none_as_quality_rises() -> None:
    prices = [price_of(q) for q in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)]
    assert prices[0] == inf
    assert prices[-1] == -inf
    assert prices == sorted(prices, reverse=True)
    assert len(set(prices)) == len(prices)
    with pytest.raises(ValueError, match="quality=2"):
        price_of(2)


@given(st.lists(st.floats(-12, 0), min_size=4, max_size=4), st.floats(0.01, 10), st.floats(1, 10))
def test_a_patch_stops_where_going_on_wins_less_than_its_price(
    levels: list[float], price: float, factor: float
) -> None:
    errors = torch.tensor(levels).reshape(1, 4, 1, 1)
    costs = (0.1, 0.2, 0.5, 1.0)
    depth = exits_of(errors[:, 1:], costs[1:], price)
    assert 2 <= int(depth) <= 4
    assert int(exits_of(errors[:, 1:], costs[1:], price * factor)) <= int(depth)
    assert continues(errors, costs, price) or not continues(errors, costs, price * factor)


@settings(max_examples=150)
@given(
    st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=6),
    st.sampled_from([16, 24, 48]),
    st.sampled_from([0, 32]),
)
def test_windows_hold_every_chosen_patch_and_never_cost_more_than_the_frame(
    chosen: list[list[bool]], margin: int, cut: int
) -> None:
    height, width = len(chosen) * 64 - cut, 7 * 64 - cut
    areas = cover(chosen, 64, height, width, margin)
    frame = Area(0, 0, height, width)
    held = torch.zeros(height, width, dtype=torch.bool)
    for area in areas:
        assert 0 <= area.top < area.bottom <= height
        assert 0 <= area.left < area.right <= width
        held[area.top : area.bottom, area.left : area.right] = True
    for row, flags in enumerate(chosen):
        for column, flag in enumerate(flags):
            assert not flag or held[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64].all()
    assert sum(area.grown(margin, height, width).pixels for area in areas) <= frame.pixels
    assert bool(areas) == any(map(any, chosen))
    assert cover(chosen, 64, height, width, margin) == areas
