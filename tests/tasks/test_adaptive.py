"""Pictures patch by patch: covered, blended, static ones copied, within the price; by any backbone, and by CAIN-SD."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.cain_sd import CAIN
from models.cain_sd.adaptive import CAINSD
from models.cain_sd.cain import centred_padding, pad, spatial_mean
from models.cain_sd.light_sr import LightSizes, LightSR
from pipeline.config import AdaptivePatchConfig, InterpolateConfig
from pipeline.errors import ConfigError
from pipeline.plan.adaptive import STATIC, Choice
from pipeline.plan.patches import Patch
from pipeline.tasks.adaptive import AdaptiveMidpoints, PatchModel, Wanted, most_flops
from pipeline.tasks.adaptive_cain import CainBackbone
from pipeline.tasks.interpolate_model import build, load_weights
from pipeline.tasks.interpolators import MidpointModel, Pair
from tests.models.named_weights import named_like

HALF = Fraction(1, 2)
SMALL = AdaptivePatchConfig(size=64, overlap=16)


class Average:
    """A backbone whose pictures are weighted averages, and whose patches want more the more they differ."""

    fold = 8
    scales = (1, 2)
    costs = ((100.0, 400.0), (40.0, 130.0))

    def __init__(self) -> None:
        self.runs: list[tuple[int, list[int]]] = []

    def padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        return centred_padding(height, width, 8, 16)

    def full_flops(self, height: int, width: int) -> int:
        return 400 * height * width

    def overhead_flops(self, height: int, width: int) -> int:
        return height * width

    def begin(self, left: Tensor, right: Tensor, t: Fraction) -> tuple[Tensor, Tensor, float]:
        padding = self.padding(*left.shape[-2:])
        return pad(left, padding), pad(right, padding), float(t)

    def scores(self, state: tuple[Tensor, Tensor, float], patches: Sequence[Patch]) -> list[list[list[float]]]:
        found = []
        for patch in patches:
            difference = float((cut(state[0], patch) - cut(state[1], patch)).abs().mean())
            found.append([[-difference, difference], [0.05, -2 * difference]])
        return found

    def run(self, scale: int, pieces: Sequence[tuple[Any, Patch]], depths: Sequence[int]) -> Tensor:
        self.runs.append((scale, list(depths)))
        return torch.cat([torch.lerp(cut(left, patch), cut(right, patch), t) for (left, right, t), patch in pieces])


def cut(frame: Tensor, patch: Patch) -> Tensor:
    return frame[..., patch.top : patch.top + patch.height, patch.left : patch.left + patch.width]


@cache
def network() -> CAINSD:
    """Random weights under which every branch and every choice matters."""
    made = CAINSD(CAIN(channels=16, rcabs=1, groups=3, shuffle=2, reduction=4), LightSR(LightSizes(width=16)))
    state = named_like(made.state_dict())
    for net in ("scale_net", "depth_net"):
        state[f"finder.{net}.conv3.weight"] = state[f"finder.{net}.conv3.weight"] * 60
    made.load_state_dict(state)
    return made.eval()


def settings(**more: Any) -> InterpolateConfig:
    return InterpolateConfig(exit_depth=3, **{"adaptive_patch": SMALL, **more})


def midpoints(precision: str = "fp32", **more: Any) -> AdaptiveMidpoints[Any]:
    return AdaptiveMidpoints(CainBackbone(network(), 3, "cpu"), settings(**more), "cpu", precision)


def frames(count: int, size: tuple[int, int] = (150, 202), seed: int = 5) -> list[Tensor]:
    """Noise that gets coarser towards the right, and moves more towards the bottom."""
    noise = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))
    return list(torch.nn.functional.avg_pool2d(noise, 5, 1, 2))


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (64, 300), (150, 201), (300, 257)])
def test_patches_cover_a_frame_of_any_size_and_blend_without_a_trace(size: tuple[int, int]) -> None:
    left, right = frames(2, size)
    t = Fraction(1, 3)
    ((picture, decisions),) = PatchModel(Average(), settings(), "cpu", "fp32").make([Wanted(left, right, t)])
    assert torch.allclose(picture, torch.lerp(left, right, 1 / 3), atol=1e-6)
    assert len(decisions.patches) == len(decisions.choices)
    seen = torch.zeros(size)
    for patch in decisions.patches:
        assert patch.top >= 0
        assert patch.left >= 0
        assert patch.height > 0
        assert patch.width > 0
        seen[patch.top : patch.top + patch.height, patch.left : patch.left + patch.width] += 1
    assert seen.shape == size
    assert seen.min() >= 1


def test_each_scale_s_patches_of_many_pairs_run_together_and_change_nothing() -> None:
    shots = frames(6, (150, 201))
    for index, frame in enumerate(shots):
        frame[:, :, :100] *= 0.1 * index
    wanted = [Wanted(a, b, HALF) for a, b in pairwise(shots)]
    apart, together = Average(), Average()
    alone = PatchModel(apart, settings(), "cpu", "fp32").make(wanted)
    many = PatchModel(together, settings(), "cpu", "fp32")
    many._batch = len(wanted)
    many._most = lambda area, frame: dict.fromkeys(Average.scales, 7)  # type: ignore[method-assign]
    for (one, first), (other, second) in zip(alone, many.make(wanted), strict=True):
        assert torch.equal(one, other)
        assert first == second
    patches = sum(len(depths) for _, depths in together.runs)
    assert patches == sum(len(depths) for _, depths in apart.runs) == sum(len(d.choices) for _, d in alone)
    assert {scale for scale, _ in together.runs} == {1, 2}
    assert len(together.runs) <= patches // 7 + 2 < len(apart.runs)
    assert all(len(depths) <= 7 for _, depths in together.runs), "memory is bounded"


def test_flops_are_what_ran_and_the_plan_never_says_less() -> None:
    left, right = frames(2)
    for more in ({}, {"quality": 1.0}, {"quality": 0.0}, {"flops_budget": 0.5}):
        backbone = Average()
        ((_, decisions),) = PatchModel(backbone, settings(**more), "cpu", "fp32").make([Wanted(left, right, HALF)])
        assert sum(len(depths) for _, depths in backbone.runs) == len(decisions.patches)
        spent = decisions.flops - backbone.overhead_flops(150, 202)
        side = spent / sum(
            Average.costs[Average.scales.index(choice.scale)][choice.depth - 1] for choice in decisions.choices
        )
        assert side == 64 * 64, "every patch costs its own area, overlap and padding included"
        assert decisions.flops <= most_flops(backbone, settings(**more), 150, 202)
        assert decisions.full_flops == 400 * 150 * 202


def test_a_still_frame_is_the_frame_itself_and_takes_no_network() -> None:
    (frame,) = frames(1, (90, 120))
    backbone = Average()
    ((picture, decisions),) = PatchModel(backbone, settings(), "cpu", "fp32").make([Wanted(frame, frame, HALF)])
    assert backbone.runs == []
    assert torch.allclose(picture, frame, atol=1e-6)
    assert set(decisions.choices) == {STATIC}
    assert decisions.flops == 0


def test_only_patches_within_the_threshold_are_static() -> None:
    left, right = frames(2, (150, 202))
    right[:, :75] = left[:, :75]
    right[:, 10, 150] += 1 / 255  # one step in one pixel
    for threshold, still in ((1.2, 4), (0.0, 2)):
        patch = AdaptivePatchConfig(size=64, overlap=16, static=threshold)
        made = midpoints(adaptive_patch=patch).between([Pair(left, right, [HALF])])[0][0]
        assert made.decisions is not None
        assert made.decisions.patches[0] == Patch(0, 0, 63, 61)
        assert sum(choice == STATIC for choice in made.decisions.choices[:4]) == still
        assert all(choice.depth > 0 for choice in made.decisions.choices[4:])
        assert torch.allclose(made.picture[:, :38, :90], left[:, :38, :90], atol=1e-6)


def test_a_frame_of_one_patch_is_what_the_network_makes_of_it() -> None:
    left, right = (x[None] for x in frames(2, (64, 96)))
    net = deepcopy(network())
    whole = AdaptivePatchConfig(size=4096)
    for scale in (1, 2, 4):
        for depth in (1, 2, 3):
            net.finder.scale_net.conv3.bias.data = torch.tensor([1e6 * (scale == each) for each in (1, 2, 4)])
            net.finder.depth_net.conv3.bias.data = torch.tensor([1e6 * (depth == each) for each in (1, 2, 3)])
            model = PatchModel(CainBackbone(net, 3, "cpu"), settings(adaptive_patch=whole), "cpu", "fp32")
            ((picture, decisions),) = model.make([Wanted(left[0], right[0], HALF)])
            assert decisions.choices == (Choice(scale, depth),)
            with torch.inference_mode():
                means = (spatial_mean(left), spatial_mean(right))
                expected = net.synthesise(left, right, scale, depth, means)[0].clamp(0, 1)
            assert torch.allclose(picture, expected, atol=1e-6)


def test_a_picture_depends_on_its_own_pair_alone() -> None:
    shots = frames(4)
    pairs = [Pair(a, b, [HALF]) for a, b in pairwise(shots)]
    model = midpoints()
    together = [made[0] for made in model.between(pairs)]
    backwards = [model.between([pair])[0][0] for pair in reversed(pairs)][::-1]
    fresh = [midpoints().between([pair])[0][0] for pair in pairs]
    assert len({made.decisions.choices for made in fresh if made.decisions}) > 1, "the pairs differ in what they need"
    for other in (backwards, fresh):
        for one, two in zip(together, other, strict=True):
            assert torch.equal(one.picture, two.picture)
            assert one.decisions == two.decisions


def test_patches_that_exit_early_get_what_they_get_alone() -> None:
    lefts, rights = torch.stack(frames(4, (32, 48))), torch.stack(frames(4, (32, 48), seed=9))
    net = network()
    with torch.inference_mode():
        for scale in (1, 2):
            together = net.synthesise(lefts, rights, scale, [3, 2, 2, 1])
            for index, depth in enumerate((3, 2, 2, 1)):
                alone = net.synthesise(lefts[index : index + 1], rights[index : index + 1], scale, depth)
                assert torch.allclose(together[index], alone[0], atol=1e-6)
        with pytest.raises(ValueError, match="deepest first"):
            net.synthesise(lefts, rights, 1, [1, 2, 2, 3])


def test_flops_never_fall_as_quality_rises_and_its_ends_are_the_cheapest_and_full_depth() -> None:
    left, right = frames(2, (100, 140))
    spent, choices = [], []
    for quality in (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0):
        decisions = midpoints(quality=quality).between([Pair(left, right, [HALF])])[0][0].decisions
        assert decisions is not None
        spent.append(decisions.flops)
        choices.append(decisions.choices)
    assert spent == sorted(spent)
    assert len(set(spent)) > 3
    assert set(choices[0]) == {Choice(4, 1)}
    assert set(choices[-1]) == {Choice(1, 3)}
    assert len(set(choices[4])) > 1, "what training found differs from patch to patch"


def test_a_budget_holds_for_every_frame_and_changes_nothing_where_there_is_enough() -> None:
    left, right = frames(2, (100, 140))
    free = midpoints().between([Pair(left, right, [HALF])])[0][0].decisions
    assert free is not None
    last = 0.0
    for budget in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 2.0):
        decisions = midpoints(flops_budget=budget).between([Pair(left, right, [HALF])])[0][0].decisions
        assert decisions is not None
        share = decisions.flops / decisions.full_flops
        assert share <= budget or set(decisions.choices) == {Choice(4, 1)}, "as cheap as it gets"
        assert last <= share <= free.flops / free.full_flops
        last = share
    assert decisions == free


def test_decisions_do_not_depend_on_the_precision_of_the_pictures() -> None:
    left, right = frames(2, (100, 140))
    made = [midpoints(precision).between([Pair(left, right, [HALF])])[0][0] for precision in ("fp32", "bf16")]
    assert made[0].decisions == made[1].decisions
    assert not torch.equal(made[0].picture, made[1].picture)
    assert torch.allclose(made[0].picture, made[1].picture, atol=0.05)


def test_every_midpoint_is_decided_by_the_pair_that_it_lies_between() -> None:
    left, right = frames(2, (100, 140))
    places = [Fraction(1, 20), Fraction(1, 4), HALF, Fraction(3, 4)]
    near, quarter, half, last = midpoints().between([Pair(left, right, places)])[0]
    assert (near.place, near.decisions) == (0, None)
    assert torch.equal(near.picture, left)
    again = midpoints().between([Pair(left, half.picture, [HALF]), Pair(half.picture, right, [HALF])])
    for mine, made in ((quarter, again[0][0]), (last, again[1][0])):
        assert torch.equal(mine.picture, made.picture)
        assert mine.decisions == made.decisions


@pytest.fixture
def weights(tmp_path: Path) -> str:
    path = tmp_path / "sd.safetensors"
    save_file({name: value.contiguous() for name, value in network().to_tensors().items()}, path)
    return str(path)


def test_weights_that_decide_are_used_so_unless_that_is_off(weights: str, tmp_path: Path) -> None:
    left, right = frames(2, (100, 140))
    pair = Pair(left, right, [HALF])
    on, name, digest = build(settings(model=weights), "cpu", "fp32")
    assert isinstance(on, AdaptiveMidpoints)
    assert name == "sd.safetensors"
    assert len(digest) == 64
    off, _, _ = build(settings(model=weights, adaptive=False), "cpu", "fp32")
    assert isinstance(off, MidpointModel)
    plain = tmp_path / "plain.safetensors"
    save_file({key: value.contiguous() for key, value in network().cain.to_reference().items()}, plain)
    same, _, _ = build(settings(model=str(plain)), "cpu", "fp32")
    assert isinstance(same, MidpointModel)
    assert torch.equal(off.between([pair])[0][0].picture, same.between([pair])[0][0].picture)
    with pytest.raises(ConfigError, match="do not choose"):
        load_weights(settings(model=str(plain), adaptive=True))


def test_frames_are_aligned_where_the_weights_learned_so_or_the_user_says_so(weights: str, tmp_path: Path) -> None:
    left, right = frames(2, (100, 140))
    pair = Pair(left, right, [HALF])
    noted = tmp_path / "noted.safetensors"
    tensors = {name: value.contiguous() for name, value in network().to_tensors().items()}
    save_file(tensors, noted, {"frames": "aligned"})

    def made(model: str, **more: Any) -> Tensor:
        return build(settings(model=model, **more), "cpu", "fp32")[0].between([pair])[0][0].picture

    assert torch.equal(made(str(noted)), made(weights, align=True))
    assert torch.equal(made(weights), made(str(noted), align=False))
    assert not torch.equal(made(weights), made(str(noted)))
    plain = made(weights, adaptive=False), made(str(noted), adaptive=False)
    assert not torch.equal(*plain)


def test_the_deepest_exit_is_the_configuration_s(weights: str) -> None:
    left, right = frames(2, (100, 140))
    config = settings(model=weights, quality=1.0).model_copy(update={"exit_depth": 2})
    made = build(config, "cpu", "fp32")[0].between([Pair(left, right, [HALF])])[0][0]
    assert made.decisions is not None
    assert set(made.decisions.choices) == {Choice(1, 2)}
