"""Flows between neighbours, followed to a frame farther away: against motion that is known in closed form."""

from __future__ import annotations

import pytest
import torch

from models.dff.chain import Field, cells_of, field_of, followed, places_a_cell

SIZE = (96, 160)


def affine(matrix: torch.Tensor, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """[2,H,W] px: the flow p -> matrix (p - centre) + centre."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
    place = torch.stack([x, y]).float()
    return torch.einsum("ij,jhw->ihw", matrix, place) - place


def test_constant_motion_adds_up_in_cells() -> None:
    flow = torch.tensor([3.0, -2.0])[:, None, None].expand(2, *SIZE)
    step = field_of(flow, None, SIZE, SIZE, 4)
    assert step.flow.shape == (2, 24, 40)
    cells = cells_of(followed([step] * 4), 4)
    assert cells.shape == (1, 2, 6, 10)
    assert torch.allclose(cells[0, :, 2, 5], torch.tensor([12.0, -8.0]) / 16, atol=1e-5)


def test_a_zoom_and_turn_are_followed_as_their_matrix_s_power() -> None:
    turn = torch.tensor([[0.96, -0.06], [0.06, 0.96]])
    step = field_of(affine(turn), None, SIZE, SIZE, 4)
    for count in (3, 5):
        found = cells_of(followed([step] * count), 4)[0]
        expected = cells_of(field_of(affine(torch.linalg.matrix_power(turn, count)), None, SIZE, SIZE, 4), 4)[0]
        inner = (slice(None), slice(1, -1), slice(1, -1))
        error = (found[inner] - expected[inner]).abs().max()
        assert error < 0.02, "cells"
        once = cells_of(step, 4)[0] * count
        assert (once[inner] - expected[inner]).abs().max() > 5 * error, "adding up without following is worse"


@pytest.mark.parametrize("stored", [(96, 160), (48, 80), (24, 40), (54, 90)])
def test_a_stored_flow_keeps_its_motion_at_other_sizes(stored: tuple[int, int]) -> None:
    """Values are px of the full frame at any stored scale; the networks may see a smaller frame."""
    full = torch.tensor([8.0, 4.0])[:, None, None].expand(2, *stored)
    for size in ((96, 160), (48, 80)):
        cells = cells_of(field_of(full, None, SIZE, size, 4), 4)[0]
        scale = size[1] / SIZE[1]
        assert torch.allclose(cells[:, 1, 2], torch.tensor([8.0, 4.0]) * scale / 16, atol=1e-5)


def test_a_cell_takes_the_mean_of_its_valid_places() -> None:
    flow = torch.zeros(2, *SIZE)
    flow[0, :, 8:16] = 100.0  # half of the second half of the first column of cells
    valid = torch.ones(SIZE, dtype=torch.bool)
    valid[:, 8:16] = False
    assert cells_of(field_of(flow, None, SIZE, SIZE, 4), 4)[0, 0, 3, 0] > 3
    assert cells_of(field_of(flow, valid, SIZE, SIZE, 4), 4)[0, 0, 3, 0] == 0
    nowhere = cells_of(field_of(flow, torch.zeros_like(valid), SIZE, SIZE, 4), 4)
    assert torch.equal(nowhere, cells_of(field_of(flow, None, SIZE, SIZE, 4), 4)), "then all of them"


def test_what_is_followed_through_something_invalid_or_out_of_the_frame_is_invalid() -> None:
    right = torch.tensor([16.0, 0.0])[:, None, None].expand(2, *SIZE)
    first = field_of(right, None, SIZE, SIZE, 4)
    hidden = torch.ones(SIZE, dtype=torch.bool)
    hidden[:, 64:80] = False
    second = field_of(right, hidden, SIZE, SIZE, 4)
    both = followed([first, second])
    assert not both.valid[:, 12:16].any(), "they look 4 places to the right"
    assert both.valid[:, 4:11].all()
    assert not both.valid[:, -4:].any(), "they leave the frame"
    assert first.valid.all()


def test_strides_are_divided_into_places() -> None:
    assert [places_a_cell(stride) for stride in (16, 8, 4, 6, 1)] == [4, 4, 4, 6, 1]
    single = Field(torch.zeros(2, 5, 7), torch.ones(5, 7, dtype=torch.bool))
    assert cells_of(single, 4).shape == (1, 2, 2, 2), "the last cells are cut"
