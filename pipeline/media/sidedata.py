"""Side data of a decoded frame: display matrix and rotation, static HDR metadata. FFmpeg's structs, byte by byte."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any

import av
from av.sidedata.sidedata import Type

from pipeline.types import HDR


def _data(frame: av.VideoFrame, kind: Type) -> bytes | None:
    side_data: Any = frame.side_data
    for item in side_data:
        if item.type is kind:
            return bytes(item)
    return None


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The container's nine fixed-point numbers (16.16, the last column 2.30), or None."""
    data = _data(frame, Type.DISPLAYMATRIX)
    return struct.unpack("=9i", data[:36]) if data and len(data) >= 36 else None


def rotation(matrix: tuple[int, ...] | None) -> tuple[int, str | None]:
    """Clockwise degrees (0, 90, 180, 270) that a player turns the picture by; a note where that is not all of it."""
    if matrix is None:
        return 0, None
    a, b, _, c, d = matrix[:5]
    mirrored = a * d - b * c < 0
    angle = math.degrees(math.atan2(b, a)) % 360
    turn = round(angle / 90) * 90 % 360
    if mirrored:
        return turn, "the display matrix mirrors the picture: kept as it is in the output"
    if abs((angle - turn + 180) % 360 - 180) > 0.5:
        return turn, f"the display matrix turns the picture by {angle:.1f}°: kept as it is in the output"
    return turn, None


def hdr(frame: av.VideoFrame) -> HDR | None:
    """Mastering display (ST 2086) and content light level (CTA-861.3), exact; None without either."""
    primaries: tuple[Fraction, ...] | None = None
    luminance: tuple[Fraction, Fraction] | None = None
    light: tuple[int, int] | None = None
    # AVMasteringDisplayMetadata: 3×(x, y), white (x, y), min and max luminance as rationals, then two flags.
    if (data := _data(frame, Type.MASTERING_DISPLAY_METADATA)) and len(data) >= 88:
        numbers = struct.unpack("=22i", data[:88])
        ratios = [Fraction(n, d) if d else Fraction(0) for n, d in zip(numbers[:20:2], numbers[1:20:2], strict=True)]
        if numbers[20]:
            primaries = tuple(ratios[:8])
        if numbers[21]:
            luminance = (ratios[8], ratios[9])
    if (data := _data(frame, Type.CONTENT_LIGHT_LEVEL)) and len(data) >= 8:
        light = struct.unpack("=2I", data[:8])
    if primaries is None and luminance is None and light is None:
        return None
    cll, fall = light if light else (None, None)
    return HDR(primaries, luminance, cll, fall)
