"""mIoU and mAP against their definitions, counted out by hand or by plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics_recognition import Confusion, average_precision, relative_l1, surer_than
from pipeline.records.recognition_schema import Detections
from pipeline.records.rle import VOID

NAMES = ("car", "person")


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Each (x1, y1, x2, y2, score, class)."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int32))


def test_iou_counted_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, VOID]], np.uint8)
    found = np.array([[0, 1, 1, 1], [0, VOID, 1, 0]], np.uint8)
    confusion = Confusion(3)
    confusion.add(found, truth)
    assert confusion.iou[:2] == pytest.approx([2 / 4, 3 / 4])
    assert math.isnan(confusion.iou[2]), "neither there nor found"
    assert confusion.miou == pytest.approx(5 / 8)
    assert confusion.pixel_accuracy == pytest.approx(5 / 7), "void in the truth does not count, void found is wrong"


def test_a_class_that_is_only_found_counts_as_wrong() -> None:
    confusion = Confusion(2)
    confusion.add(np.array([[0, 1]], np.uint8), np.array([[0, 0]], np.uint8))
    assert confusion.iou.tolist() == [0.5, 0]
    assert confusion.miou == 0.25


@given(st.integers(0, 999), st.integers(1, 5))
def test_iou_is_the_one_of_masks_and_frames_add_up(seed: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    frames = [random.choice([*range(classes), VOID], (2, 6, 7)).astype(np.uint8) for _ in range(3)]
    total, parts = Confusion(classes), [Confusion(classes) for _ in frames]
    for part, (found, truth) in zip(parts, frames, strict=True):
        total.add(found, truth)
        part.add(found, truth)
    assert np.array_equal((parts[0] + parts[1] + parts[2]).counts, total.counts)
    found, truth = (np.concatenate([frame[side].ravel() for frame in frames]) for side in (0, 1))
    for index in range(classes):
        ours, theirs = (found == index) & (truth != VOID), truth == index
        union = (ours | theirs).sum()
        expected = (ours & theirs).sum() / union if union else math.nan
        assert total.iou[index] == pytest.approx(expected, nan_ok=True)


def test_perfect_boxes_score_one_and_the_order_of_scores_decides() -> None:
    truth = boxes((0, 0, 10, 10, 1, 0), (20, 20, 30, 30, 1, 0))
    score = average_precision([(truth, truth)], NAMES)
    assert (score.map50, score.map50_95, score.boxes) == (1, 1, 2)
    assert math.isnan(score.ap50["person"]), "no true box: no part in the mean"
    wrong = (50, 50, 60, 60)
    late = average_precision(
        [(boxes((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 0), (*wrong, 0.1, 0)), truth)], NAMES
    )
    early = average_precision(
        [(boxes((0, 0, 10, 10, 0.5, 0), (20, 20, 30, 30, 0.4, 0), (*wrong, 0.9, 0)), truth)], NAMES
    )
    assert late.map50 == 1
    assert early.map50 == pytest.approx(2 / 3)


def test_a_missed_box_costs_its_share_of_recall_and_the_wrong_class_is_no_hit() -> None:
    truth = boxes((0, 0, 10, 10, 1, 0), (20, 20, 30, 30, 1, 0), (0, 0, 5, 5, 1, 1))
    found = boxes((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.9, 1), (0, 0, 5, 5, 0.8, 1))
    score = average_precision([(found, truth)], NAMES)
    assert score.ap50["car"] == pytest.approx(51 / 101), "the recall points 0 to 0.5 of COCO's 101"
    assert score.ap50["person"] == pytest.approx(0.5)
    assert score.map50 == pytest.approx((51 / 101 + 0.5) / 2)


def test_a_box_off_by_a_quarter_counts_at_half_overlap_only() -> None:
    truth, found = boxes((0, 0, 10, 10, 1, 0)), boxes((0, 0, 10, 7.6, 0.9, 0))
    score = average_precision([(found, truth)], NAMES)
    assert score.map50 == 1
    assert score.map50_95 == pytest.approx(6 / 10), "IoU 0.76: the bounds 0.5 to 0.75"


@given(st.integers(0, 999))
def test_average_precision_is_that_of_a_plain_loop(seed: int) -> None:
    random = np.random.default_rng(seed)

    def some(count: int) -> Detections:
        corners = random.integers(0, 12, (count, 2))
        sizes = random.integers(4, 9, (count, 2))
        scores = random.permutation(count)[:, None] / max(1, count) + random.random() / 10 / max(1, count)
        return boxes(*np.concatenate([corners, corners + sizes, scores, np.zeros((count, 1))], axis=1).tolist())

    frames = [(some(random.integers(0, 6)), some(random.integers(1, 4))) for _ in range(3)]
    assert average_precision(frames, NAMES).map50 == pytest.approx(_plain(frames), abs=1e-6)


def _plain(frames: list[tuple[Detections, Detections]]) -> float:
    hits: list[tuple[float, int, bool]] = []
    total = sum(len(truth) for _, truth in frames)
    for number, (found, truth) in enumerate(frames):
        free = set(range(len(truth)))
        for place in np.argsort(-found.scores, kind="stable"):
            overlaps = {other: _iou(found.boxes[place], truth.boxes[other]) for other in sorted(free)}
            best = max(overlaps, key=lambda other: (overlaps[other], other), default=None)
            hit = best is not None and overlaps[best] >= 0.5
            if hit:
                free.discard(best)
            hits.append((-float(found.scores[place]), number, hit))
    hits.sort(key=lambda one: (one[0], one[1]))
    right = np.cumsum([hit for *_, hit in hits])
    recall, precision = right / total, right / np.arange(1, len(hits) + 1)
    points = [precision[recall >= point - 1e-12].max(initial=0) for point in np.linspace(0, 1, 101)]
    return float(np.mean(points))


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    common = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return float(common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common))


def test_nothing_found_scores_nothing_and_nothing_to_find_is_no_number() -> None:
    truth = boxes((0, 0, 10, 10, 1, 0))
    assert average_precision([(Detections.none(), truth)], NAMES).map50 == 0
    assert math.isnan(average_precision([(truth, Detections.none())], NAMES).map50)
    assert math.isnan(Confusion(3).miou)
    assert math.isnan(Confusion(3).pixel_accuracy)


def test_only_the_surest_boxes_count_and_what_is_taken_for_true_can_be_chosen() -> None:
    truth = boxes((0, 0, 10, 10, 1, 0))
    found = boxes((50, 50, 60, 60, 0.9, 0), (0, 0, 10, 10, 0.5, 0))
    assert average_precision([(found, truth)], NAMES, most=1).map50 == 0
    assert surer_than(found, 0.7).boxes.tolist() == [[50, 50, 60, 60]]


def test_feature_error_is_relative_and_wants_like_shapes() -> None:
    own = np.array([[1.0, -3.0]], np.float32)
    assert relative_l1(own * 1.5, own) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="like with like"):
        relative_l1(own[:, :1], own)
    with pytest.raises(ValueError, match="one size"):
        Confusion(2).add(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
