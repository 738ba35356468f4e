"""What a file's own headers say of its length, read without FFmpeg: finds files that were cut short.

FFmpeg takes the end of a cut Matroska or AVI file for the end of the video. Pure: no PyAV here.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx", b"moof", b"uuid"}
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}
_MAX_BOXES = 100_000


def file_size(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)


def missing_bytes(file: BinaryIO) -> int:
    """How many bytes an MP4, Matroska/WebM, AVI or transport stream file promises beyond its end; 0 for any other."""
    size = file_size(file)
    file.seek(0)
    head = file.read(12)
    if head[4:8] in _MP4_BOXES:
        end = max((start + length for _, start, length in _boxes(file, 0, size)), default=0)
    elif head[:4] == b"\x1aE\xdf\xa3":
        end = _matroska_end(file)
    elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        end = _riff_end(file, size)
    else:
        end = _transport_end(file, size)
    return max(end - size, 0)


def most_samples(file: BinaryIO) -> int:
    """The largest sample count that an MP4's tables claim for a track; 0 for other files.

    Read before FFmpeg builds an index of that many entries: a table of equal sizes costs a bomb's author 20 bytes.
    """
    size = file_size(file)
    file.seek(0)
    if file.read(8)[4:8] not in _MP4_BOXES:
        return 0
    return max(_sample_counts(file, 0, size, 0), default=0)


def picture_sizes(file: BinaryIO) -> list[tuple[int, int]]:
    """(width, height) that an MP4's sample descriptions state for its video tracks; [] for other files."""
    size = file_size(file)
    file.seek(0)
    if file.read(8)[4:8] not in _MP4_BOXES:
        return []
    return list(_video_entries(file, 0, size, 0, False))


def _video_entries(file: BinaryIO, start: int, end: int, depth: int, video: bool) -> Iterator[tuple[int, int]]:
    boxes = list(_boxes(file, start, end))
    video = video or any(kind == b"vmhd" for kind, _, _ in boxes)
    for kind, place, length in boxes:
        if kind in _CONTAINERS and depth < 8:
            yield from _video_entries(file, place + 8, min(place + length, end), depth + 1, video)
        elif kind == b"stsd" and video:
            file.seek(place + 16)
            entry = file.read(36)  # box header, 24 bytes, width, height
            if len(entry) == 36:
                yield struct.unpack(">HH", entry[32:])


def _sample_counts(file: BinaryIO, start: int, end: int, depth: int) -> Iterator[int]:
    for kind, place, length in _boxes(file, start, end):
        if kind in _CONTAINERS and depth < 8:
            yield from _sample_counts(file, place + 8, min(place + length, end), depth + 1)
        elif kind in (b"stsz", b"stz2"):
            file.seek(place + 16)
            yield int.from_bytes(file.read(4), "big")


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, place, length) of the ISO-BMFF boxes in [start, end)."""
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        file.seek(start)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:
            length = end - start  # to the end of the file
        if length < 8 or not all(32 <= byte < 127 or byte == 0xA9 for byte in kind):
            return
        yield kind, start, length
        start += length


def _matroska_end(file: BinaryIO) -> int:
    """Where the Segment says that it ends; 0 when it does not say (live recordings)."""
    place = 0
    for _ in range(16):
        file.seek(place)
        head = file.read(12)
        if len(head) < 2 or not head[0]:
            return 0
        width = 9 - head[0].bit_length()  # of the element's id
        if len(head) <= width or not head[width]:
            return 0
        length_width = 9 - head[width].bit_length()
        raw = int.from_bytes(head[width : width + length_width], "big")
        unknown = (1 << 7 * length_width) - 1
        length = raw & unknown
        place += width + length_width
        if head[:width] == b"\x18\x53\x80\x67":
            return 0 if length == unknown else place + length
        place += length
    return 0


def _riff_end(file: BinaryIO, size: int) -> int:
    """The end of the last RIFF chunk; OpenDML files have several."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF":
            break
        place += 8 + length + (length & 1 if place + 8 + length < size else 0)
    return place


def _transport_end(file: BinaryIO, size: int) -> int:
    """The end of the last packet that a transport stream (188 bytes each, 192 in M2TS) has begun; 0 for other files."""
    for length, sync in ((188, 0), (192, 4)):
        file.seek(0)
        head = file.read(8 * length)
        if len(head) == 8 * length and all(head[place] == 0x47 for place in range(sync, len(head), length)):
            return -(-size // length) * length
    return 0
