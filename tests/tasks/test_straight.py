"""CAIN and CAIN-SD at any time in one pass: exact places, the middle as ever, recursion where nothing is aligned."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from models import weights
from models.alignment import match
from models.cain_sd import CAIN
from models.synthesis import Between, compose, moment
from pipeline.config import InterpolateConfig, PatchConfig
from pipeline.errors import ConfigError
from pipeline.plan.grid import make_grid
from pipeline.tasks import interpolate_model
from pipeline.tasks.interpolators import MidpointModel, Pair
from tests.models.named_weights import named_like
from tests.models.test_alignment import panned, psnr
from tests.plan.test_clips import info_of

HALF = Fraction(1, 2)
PLACES = [Fraction(1, 3), HALF, Fraction(9, 10)]


def network() -> CAIN:
    made = CAIN(channels=8, rcabs=1, groups=2, shuffle=2, reduction=4)
    made.load_state_dict(named_like(made.state_dict()))
    return made.eval()


def model_of(*, aligned: bool = True, **settings: Any) -> MidpointModel:
    return MidpointModel(network(), InterpolateConfig(exit_depth=2, **settings), "cpu", "fp32", aligned=aligned)


def ends() -> tuple[Tensor, Tensor]:
    first, _, last = panned(3, -2, height=61, width=83)
    return first[0], last[0]


def test_every_place_is_met_exactly_by_one_pass_and_the_motion_is_found_once_a_pair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, right = ends()
    matched: list[int] = []
    monkeypatch.setattr(moment, "match", lambda a, b: (matched.append(1), match(a, b))[1])
    model, passes = model_of(), []
    model._network.register_forward_hook(lambda *_: passes.append(1))
    (made,) = model.between([Pair(left, right, PLACES)])
    assert [one.place for one in made] == PLACES
    assert (len(matched), len(passes)) == (1, 3)
    between = Between(left[None], right[None])
    for one, t in zip(made, PLACES, strict=True):
        frames = between.at(float(t))
        wanted = compose(*frames, model.midpoint(*frames), float(t)).clamp(0, 1)
        assert torch.equal(one.picture, wanted[0])


def test_the_middle_is_what_recursion_makes_of_it_bit_for_bit() -> None:
    pair = Pair(*ends(), [HALF])
    straight, recursed = (model_of(times=times).between([pair])[0][0] for times in ("straight", "recursion"))
    assert torch.equal(straight.picture, recursed.picture)
    assert straight.place == recursed.place


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_picture_does_not_depend_on_what_is_made_beside_it(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = ends()
    pairs = [Pair(left, right, PLACES), Pair(right, left, PLACES[:1]), Pair(left, right, []), Pair(left, left, PLACES)]
    matched: list[int] = []
    monkeypatch.setattr(moment, "match", lambda a, b: (matched.append(1), match(a, b))[1])
    model = model_of()
    model._batch = batch  # as on a GPU, where places of several pairs share a batch
    together = model.between(pairs)
    assert len(matched) == 3, "once for each pair of which a place is wanted"
    alone = [model_of().between([pair])[0] for pair in pairs]
    for pair, some, others in zip(pairs, together, alone, strict=True):
        assert [one.place for one in some] == list(pair.places)
        for a, b in zip(some, others, strict=True):
            torch.testing.assert_close(a.picture, b.picture, atol=0 if batch == 1 else 1e-5, rtol=0)


def test_frames_that_are_not_aligned_are_recursed_on() -> None:
    (made,) = model_of(aligned=False).between([Pair(*ends(), [Fraction(1, 3)])])
    assert made[0].place == Fraction(3, 8)


def test_large_frames_in_patches_are_nearly_what_they_are_whole() -> None:
    first, _, last = panned(3, -2, height=230, width=300)
    pair = Pair(first[0], last[0], [Fraction(1, 4)])
    cut = PatchConfig(max_area=4096, size=192, overlap=64)
    whole, patches = (model_of(**kind).between([pair])[0][0].picture for kind in ({}, {"patch": cut}))
    assert float((whole - patches).abs().mean()) < 1 / 255


@pytest.mark.parametrize("name", ["cain-compact", "cain-sd-compact"])
def test_our_weights_go_straight_and_are_nearer_than_by_recursion(name: str) -> None:
    frames = panned(4, -3, moments=5, height=96, width=128)
    pair = Pair(frames[0][0], frames[4][0], [Fraction(1, 4), Fraction(3, 4)])
    found = {}
    for times in ("auto", "recursion"):
        config = InterpolateConfig(model=name, times=times)
        model = interpolate_model.build(config, "cpu", "fp32")[0]
        (made,) = model.between([pair])
        found[times] = sum(psnr(one.picture[None], frames[k]) for one, k in zip(made, (1, 3), strict=True)) / 2
        assert all((one.decisions is not None) == (name == "cain-sd-compact") for one in made)
    assert found["auto"] > found["recursion"] + 0.1


def test_only_aligned_frames_can_go_straight_and_plans_count_its_passes(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(network().to_reference(), path)
    setting = {"model": str(path), "exit_depth": 2, "target": {"factor": 3}}
    with pytest.raises(ConfigError, match="set align=true, or times=recursion"):
        interpolate_model.load_weights(InterpolateConfig.model_validate({**setting, "times": "straight"}))
    info = info_of(list(range(0, 100, 10)), [0])
    flops = {}
    for align, limit in ((True, 0), (False, "1/16")):
        config = InterpolateConfig.model_validate({**setting, "align": align, "max_t_error": limit})
        interpolate_model.load_weights(config)
        flops[align] = interpolate_model.flops(config, info, make_grid(config.target, info.time_base, info.pts[0]))
    assert flops[True] * 5 == flops[False] * 2, "two passes for thirds; 1/2, 1/4, 3/4, 3/8 and 5/8 else"
    unreachable = InterpolateConfig.model_validate({**setting, "align": False, "max_t_error": 0})
    with pytest.raises(ConfigError, match="max_t_error=0 cannot be met"):
        interpolate_model.load_weights(unreachable)
    assert weights.load("cain-compact").aligned
