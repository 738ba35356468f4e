"""Overlays: what is painted where, and that nothing is painted outside."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.records.lettering import _GLYPHS, size_of, write
from pipeline.records.overlay import draw_boxes, draw_overlay, paint_labels
from pipeline.records.palette import class_palette
from pipeline.records.recognition_schema import Detections
from pipeline.records.rle import VOID
from tests.records.recognition_samples import CLASSES, row

PALETTE = class_palette(CLASSES)


def test_labels_tint_the_frame_borders_stand_out_and_void_stays() -> None:
    rgb = np.full((6, 9, 3), 100, np.uint8)
    labels = np.zeros((6, 9), np.uint8)
    labels[:, 4:] = 1
    labels[:, 8] = VOID
    picture = paint_labels(rgb, labels, PALETTE, opacity=0.5)
    assert picture[0, 0].tolist() == [(100 + int(part)) // 2 for part in PALETTE[0]]
    assert picture[3, 4].tolist() == PALETTE[1].tolist(), "a border, in full colour"
    assert (picture[:, 8] == 100).all()
    assert (rgb == 100).all(), "the frame itself is left alone"


def test_boxes_are_framed_inside_the_picture_and_the_surest_is_on_top() -> None:
    rgb = np.zeros((60, 80, 3), np.uint8)
    boxes = np.array([[10, 20, 40, 50], [-30, -30, 500, 500], [10, 20, 40, 50]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.35, 0.4], np.float32), np.array([2, 0, 3], np.int32))
    picture = draw_boxes(rgb, found, CLASSES, PALETTE)
    assert (picture[49, 11:39] == PALETTE[2]).all()
    assert (picture[59, 1:79] == PALETTE[0]).all(), "cut at the picture's edge"
    assert (picture[30, 20] == 0).all(), "nothing inside"
    empty = draw_boxes(rgb, Detections.none(), CLASSES, PALETTE)
    assert np.array_equal(empty, rgb)
    doubtful = Detections(boxes, np.array([0.05, 0.34, 0.1], np.float32), np.array([2, 0, 3], np.int32))
    assert np.array_equal(draw_boxes(rgb, doubtful, CLASSES, PALETTE), rgb), "what is stored for measures is not drawn"


def test_an_overlay_tells_key_frames_from_others() -> None:
    rgb = np.full((24, 40, 3), 90, np.uint8)
    key, carried = (draw_overlay(rgb, row(frame), CLASSES) for frame in (5, 7))
    assert (key[-1, 0] == (255, 190, 0)).all()
    assert (carried[-1, 0] == (30, 30, 30)).all()
    assert key.shape == rgb.shape
    large = np.zeros((720, 900, 3), np.uint8)
    before = row(7, height=720, width=900)
    both = row(7, height=720, width=900, side="both", other_key_pts=10 * 512, share=0.6)
    assert not np.array_equal(draw_overlay(large, before, CLASSES), draw_overlay(large, both, CLASSES))
    with pytest.raises(ValueError, match="uint8 RGB"):
        draw_overlay(rgb[1:], row(5), CLASSES)


def test_reduced_labels_and_boxes_of_tiny_frames_are_drawn() -> None:
    rgb = np.full((24, 40, 3), 90, np.uint8)
    small = row(5, labels=np.zeros((3, 5), np.uint8))
    assert (draw_overlay(rgb, small, CLASSES)[12, 39] != 90).any()
    one = np.zeros((1, 1, 3), np.uint8)
    assert draw_overlay(one, row(5, height=1, width=1, kind="detection"), CLASSES).shape == (1, 1, 3)


def test_classes_have_colours_of_their_own_whatever_their_number() -> None:
    palette = class_palette([f"class {number}" for number in range(40)])
    colours = palette[:40].astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(40, dtype=int)
    assert apart.min() > 20
    assert (palette[40:] == 0).all()
    assert class_palette(["x", "Car"])[1].tolist() == class_palette(["a", "car"])[1].tolist() == [0, 0, 142]


def test_letters_are_written_on_a_box_and_cut_at_the_edge() -> None:
    for glyph in _GLYPHS.values():
        assert glyph.shape == (7, 5)
    assert len({glyph.tobytes() for glyph in _GLYPHS.values()}) == len(_GLYPHS), "no two alike"
    picture = np.full((20, 30, 3), 9, np.uint8)
    write(picture, "i", 2, 3, (255, 0, 0), (0, 0, 1))
    height, width = size_of("i")
    box = picture[2 : 2 + height, 3 : 3 + width]
    assert {tuple(pixel) for pixel in box.reshape(-1, 3).tolist()} == {(255, 0, 0), (0, 0, 1)}
    assert np.array_equal((box[1:8, 1:6] == (255, 0, 0)).all(-1), _GLYPHS["I"])
    picture[2 : 2 + height, 3 : 3 + width] = 9
    assert (picture == 9).all()
    for top, left in ((-4, -3), (18, 28), (-99, 5), (5, 99), (0, -99)):
        write(picture, "ö", top, left, (255, 0, 0), (0, 0, 1), scale=2)
    assert picture.shape == (20, 30, 3)
