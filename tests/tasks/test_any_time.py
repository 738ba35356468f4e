"""RIFE as the interpolation task uses it: exact places, features once a frame, patches, and what stands still."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from models.rife import IFNet
from models.rife.checkpoint import Sizes
from pipeline.config import InterpolateConfig, PatchConfig
from pipeline.tasks.any_time import AnyTimeModel
from pipeline.tasks.interpolators import Pair
from tests.models.named_weights import named_like

SIZES = Sizes(widths=(16, 8, 8, 8), convs=1, hidden=8, features=4)
THIRDS = [Fraction(1, 3), Fraction(1, 2), Fraction(9, 10)]


def network() -> IFNet:
    made = IFNet(SIZES)
    made.load_state_dict(named_like(made.state_dict()))
    return made.eval()


def model_of(**settings: Any) -> AnyTimeModel:
    return AnyTimeModel(network(), InterpolateConfig(model="rife-4.14", **settings), "cpu", "fp32")


def pictures(count: int, size: tuple[int, int] = (36, 50)) -> list[Tensor]:
    return list(torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(5)))


def made_of(model: AnyTimeModel, pairs: Sequence[Pair]) -> list[list[Tensor]]:
    return [[one.picture for one in each] for each in model.between(pairs)]


def test_every_place_is_met_exactly_by_one_pass_of_the_network_itself() -> None:
    left, right = pictures(2)
    (made,) = model_of(copy_static=False).between([Pair(left, right, THIRDS)])
    assert [each.place for each in made] == THIRDS
    with torch.inference_mode():
        for (picture, _, _), t in zip(made, THIRDS, strict=True):
            assert torch.equal(picture, network()(left[None], right[None], float(t))[0])


def test_a_frame_is_encoded_once_for_both_of_its_intervals_and_all_their_places() -> None:
    model, frames, encoded = model_of(), pictures(4), []
    model._network.encode.register_forward_hook(lambda *_: encoded.append(1))
    pairs = [Pair(a, b, THIRDS) for a, b in pairwise(frames)]
    model.between(pairs[:2])
    model.between(pairs[2:])
    assert len(encoded) == 4
    assert len(model._encoded) == 1, "the next interval's first frame is kept, and nothing else"


def test_a_picture_does_not_depend_on_what_was_made_with_it_or_before_it() -> None:
    frames = pictures(4)
    pairs = [Pair(a, b, THIRDS) for a, b in pairwise(frames)]
    model = model_of(batch=4)
    together, alone = made_of(model, pairs), [made_of(model_of(), [pair])[0] for pair in pairs]
    again = [made_of(model, [pair])[0] for pair in reversed(pairs)][::-1]
    for other in (alone, again):
        assert all(
            torch.equal(a, b)
            for left, right in zip(together, other, strict=True)
            for a, b in zip(left, right, strict=True)
        )


def test_a_new_frame_at_a_forgotten_frame_s_address_is_encoded_anew() -> None:
    model = model_of()
    for seed in range(20):
        left, right = (torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed * 2 + k)) for k in (0, 1))
        pair = Pair(left, right, [Fraction(1, 2)])
        (picture,), (fresh,) = made_of(model, [pair])[0], made_of(model_of(), [pair])[0]
        assert torch.equal(picture, fresh)


def test_fewer_blocks_run_fewer_blocks() -> None:
    left, right = pictures(2)
    for blocks in (1, 2, 3, 4):
        model = model_of(blocks=blocks, copy_static=False)
        for unused in range(blocks, 4):
            setattr(model._network, f"block{unused}", None)
        ((picture,),) = made_of(model, [Pair(left, right, [Fraction(1, 2)])])
        with torch.inference_mode():
            assert torch.equal(picture, network()(left[None], right[None], 0.5, blocks)[0])


@pytest.mark.parametrize("size", [(150, 201), (300, 128)])
def test_frames_above_the_area_go_through_in_patches_and_meet_without_seams(size: tuple[int, int]) -> None:
    left = torch.linspace(0.2, 0.8, size[1]).expand(3, *size).contiguous()
    pair = Pair(left, left.flip(0) * 0.99, [Fraction(1, 2)])
    patch = PatchConfig(max_area=4096, size=128, overlap=32)
    model, seen = model_of(patch=patch), []
    model._network.encode.register_forward_hook(lambda _m, args, _o: seen.append(tuple(args[0].shape)))
    ((picture,),) = made_of(model, [pair])
    assert set(seen) == {(1, 3, 128, 128)}
    assert picture.shape == (3, *size)
    assert (picture[:, :, 1:] - picture[:, :, :-1]).abs().max() < 0.1


def test_what_is_equal_in_both_frames_is_copied_where_asked_for() -> None:
    left, right = pictures(2)
    right[:, 10:20, 10:30] = left[:, 10:20, 10:30]
    pair = Pair(left, right, [Fraction(2, 5)])
    ((copied,),), ((plain,),) = made_of(model_of(), [pair]), made_of(model_of(copy_static=False), [pair])
    inside = (slice(None), slice(12, 18), slice(12, 28))
    assert torch.allclose(copied[inside], left[inside])
    assert not torch.allclose(plain[inside], left[inside], atol=0.01)
    assert torch.equal(copied[:, 24:], plain[:, 24:])


def test_no_pairs_and_pairs_that_want_nothing_are_no_work() -> None:
    left, right = pictures(2)
    model = model_of()
    assert model.between([]) == []
    assert model.between([Pair(left, right, [])]) == [[]]
