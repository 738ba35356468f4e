from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.dff import SegHead
from models.dff.segmentation import Grid, Placement, candidates, dense_labels, exact_labels, reduced_labels
from tests.models.dff_weights import SIZES, features, frames, golden, published, relative, seg_head, shapes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("which", ["key", "cur"])
def test_scores_and_labels_are_the_expected_ones(size: str, which: str) -> None:
    head, expected = seg_head(), golden(size)
    pixels = (frames(size).shape[-2], frames(size).shape[-1])
    with torch.inference_mode():
        scores = head(features(size)[which], pixels)
        labels = head.labels(features(size)[which], pixels)
    assert relative(scores[..., ::8, ::8], expected[f"seg_interp/{which}/logits_s8"]) <= 2e-5
    differ = torch.from_numpy(expected[f"seg_interp/{which}/argmax"]) != labels
    margin = scores.topk(2, 1).values.diff(dim=1).abs()[:, 0]
    assert not differ.any() or margin[differ].max() <= 1e-4 * scores.abs().max()
    assert differ.float().mean() <= 1e-4


def test_a_fresh_head_has_the_published_names_and_shapes() -> None:
    own = SegHead().to_reference()
    assert {name: tuple(tensor.shape) for name, tensor in own.items()} == shapes("seg_head_interp")
    assert SegHead.from_reference(published("seg_head_interp")).sizes == {"classes": 19, "channels": 1024, "stride": 16}


def blobs(classes: int, height: int, width: int, seed: int) -> Tensor:
    """Scores [1,C,h,w] of a few large regions with some noise, as networks give them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, 2 + height // 6, 2 + width // 6, generator=generator)
    fine = F.interpolate(coarse, (height, width), mode="bicubic")
    return 5 * fine + 0.2 * torch.randn(1, classes, height, width, generator=generator)


@pytest.mark.parametrize("placement", ["frame", "cells"])
@given(
    height=st.integers(1, 150), width=st.integers(1, 150), classes=st.integers(1, 12),
    stride=st.sampled_from([4, 8, 16]), noisy=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_exact_labels_are_those_of_all_scores_upsampled(
    placement: Placement, height: int, width: int, classes: int, stride: int, noisy: bool, seed: int
) -> None:
    cells = (-(-height // stride), -(-width // stride))
    grid = Grid((height, width), cells, stride if placement == "cells" else None)
    scores = blobs(classes, *cells, seed)
    if noisy:
        scores = torch.randn(scores.shape, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(exact_labels(scores, grid), dense_labels(scores, grid))


def test_only_outlines_are_upsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = blobs(19, 32, 64, seed=3)
    quads = F.unfold(scores, 2).unflatten(1, (19, 4)).permute(0, 3, 1, 2).flatten(0, 1)
    possible = candidates(quads, 0.0).sum(1)
    assert (possible == 1).float().mean() > 0.4
    assert possible.float().mean() < 3
    # And the whole frame never is, so that what the head saves is not lost unseen.
    monkeypatch.setattr("models.dff.segmentation.upsampled", lambda *_: pytest.fail("everything was upsampled"))
    exact_labels(scores, Grid((512, 1024), (32, 64)))


def test_a_class_that_is_second_everywhere_may_win_between_the_winners() -> None:
    scores = torch.tensor([[[[4.0, -4.0]], [[-4.0, 4.0]], [[1.0, 1.0]]]])  # A wins left, B right, C between
    labels = exact_labels(scores, Grid((16, 32), (1, 2), 16))
    assert labels[0, 0].unique().tolist() == [0, 1, 2]


def test_a_frames_labels_do_not_depend_on_its_batch() -> None:
    grid = Grid((100, 140), (7, 9))
    scores = torch.cat([blobs(5, 7, 9, seed) * 10.0**seed for seed in range(3)])
    assert torch.equal(exact_labels(scores, grid), torch.cat([exact_labels(one[None], grid) for one in scores]))


@pytest.mark.parametrize("placement", ["frame", "cells"])
@pytest.mark.parametrize("step", [1, 3, 4, 8])
def test_reduced_labels_are_the_exact_ones_in_the_middle_of_each_step(placement: Placement, step: int) -> None:
    grid = Grid((90, 131), (6, 9), 16 if placement == "cells" else None)
    scores = blobs(7, 6, 9, seed=1)
    exact, reduced = dense_labels(scores, grid), reduced_labels(scores, grid, step)
    assert reduced.shape == exact.shape
    if step % 2:  # the middle is a pixel
        middle = slice(step // 2, None, step)
        assert torch.equal(reduced[:, middle, middle], exact[:, middle, middle])
    blocks = reduced[:, : 90 // step * step, : 131 // step * step].unfold(1, step, step).unfold(2, step, step)
    assert (blocks == blocks[..., :1, :1]).all()
    assert (reduced != exact).float().mean() < 0.02 * step


def test_both_placements_agree_where_sides_are_multiples_of_the_stride_and_differ_elsewhere() -> None:
    torch.manual_seed(0)
    a = SegHead(5, 8)
    b = SegHead(5, 8, placement="cells")
    b.load_state_dict(a.state_dict())
    with torch.inference_mode():
        whole, cut = torch.randn(1, 8, 4, 6), torch.randn(1, 8, 4, 6)
        assert torch.allclose(a(whole, (64, 96)), b(whole, (64, 96)), atol=1e-6)
        assert not torch.allclose(a(cut, (50, 90)), b(cut, (50, 90)), atol=1e-3)


def test_labels_are_bytes_of_the_frames_size_in_either_mode() -> None:
    head = SegHead(4, 8)
    with torch.inference_mode():
        for mode in ("exact", "reduced"):
            labels = head.labels(torch.randn(2, 8, 3, 5), (40, 71), mode)
            assert labels.shape == (2, 40, 71)
            assert labels.dtype == torch.uint8


def test_under_autocast_scores_are_still_told_apart_in_fp32() -> None:
    head, at = SegHead(19, 64), torch.randn(1, 64, 4, 6)
    with torch.inference_mode():
        expected = head.labels(at, (64, 96))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(head.labels(at, (64, 96)), expected)


def test_wrong_arguments_are_named() -> None:
    head = SegHead(4, 8)
    with pytest.raises(ValueError, match=r"features are \[3, 5\] cells; a frame of 64x71 px has 4x5 cells of 16 px"):
        head.labels(torch.zeros(1, 8, 3, 5), (64, 71))
    with pytest.raises(ValueError, match="step is 0"):
        head.labels(torch.zeros(1, 8, 3, 5), (40, 71), "reduced", 0)
    with pytest.raises(ValueError, match="classes is 256"):
        SegHead(256)
