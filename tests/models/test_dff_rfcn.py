from __future__ import annotations

import numpy as np
import pytest
import torch

from models.dff import RFCNHead
from models.dff.rfcn import PROPOSALS, best
from tests.models.dff_weights import SIZES, features, frames, golden, resized, rfcn_head, shapes


def compact() -> RFCNHead:
    return RFCNHead.from_reference(resized(RFCNHead(3, 16, bins=3).to_reference()))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("which", ["key", "cur"])
def test_proposals_scores_and_detections_are_the_official_ones(size: str, which: str) -> None:
    head, at = rfcn_head(), features(size)[which]
    pixels = (frames(size).shape[-2], frames(size).shape[-1])
    expected = {name: golden(size)[f"rfcn/{which}/{name}"] for name in ("rois", "cls_prob", "bbox_delta", "dets")}
    with torch.inference_mode():
        rois = head.propose(*head.rpn(at), pixels)
        logits, deltas = head.scored(at, torch.from_numpy(expected["rois"][None, :, 1:]))
        (found,) = head(at, pixels)
    assert np.abs(rois[0].numpy() - expected["rois"][:, 1:]).max() <= 2e-3
    assert np.abs(logits.softmax(-1)[0].numpy() - expected["cls_prob"]).max() <= 1e-6
    assert np.abs(deltas[0].numpy() - expected["bbox_delta"]).max() <= 1e-5
    assert len(found) == len(expected["dets"])
    assert found.classes.tolist() == (expected["dets"][:, 5] - 1).astype(int).tolist()  # theirs begins with background
    assert np.abs(found.boxes.numpy() - expected["dets"][:, :4]).max() <= 5e-3
    assert np.abs(found.scores.numpy() - expected["dets"][:, 4]).max() <= 1e-6


def test_a_fresh_head_has_the_published_names_and_shapes() -> None:
    own = RFCNHead().to_reference()
    assert {name: tuple(tensor.shape) for name, tensor in own.items()} == shapes("rfcn_head")


def test_sizes_are_read_off_the_tensors_and_the_test_weights_are_preferred() -> None:
    tensors = compact().to_reference()
    test = {f"{name}_test": tensor * 2 for name, tensor in tensors.items() if "rfcn_bbox" in name}
    head = RFCNHead.from_reference({**tensors, **test})
    assert head.sizes == {"classes": 3, "channels": 16, "bins": 3, "scales": (8, 16, 32), "stride": 16}
    assert torch.equal(head.rfcn_bbox.weight, compact().rfcn_bbox.weight * 2)


def test_fewer_proposals_are_repeated_in_turn() -> None:
    head = compact()
    with torch.inference_mode():
        (rois,) = head.propose(*head.rpn(torch.randn(1, 16, 2, 2)), (32, 32))
    assert len(rois) == PROPOSALS
    first = next(i for i in range(1, PROPOSALS) if torch.equal(rois[i], rois[0]))
    assert first <= 36
    assert torch.equal(rois, rois[:first].repeat(PROPOSALS // first + 1, 1)[:PROPOSALS])


def test_cells_that_the_frame_covers_in_part_propose_nothing() -> None:
    head = compact()
    logits, deltas = torch.zeros(1, 3 * 4 * 9, 2), torch.zeros(1, 3 * 4 * 9, 4)
    logits = logits.reshape(1, 3, 4, 9, 2)
    logits[:, 2, :, 4, 1] = 9.0  # the last row of a frame of 40 px has 8 px of its 16
    logits[:, 0, 1, 4, 1] = 5.0
    (rois,) = head.propose(logits.reshape(1, -1, 2), deltas, (40, 64))
    whole = head.anchors((40, 64), logits).reshape(3, 4, 9, 4)[0, 1, 4]
    assert torch.equal(rois[0], torch.minimum(whole.clamp(min=0), torch.tensor([63.0, 39.0, 63.0, 39.0])))


def test_boxes_are_given_in_the_frames_pixels() -> None:
    head, at = compact(), torch.randn(1, 16, 4, 6)
    with torch.inference_mode():
        (same,), (larger,) = head(at, (64, 96)), head(at, (64, 96), scale=0.5)
    assert torch.allclose(larger.boxes, same.boxes * 2, atol=1e-2)
    assert same.boxes.min() >= 0
    assert same.boxes.amax(0).tolist() <= [95, 63, 95, 63]


def test_a_frames_objects_do_not_depend_on_its_batch() -> None:
    head, batch = compact(), torch.randn(3, 16, 4, 6)
    with torch.inference_mode():
        together = head(batch, (64, 96))
        for alone, found in zip(batch, together, strict=True):
            (expected,) = head(alone[None], (64, 96))
            assert torch.equal(found.boxes, expected.boxes)
            assert torch.equal(found.scores, expected.scores)


def test_suppression_is_within_classes_and_low_scores_are_dropped() -> None:
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [1.0, 0.0, 10.0, 9.0], [50.0, 50.0, 59.0, 59.0]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.6], [5e-5, 0.3]])
    found = best(boxes, scores)
    assert found.classes.tolist() == [0, 1, 1]
    assert torch.equal(found.boxes, boxes[[0, 1, 2]])
    assert torch.equal(found.scores, torch.tensor([0.9, 0.6, 0.3]))


def test_the_best_300_are_kept_with_all_that_tie_with_the_last() -> None:
    boxes = torch.arange(400.0)[:, None] * 20 + torch.tensor([0.0, 0.0, 9.0, 9.0])  # far from one another
    scores = torch.linspace(0.2, 0.9, 400)[:, None].clone()
    scores[98:101] = scores[100]  # ranks 300 to 302
    assert len(best(boxes, scores)) == 302


def test_the_head_learns_through_pooling() -> None:
    head = compact().train()
    logits, deltas = head.scored(torch.randn(2, 16, 4, 6), torch.tensor([[[0.0, 0.0, 60.0, 50.0]]]).expand(2, -1, -1))
    (logits.square().sum() + deltas.square().sum()).backward()
    for layer in (head.rfcn_cls, head.rfcn_bbox):
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().sum() > 0


def test_anchors_that_do_not_fit_the_checkpoint_are_refused() -> None:
    with pytest.raises(ValueError, match=r"arg:rpn_cls_score_weight has shape \[18, 8, 1, 1\]; this R-FCN head needs"):
        RFCNHead.from_reference(compact().to_reference(), scales=(8, 16))
