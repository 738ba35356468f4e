from __future__ import annotations

import functools

import pytest
import torch

from models.dff import FeatureNet, FlowNet
from models.dff.cost import feature_cost, flow_cost, multiply_adds, predicted_speedup, ratio


@functools.cache
def features(depth: int) -> FeatureNet:
    with torch.device("meta"):
        return FeatureNet(depth)


@functools.cache
def flow(width: float) -> FlowNet:
    with torch.device("meta"):
        return FlowNet(width)


@pytest.mark.parametrize(
    ("depth", "width", "published"), [(50, 1.0, 9.20), (50, 0.5, 33.56), (101, 1.0, 12.71), (101, 0.5, 46.30)]
)
def test_cost_ratios_are_those_of_the_papers_table_2(depth: int, width: float, published: float) -> None:
    """At detection's frame size, which the paper does not state to the pixel: 600x1000 or with sides rounded to 16."""
    small, large = (ratio(features(depth), flow(width), *size) for size in ((600, 1000), (608, 1008)))
    assert min(abs(small - published), abs(large - published)) <= 0.0008 * published
    assert max(abs(small - published), abs(large - published)) <= 0.0025 * published


@pytest.mark.parametrize(
    ("size", "expected"),
    [((600, 1000), (118.67, 164.01, 12.90, 3.53)), ((1024, 2048), (407.59, 562.74, 43.64, 11.98))],
)
def test_costs_are_those_of_the_specification(size: tuple[int, int], expected: tuple[float, ...]) -> None:
    costs = (*(feature_cost(features(depth), *size) for depth in (50, 101)),
             *(flow_cost(flow(width), *size) for width in (1.0, 0.5)))  # fmt: skip
    assert [round(cost / 1e9, 2) for cost in costs] == list(expected)


def test_convolutions_are_counted_by_outputs_and_transposed_ones_by_inputs() -> None:
    assert multiply_adds(torch.nn.Conv2d(3, 5, 3, stride=2, padding=1), (2, 3, 8, 8)) == 2 * 5 * 3 * 9 * 16
    assert multiply_adds(torch.nn.ConvTranspose2d(3, 5, 4, stride=2), (1, 3, 8, 8)) == 5 * 3 * 16 * 64


def test_counting_leaves_a_real_network_as_it_is() -> None:
    network = FlowNet(1 / 16, 8).eval()
    before = [parameter.clone() for parameter in network.parameters()]
    assert flow_cost(network, 64, 64) > 0
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))


def test_the_predicted_speedup_is_equation_7() -> None:
    assert abs(predicted_speedup(5, 1 / 12.71) - 3.80) <= 0.01
    assert abs(predicted_speedup(10, 1 / 12.71) - 5.86) <= 0.01
    assert predicted_speedup(1, 0.5) == 1
