"""Run-length strings against COCO's own code, and back."""

from __future__ import annotations

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.records.rle import VOID, Segment, decode_labels, decode_mask, encode_labels, encode_mask

SIZES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)
MASKS = arrays.arrays(np.bool_, SIZES)


@st.composite
def blobs(draw: st.DrawFn) -> np.ndarray:
    """Label maps of large patches, as networks make them, with some void."""
    height, width = draw(SIZES)
    labels = np.full((height, width), VOID, np.uint8)
    for _ in range(draw(st.integers(0, 6))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        value = draw(st.sampled_from([0, 1, 2, 18, 254, VOID]))
        labels[top : top + draw(st.integers(1, height)), left : left + draw(st.integers(1, width))] = value
    return labels


@given(MASKS)
def test_a_mask_becomes_the_string_that_coco_makes_of_it_and_comes_back(mask: np.ndarray) -> None:
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert encode_mask(mask) == expected
    assert np.array_equal(decode_mask(expected, *mask.shape), mask)


@given(blobs())
def test_each_class_of_a_label_map_is_a_segment_with_coco_s_area_and_box(labels: np.ndarray) -> None:
    segments = encode_labels(labels)
    assert [segment.class_id for segment in segments] == sorted({*labels.ravel().tolist()} - {VOID})
    for segment in segments:
        mask = labels == segment.class_id
        theirs = {"size": list(labels.shape), "counts": segment.rle.encode()}
        assert np.array_equal(coco.decode(theirs), mask)
        assert segment.area == coco.area(theirs) == mask.sum()
        assert list(segment.bbox) == list(coco.toBbox(theirs))
    assert np.array_equal(decode_labels(segments, *labels.shape), labels)


def test_long_runs_and_large_frames_keep_their_counts() -> None:
    mask = np.zeros((4320, 7680), np.bool_)
    mask[1000:, 4000:4003] = True
    mask[-1, -1] = True
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert encode_mask(mask) == expected
    assert np.array_equal(decode_mask(expected, *mask.shape), mask)


@pytest.mark.parametrize("string", ["", "é", "0" * 3 + "P", "~", "\x00"])
def test_what_is_no_string_of_runs_is_refused(string: str) -> None:
    with pytest.raises(ValueError, match=r"RLE|run-length"):
        decode_mask(string, 4, 4)


def test_a_string_for_another_size_and_segments_that_overlap_are_refused() -> None:
    whole = encode_mask(np.ones((4, 4), np.bool_))
    with pytest.raises(ValueError, match="RLE of 16 pixels for a mask of 4x5"):
        decode_mask(whole, 4, 5)
    segment = Segment(3, whole, 16, (0, 0, 4, 4))
    with pytest.raises(ValueError, match="class 3 overlaps"):
        decode_labels([segment, segment], 4, 4)
