"""COCO's run-length encoding of masks, and of whole label maps class by class: pure numpy, one pass over the pixels.

Runs go down the columns (column-major), beginning with a run of zeros that may be empty. The string writes each count
as its difference from the one two before it, in groups of five bits, low ones first, each in a printable character.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

VOID = 255
"""In a label map: no class."""

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
_Ints = NDArray[np.int64]
_Value = TypeVar("_Value", np.uint8, np.bool_)


@dataclass(frozen=True, slots=True)
class Segment:
    """All pixels of one class in one frame."""

    class_id: int
    rle: str
    """COCO's "counts"; "size" is the label map's (height, width)."""
    area: int
    """Pixels."""
    bbox: tuple[int, int, int, int]
    """x, y, width, height in pixels, as COCO has it."""


def encode_mask(mask: Mask) -> str:
    """The string for a mask [H,W]."""
    starts, values = _runs(np.ascontiguousarray(mask.T).reshape(-1))
    ends = np.append(starts[1:], mask.size)
    return _string(_counts(starts[values], ends[values], mask.size))


def decode_mask(rle: str, height: int, width: int) -> Mask:
    """The mask [H,W]. ValueError where the string is not one of a mask of that size."""
    counts = _lengths(rle, height, width)
    inside = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(inside, counts).reshape(width, height).T)


def encode_labels(labels: Labels) -> list[Segment]:
    """One segment for each class that the label map [H,W] shows, in order; VOID is none."""
    height = labels.shape[0]
    starts, values = _runs(np.ascontiguousarray(labels.T).reshape(-1))
    ends = np.append(starts[1:], labels.size)
    segments = []
    for class_id in np.unique(values):
        if class_id != VOID:
            mine = values == class_id
            first, end = starts[mine], ends[mine]
            rle = _string(_counts(first, end, labels.size))
            segments.append(Segment(int(class_id), rle, int((end - first).sum()), _bbox(first, end, height)))
    return segments


def decode_labels(segments: Iterable[Segment], height: int, width: int) -> Labels:
    """The label map [H,W]; VOID where no segment is. ValueError where a string does not fit, or segments overlap."""
    starts, ends, values = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)]
    for segment in segments:
        edges = np.cumsum(_lengths(segment.rle, height, width))
        starts.append(edges[:-1:2])
        ends.append(edges[1::2])
        values.append(np.full(len(ends[-1]), segment.class_id, np.uint8))
    first, end, value = np.concatenate(starts), np.concatenate(ends), np.concatenate(values)
    order = np.argsort(first, kind="stable")
    first, end, value = first[order], end[order], value[order]
    if (first[1:] < end[:-1]).any():
        raise ValueError(f"class {int(value[1:][first[1:] < end[:-1]][0])} overlaps another")
    edges = np.concatenate(([0], np.stack((first, end), axis=1).reshape(-1), [height * width]))
    between = np.full(2 * len(value) + 1, VOID, np.uint8)
    between[1::2] = value
    return np.ascontiguousarray(np.repeat(between, np.diff(edges)).reshape(width, height).T)


def _lengths(rle: str, height: int, width: int) -> _Ints:
    counts = _numbers(rle)
    if (counts < 0).any() or counts.sum() != height * width:
        raise ValueError(f"RLE of {int(counts.sum())} pixels for a mask of {height}x{width}")
    return counts


def _runs(flat: NDArray[_Value]) -> tuple[_Ints, NDArray[_Value]]:
    """Where runs of equal values start, and the values."""
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1)).astype(np.int64)
    return starts, flat[starts]


def _counts(starts: _Ints, ends: _Ints, size: int) -> _Ints:
    """Lengths of alternating runs outside and inside; no run at the end where the last pixel is inside."""
    edges = np.stack((starts, ends), axis=1).reshape(-1)
    counts = np.diff(edges, prepend=0, append=size)
    return counts[:-1] if counts[-1] == 0 and len(counts) > 1 else counts


def _bbox(starts: _Ints, ends: _Ints, height: int) -> tuple[int, int, int, int]:
    left, right = int(starts[0]) // height, int(ends[-1] - 1) // height
    wraps = (starts // height != (ends - 1) // height).any()  # over the end of a column: then all rows are touched
    top = 0 if wraps else int((starts % height).min())
    bottom = height - 1 if wraps else int(((ends - 1) % height).max())
    return left, top, right - left + 1, bottom - top + 1


def _string(counts: _Ints) -> str:
    numbers = counts.copy()
    numbers[3:] -= counts[1:-2]
    characters = np.zeros((len(numbers), 13), np.uint8)  # 64 bits in fives
    lengths = np.zeros(len(numbers), np.int64)
    going = np.ones(len(numbers), bool)
    for place in range(characters.shape[1]):
        bits = numbers & 0x1F
        numbers = numbers >> 5
        more = np.where(bits & 0x10, numbers != -1, numbers != 0)
        characters[:, place] = bits + 0x20 * more + 48
        lengths += going
        going &= more
        if not going.any():
            break
    kept = np.arange(characters.shape[1]) < lengths[:, None]
    return characters[kept].tobytes().decode("ascii")


def _numbers(rle: str) -> _Ints:
    try:
        codes = np.frombuffer(rle.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        codes = np.array([-1])
    if len(codes) == 0 or codes.min() < 0 or codes.max() >= 64 or codes[-1] & 0x20:
        raise ValueError(f"no COCO run-length string: {rle[:20]!r}")
    last = codes & 0x20 == 0
    number = np.cumsum(np.concatenate(([0], last[:-1])))
    place = np.arange(len(codes)) - np.flatnonzero(np.concatenate(([True], last[:-1])))[number]
    if place.max() > 11:
        raise ValueError(f"no COCO run-length string: a number of {int(place.max()) + 1} characters")
    numbers = np.zeros(int(number[-1]) + 1, np.int64)
    np.add.at(numbers, number, (codes & 0x1F) << (5 * place))
    negative = codes[last] & 0x10 != 0
    numbers[negative] -= np.int64(1) << (5 * (place[last][negative] + 1))
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers
