"""Confidence and validity of a flow, and the lookup they rest on, against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from models.memfof import confidence, consistent, inside_frame
from models.memfof.corr import StoredCorrelation, all_pairs, lookup, pyramid


def info(first: float, second: float, log_scale: float) -> torch.Tensor:
    return torch.tensor([first, second, log_scale, 7.0]).view(1, 4, 1, 1)  # the fourth is clamped to 0


def test_confidence_is_one_where_the_plain_component_explains_all() -> None:
    assert confidence(info(-50, 50, 10)).item() == pytest.approx(1)
    assert confidence(info(0, 0, -3)).item() == 1  # a negative log-scale counts as 0


def test_confidence_falls_with_the_expected_log_scale() -> None:
    assert confidence(info(50, -50, 2)).item() == pytest.approx(math.exp(-2))
    assert confidence(info(0, 0, 2)).item() == pytest.approx(math.exp(-1))
    assert confidence(info(50, -50, 99)).item() == pytest.approx(math.exp(-10))


def constant(x: float, y: float, height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.tensor([x, y]).view(1, 2, 1, 1).expand(1, 2, height, width)


def test_flow_that_leaves_the_frame_is_not_valid() -> None:
    inside = inside_frame(constant(4, -3))
    assert inside[0, 3:, :26].all()
    assert not inside[0, :3].any()
    assert not inside[0, :, 26:].any()


def test_flow_that_comes_back_is_valid_where_it_stays_in_the_frame() -> None:
    there, back = constant(4, -3), constant(-4, 3)
    assert torch.equal(consistent(there, back), inside_frame(there))


def test_flow_that_does_not_come_back_is_not_valid() -> None:
    assert not consistent(constant(4, -3), constant(4, 3)).any()
    assert consistent(constant(0.5, 0), constant(0, 0)).any()  # half a pixel is forgiven
    assert not consistent(constant(0.8, 0), constant(0, 0)).any()


def test_the_way_back_is_read_where_the_flow_points() -> None:
    """A zoom: the flow grows with the distance, and its inverse is read at the target."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    centre = torch.tensor([24.5, 19.5]).view(2, 1, 1)
    place = torch.stack([x, y]) - centre
    there, back = (0.25 * place)[None], (-0.2 * place)[None]
    assert torch.equal(consistent(there, back), inside_frame(there))
    assert not consistent(there, back * 3).any(dim=(1, 2)).logical_not().any()  # near the centre all is small
    assert consistent(there, back * 3).sum() < consistent(there, back).sum()


def test_a_frame_of_one_pixel_has_a_validity() -> None:
    assert consistent(constant(0, 0, 1, 1), constant(0, 0, 1, 1)).item()


def test_the_lookup_equals_bilinear_sampling_of_each_level() -> None:
    """Against grid_sample, in RAFT's order: level, then x offset, then y offset."""
    height, width, levels, radius = 9, 13, 3, 2
    torch.manual_seed(0)
    maps = pyramid(torch.randn(height * width, height * width), height, width, levels)
    centre = torch.rand(height * width, 2) * torch.tensor([width + 6.0, height + 6.0]) - 3
    found = lookup(maps, centre, radius).view(-1, levels, 2 * radius + 1, 2 * radius + 1)
    offsets = torch.arange(-radius, radius + 1.0)
    for level, values in enumerate(maps):
        h, w = values.shape[-2:]
        x = centre[:, 0, None, None] / 2**level + offsets[:, None]
        y = centre[:, 1, None, None] / 2**level + offsets[None, :]
        at = torch.stack(torch.broadcast_tensors((2 * x + 1) / w - 1, (2 * y + 1) / h - 1), -1)
        expected = F.grid_sample(values[:, None], at, align_corners=False)[:, 0]
        torch.testing.assert_close(found[:, level], expected, rtol=0, atol=1e-4)


def test_a_diverged_flow_reads_zeros_instead_of_crashing() -> None:
    read = StoredCorrelation(all_pairs(*torch.randn(2, 1, 8, 8, 8)), 8, 8, 4, 4)
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, :, 0] = 1e30
    flow[:, :, 1] = -torch.inf
    flow[:, :, 2] = torch.nan
    values = read(flow)
    assert (values[:, :, 0] == 0).all()
    assert values[:, :, 3:].isfinite().all()
