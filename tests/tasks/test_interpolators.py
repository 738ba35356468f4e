"""Pictures at given places: recursion on midpoints, batches, patches, and the floor."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from models.cain_sd import CAIN
from pipeline.config import InterpolateConfig, PatchConfig, TargetConfig
from pipeline.tasks.interpolators import Blend, Made, MidpointModel, Pair
from tests.models.test_alignment import panned, psnr


class Middle(nn.Module):
    """Stands in for CAIN: the exact mean, remembering the shapes it was called with."""

    shuffle = 8

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, ...]] = []

    def forward(self, left: Tensor, right: Tensor, depth: int, **_: Any) -> Tensor:
        self.calls.append(tuple(left.shape))
        return (left + right) / 2


def model_of(network: Any, **settings: Any) -> MidpointModel:
    return MidpointModel(network, InterpolateConfig(**settings), "cpu", "fp32")


def pair(places: Sequence[Fraction], size: tuple[int, int] = (16, 24), start: float = 0.0) -> Pair:
    return Pair(torch.full((3, *size), start), torch.full((3, *size), start + 0.5), places)


def levels(made: list[Made]) -> list[float]:
    return [float(each.picture.mean()) for each in made]


def quarters() -> list[Fraction]:
    return [Fraction(k, 4) for k in (1, 2, 3)]


def test_quarters_come_from_three_passes_each_at_its_place() -> None:
    network = Middle()
    ((made),) = model_of(network).between([pair(quarters())])
    assert [each.place for each in made] == quarters()
    assert levels(made) == pytest.approx([0.125, 0.25, 0.375])
    assert len(network.calls) == 3


def test_a_place_out_of_reach_gets_the_nearest_within_the_bound_and_says_so() -> None:
    network = Middle()
    places = [Fraction(2, 5), Fraction(4, 5)]
    ((made),) = model_of(network, max_t_error=Fraction(1, 32), target=TargetConfig(fps=60)).between([pair(places)])
    for (picture, node, _), wanted in zip(made, places, strict=True):
        assert abs(node - wanted) <= Fraction(1, 32)
        assert float(picture.mean()) == pytest.approx(float(node) / 2)


def test_a_place_near_a_source_frame_is_that_frame_and_costs_no_pass() -> None:
    network = Middle()
    (made,) = model_of(network).between([pair([Fraction(1, 20), Fraction(19, 20)])])
    assert [each.place for each in made] == [0, 1]
    assert levels(made) == [0.0, 0.5]
    assert network.calls == []


def test_pairs_that_want_different_places_each_get_their_own() -> None:
    wanted = [[Fraction(1, 2)], [Fraction(1, 4)], [], quarters()]
    pairs = [pair(places, start=index / 10) for index, places in enumerate(wanted)]
    made = model_of(Middle()).between(pairs)
    assert [[one.place for one in each] for each in made] == wanted
    for index, each in enumerate(made):
        assert levels(each) == pytest.approx([index / 10 + float(t) / 2 for t in wanted[index]])


def test_on_the_cpu_every_pass_takes_one_pair_whatever_the_batch() -> None:
    network = Middle()
    model_of(network, batch=4).between([pair([Fraction(1, 2)]) for _ in range(3)])
    assert network.calls == [(1, 3, 16, 24)] * 3


def test_frames_above_the_area_go_through_in_patches_of_one_size() -> None:
    network = Middle()
    patch = PatchConfig(max_area=4096, size=128, overlap=32)
    (made,) = model_of(network, patch=patch).between([pair([Fraction(1, 2)], (150, 201))])
    assert set(network.calls) == {(1, 3, 128, 128)}
    assert made[0][0].shape == (3, 150, 201)
    assert torch.allclose(made[0][0], torch.full((3, 150, 201), 0.25), atol=1e-6)


def test_pictures_are_clamped_to_what_can_be_shown() -> None:
    class Wild(Middle):
        def forward(self, left: Tensor, right: Tensor, depth: int, **more: Any) -> Tensor:
            return super().forward(left, right, depth, **more) * 10 - 2

    (made,) = model_of(Wild()).between([pair(quarters())])
    assert all(0 <= float(each.picture.min()) <= float(each.picture.max()) <= 1 for each in made)


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (64, 40)])
def test_a_real_network_gives_frames_of_the_inputs_size_alone_or_in_company(size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    network = CAIN(channels=32, rcabs=1, groups=2, reduction=8).eval()
    random = torch.Generator().manual_seed(1)
    pairs = [
        Pair(torch.rand(3, *size, generator=random), torch.rand(3, *size, generator=random), [Fraction(1, 2)])
        for _ in range(3)
    ]
    model = model_of(network, exit_depth=2)
    together = [each[0][0] for each in model.between(pairs)]
    alone = [model.between([one])[0][0][0] for one in pairs]
    assert all(picture.shape == (3, *size) for picture in together)
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_the_blend_reaches_any_place_exactly() -> None:
    places = [Fraction(1, 3), Fraction(5, 7)]
    (made,) = Blend().between([pair(places)])
    assert [each.place for each in made] == places
    assert levels(made) == pytest.approx([1 / 6, 5 / 14])


def test_a_model_that_wants_them_gets_frames_brought_to_the_middle() -> None:
    frames = panned(6, 4)
    ends = Pair(frames[0][0], frames[2][0], [Fraction(1, 2)])
    plain = MidpointModel(cast(CAIN, Middle()), InterpolateConfig(), "cpu", "fp32")
    aligned = MidpointModel(cast(CAIN, Middle()), InterpolateConfig(), "cpu", "fp32", aligned=True)
    by = {name: model.between([ends])[0][0].picture[None] for name, model in {"no": plain, "yes": aligned}.items()}
    assert psnr(by["yes"], frames[1]) > psnr(by["no"], frames[1]) + 8
