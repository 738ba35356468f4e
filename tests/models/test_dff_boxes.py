from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.dff.boxes import anchor_grid, clip, decode, encode, greedy, nms, overlaps, reference_anchors
from models.dff.psroi import bin_ranges, grouped_weights, ps_roi_vote, round_half_away


def boxes(count: int, seed: int, side: float = 60) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = 100 * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + side * torch.rand(count, 2, generator=generator)], 1)


def overlap(a: list[float], b: list[float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0]) + 1
    high = min(a[3], b[3]) - max(a[1], b[1]) + 1
    both = max(wide, 0) * max(high, 0)
    areas = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return both / (areas - both)


def one_after_another(candidates: Tensor, threshold: float) -> list[int]:
    """The definition of greedy suppression."""
    kept: list[int] = []
    for index, box in enumerate(candidates.tolist()):
        if all(overlap(box, candidates[other].tolist()) <= threshold for other in kept):
            kept.append(index)
    return kept


def test_the_anchors_are_the_official_ones() -> None:
    anchors = reference_anchors((8, 16, 32))
    # A 23x12 box at ratio 1/2, 16x16 at 1, 11x22 at 2 (specs 5), each times 8, 16, 32, around (7.5, 7.5).
    sides = (anchors[:, 2:] - anchors[:, :2] + 1).tolist()
    assert sides == [[w * s, h * s] for w, h in ((23, 12), (16, 16), (11, 22)) for s in (8, 16, 32)]
    assert torch.equal((anchors[:, :2] + anchors[:, 2:]) / 2, torch.full((9, 2), 7.5))


def test_the_grid_runs_over_rows_columns_anchors() -> None:
    anchors = reference_anchors((1, 2))
    grid = anchor_grid(anchors, 2, 3, 16).reshape(2, 3, 6, 4)
    assert torch.equal(grid[1, 2], anchors + torch.tensor([32.0, 16.0, 32.0, 16.0]))


def test_decoding_undoes_encoding_and_no_delta_moves_nothing() -> None:
    some, others = boxes(20, 0), boxes(20, 1)
    assert torch.allclose(decode(some, encode(some, others)), others, atol=1e-3)
    assert torch.allclose(decode(some, torch.zeros(20, 4)), some, atol=1e-4)
    moved = decode(torch.tensor([0.0, 0.0, 9.0, 19.0]), torch.tensor([0.5, 0.1, 0.0, 0.0]))
    assert torch.allclose(moved, torch.tensor([5.0, 2.0, 14.0, 21.0]))


def test_boxes_are_clipped_to_the_last_pixel() -> None:
    assert clip(torch.tensor([-3.0, 5.0, 99.0, 99.0]), (40, 50)).tolist() == [0, 5, 49, 39]


def test_overlaps_count_inclusive_ends() -> None:
    a = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    b = torch.tensor([[5.0, 0.0, 14.0, 9.0], [10.0, 0.0, 19.0, 9.0], [0.0, 0.0, 9.0, 9.0]])
    assert torch.allclose(overlaps(a, b), torch.tensor([[1 / 3, 0.0, 1.0]]))


@given(count=st.integers(1, 60), seed=st.integers(0, 999), threshold=st.sampled_from([0.1, 0.3, 0.5, 0.7]))
def test_suppression_keeps_what_going_one_after_another_keeps(count: int, seed: int, threshold: float) -> None:
    some = boxes(count, seed).double()
    assert nms(some, threshold, count).tolist() == one_after_another(some, threshold)


def test_suppression_in_blocks_is_the_same_and_stops_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    some = boxes(200, 5).double()
    expected = one_after_another(some, 0.3)
    assert len(expected) > 10
    monkeypatch.setattr("models.dff.boxes.BLOCK", 7)
    assert nms(some, 0.3, 200).tolist() == expected
    assert nms(some, 0.3, 5).tolist() == expected[:5]


def test_a_long_chain_of_suppressions_is_followed_to_its_end() -> None:
    """Each box overlaps the next only: every second survives, and the last is decided by the first."""
    count = 31
    chain = torch.eye(count, dtype=torch.bool).roll(1, 1)
    chain[-1, 0] = True  # a later box never suppresses an earlier one
    assert greedy(chain).nonzero()[:, 0].tolist() == list(range(0, count, 2))


def test_no_boxes_leave_no_boxes() -> None:
    assert nms(torch.zeros(0, 4), 0.5, 10).tolist() == []


def test_halves_are_rounded_away_from_zero() -> None:
    assert round_half_away(torch.tensor([0.5, 1.5, 2.5, -0.5, -2.5, 2.4])).tolist() == [1, 2, 3, -1, -3, 2]


def test_bins_are_rounded_before_they_are_scaled() -> None:
    """A region from 24.4 to 71.6 px: 24 to 73 (72 and its own pixel), 1.5 to 4.5625 cells; bins of 1.03 cells."""
    low, high = bin_ranges(torch.tensor([24.4]), torch.tensor([71.6]), 3, 10, 16)
    assert low.tolist() == [[1, 2, 3]]
    assert high.tolist() == [[3, 4, 5]]
    # torchvision scales 24.4 and 71.6 + 1 first, and would round them to 2 and 5.


def pooled(maps: Tensor, rois: Tensor, bins: int, stride: int) -> Tensor:
    """The definition, bin by bin: maps [D * bins²,h,w] -> [R,D]."""
    out = torch.zeros(len(rois), maps.shape[0] // bins**2, dtype=torch.float64)
    for r, roi in enumerate(rois):
        x, y = (bin_ranges(roi[i], roi[i + 2], bins, maps.shape[2 - i], stride) for i in (0, 1))
        for d in range(out.shape[1]):
            for row in range(bins):
                for column in range(bins):
                    part = maps[(d * bins + row) * bins + column, y[0][row] : y[1][row], x[0][column] : x[1][column]]
                    out[r, d] += part.double().mean() / bins**2 if part.numel() else 0
    return out


def test_votes_are_means_over_bins_of_the_means_of_their_own_maps() -> None:
    torch.manual_seed(0)
    bins, votes = 3, 4
    maps = torch.randn(2, votes * bins**2, 6, 7)
    rois = torch.cat([boxes(12, 2, side=90), torch.tensor([[0.0, 0.0, 111.0, 95.0], [110.5, 94.5, 111.0, 95.0],
                                                           [200.0, 200.0, 230.0, 230.0]])])  # fmt: skip
    regions = torch.stack([rois, rois.flip(0)])
    table = maps.reshape(2, votes, bins**2, 6, 7).permute(0, 3, 4, 2, 1)
    found = ps_roi_vote(table, regions, bins, 16)
    expected = torch.stack([pooled(m, r, bins, 16) for m, r in zip(maps, regions, strict=True)])
    assert (found - expected).abs().max() <= 1e-6
    assert found[0, -1].abs().max() == 0  # the last region lies outside: all its bins are empty


def test_maps_learn_from_votes() -> None:
    table = torch.randn(1, 4, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[[3.0, 5.0, 40.0, 60.0], [0.0, 0.0, 79.0, 63.0]]])
    assert torch.autograd.gradcheck(lambda x: ps_roi_vote(x, rois, 2, 16), (table,))


def test_grouped_weights_put_the_maps_of_a_bin_side_by_side() -> None:
    torch.manual_seed(1)
    convs = [torch.nn.Conv2d(5, 4 * d, 1) for d in (3, 2)]
    features = torch.randn(1, 5, 2, 3)
    weight, bias = grouped_weights(convs, 2)
    table = torch.nn.functional.linear(features.permute(0, 2, 3, 1), weight, bias).reshape(1, 2, 3, 4, 5)
    for conv, part in zip(convs, table.split([3, 2], -1), strict=True):
        expected = conv(features).reshape(1, -1, 4, 2, 3).permute(0, 3, 4, 2, 1)
        assert torch.allclose(part, expected, atol=1e-6)
