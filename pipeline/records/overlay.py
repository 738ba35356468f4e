"""Pictures that people can look at: a frame with what was recognised in it, and where its features came from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.records import lettering
from pipeline.records.lettering import Colour, Picture
from pipeline.records.palette import class_palette
from pipeline.records.recognition_schema import Detections, RecognitionRow, enlarged
from pipeline.records.rle import VOID, Labels

OPACITY = 0.5
SHOWN = 0.002
"""Share of the frame from which a class is listed."""
SURE = 0.35
"""Score from which an object is drawn. Records hold less sure ones too, for measures that go over all scores."""
_KEY_PAPER: Colour = (255, 190, 0)
_PAPER: Colour = (30, 30, 30)


def draw_overlay(rgb: Picture, row: RecognitionRow, classes: Sequence[str], *, opacity: float = OPACITY) -> Picture:
    """A copy of the frame [H,W,3] RGB with its row's labels or boxes, their names, and a line about its key frame."""
    if rgb.shape != (row.height, row.width, 3) or rgb.dtype != np.uint8:
        raise ValueError(
            f"frame {row.frame_index} of {row.video_id} is {rgb.dtype} {list(rgb.shape)}; uint8 RGB of "
            f"{[row.height, row.width, 3]} is wanted"
        )
    palette, scale = class_palette(classes), max(1, row.height // 360)
    if row.labels is not None:
        labels = enlarged(row.labels, row.height, row.width)
        picture = paint_labels(rgb, labels, palette, opacity)
        _list_classes(picture, labels, classes, palette, scale)
    else:
        assert row.detections is not None
        picture = draw_boxes(rgb, row.detections, classes, palette, scale)
    text = _status(row)
    top = row.height - lettering.size_of(text, scale)[0]
    ink, paper = ((0, 0, 0), _KEY_PAPER) if row.is_key else ((255, 255, 255), _PAPER)
    lettering.write(picture, text, top, 0, ink, paper, scale)
    return picture


def paint_labels(rgb: Picture, labels: Labels, palette: NDArray[np.uint8], opacity: float = OPACITY) -> Picture:
    """The frame [H,W,3] tinted with its label map [H,W]; borders between classes in full colour, void as it was."""
    weight = round(256 * opacity)
    tinted = (rgb.astype(np.uint16) * (256 - weight) + palette[labels].astype(np.uint16) * weight) >> 8
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    picture = np.where(border[..., None], palette[labels], tinted.astype(np.uint8))
    return np.where((labels == VOID)[..., None], rgb, picture)


def draw_boxes(
    rgb: Picture, found: Detections, classes: Sequence[str], palette: NDArray[np.uint8], scale: int = 1
) -> Picture:
    """The frame [H,W,3] with a frame around each object that is SURE, its class and score above; the surest on top."""
    picture = rgb.copy()
    height, width = rgb.shape[:2]
    order = np.argsort(found.scores, kind="stable")
    for place in order[found.scores[order] >= SURE]:
        colour = palette[found.classes[place]]
        x1, y1, x2, y2 = (round(float(edge)) for edge in found.boxes[place])
        x1, x2 = (min(max(0, x), width) for x in (x1, x2))
        y1, y2 = (min(max(0, y), height) for y in (y1, y2))
        line = 2 * scale
        for rows, columns in (
            (slice(y1, min(y1 + line, y2)), slice(x1, x2)),
            (slice(max(y1, y2 - line), y2), slice(x1, x2)),
            (slice(y1, y2), slice(x1, min(x1 + line, x2))),
            (slice(y1, y2), slice(max(x1, x2 - line), x2)),
        ):
            picture[rows, columns] = colour
        text = f"{classes[found.classes[place]]} {found.scores[place]:.2f}"
        tall = lettering.size_of(text, scale)[0]
        red, green, blue = (int(part) for part in colour)
        lettering.write(picture, text, max(0, y1 - tall), x1, _ink_on(colour), (red, green, blue), scale)
    return picture


def _list_classes(
    picture: Picture, labels: Labels, classes: Sequence[str], palette: NDArray[np.uint8], scale: int
) -> None:
    pixels = np.bincount(labels.reshape(-1), minlength=VOID + 1)
    top = 0
    for place in np.argsort(-pixels[: len(classes)], kind="stable"):
        if pixels[place] >= SHOWN * labels.size:
            red, green, blue = (int(part) for part in palette[place])
            lettering.write(picture, classes[place], top, 0, _ink_on(palette[place]), (red, green, blue), scale)
            top += lettering.size_of(classes[place], scale)[0]


def _ink_on(paper: NDArray[np.uint8]) -> Colour:
    light = float(paper @ np.array([0.299, 0.587, 0.114])) > 120
    return (0, 0, 0) if light else (255, 255, 255)


def _status(row: RecognitionRow) -> str:
    if row.is_key:
        return "key frame (promoted)" if row.promoted else "key frame"
    residual = "" if row.residual is None else f", residual {row.residual:.2f}"
    if row.side == "both":
        return f"from key frames on both sides, {row.gap} away{residual}"
    return f"from the key frame {row.gap} {row.side}{residual}"
