"""Decoded pictures as plain numpy planes, and the working formats that everything after the decoder sees.

A working format is planar, little-endian, without alpha, of 8 to 16 bits: yuv 4:2:0, 4:2:2, 4:4:0 and 4:4:4, gray, and
RGB as gbrp (planes in the order G, B, R). Whatever else a decoder gives (nv12, p010, rgb24, pal8, …) is brought to the
nearest of them by swscale, keeping all bits and all chroma samples; alpha is dropped, and said so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation

from pipeline.errors import UnsupportedVideo

Plane = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_LAYOUTS = {
    "yuv420p": (1, 1), "yuv422p": (1, 0), "yuv440p": (0, 1), "yuv444p": (0, 0), "gray": (0, 0), "gbrp": (0, 0),
}  # fmt: skip
_DEPTHS = dict.fromkeys(_LAYOUTS, (8, 9, 10, 12, 14, 16)) | {"yuv440p": (8, 10, 12)}
_NAME = re.compile(r"(yuv4(?:20|22|40|44)p|gray|gbrp)(?:(\d+)le)?")

_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
"""swscale without its faster, machine-dependent roundings."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """A working format, by FFmpeg's name for it."""

    name: str
    layout: str
    """"yuv420p", "yuv422p", "yuv440p", "yuv444p", "gray" or "gbrp"."""
    bits: int
    """Significant bits of a sample: 8 (uint8), or 9 to 16 (uint16, in the low bits)."""

    @staticmethod
    def of(name: str) -> PixelFormat:
        """The working format called `name`. ValueError for any other: `working_format` finds the nearest."""
        match = _NAME.fullmatch(name)
        layout, bits = (match[1], int(match[2] or 8)) if match else ("", 0)
        if layout not in _DEPTHS or bits not in _DEPTHS[layout]:
            raise ValueError(f"{name!r} is not a working format; working_format({name!r}) names the nearest")
        return PixelFormat(name, layout, bits)

    @property
    def is_rgb(self) -> bool:
        return self.layout == "gbrp"

    @property
    def is_gray(self) -> bool:
        return self.layout == "gray"

    @property
    def log2_chroma(self) -> tuple[int, int]:
        """How many times chroma is halved: (horizontally, vertically)."""
        return _LAYOUTS[self.layout]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.bits == 8 else "<u2")

    @property
    def peak(self) -> int:
        """The largest sample value."""
        return (1 << self.bits) - 1

    def plane_shapes(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of each plane; chroma of odd sizes is rounded up, as in FFmpeg."""
        if self.is_gray:
            return ((height, width),)
        across, down = self.log2_chroma
        chroma = (-(-height >> down), -(-width >> across))
        return ((height, width), chroma, chroma)


@lru_cache(maxsize=256)
def working_format(pix_fmt: str) -> tuple[str, str | None]:
    """The working format for frames of `pix_fmt`, and a note where that changes more than the order of bytes.

    yuvj* are the same samples as yuv* (full range is a colour tag). UnsupportedVideo for what FFmpeg cannot convert.
    """
    try:
        given = av.VideoFormat(pix_fmt, 16, 16)
    except ValueError:
        raise UnsupportedVideo(
            f"pixel format {pix_fmt!r} is unknown to this FFmpeg; convert the video to yuv420p"
        ) from None
    parts = [part for part in given.components if not part.is_alpha]
    alpha = len(parts) != len(given.components)
    bits = 8 if given.has_palette else max((part.bits for part in parts), default=8)
    if not parts:
        raise UnsupportedVideo(f"pixel format {pix_fmt!r} holds no picture in memory; convert the video to yuv420p")
    if given.is_rgb or given.has_palette or given.is_bayer or pix_fmt.startswith("xyz"):
        layout = "gbrp"
    elif len(parts) == 1:
        layout = "gray"
    else:
        # 4:1:1 and 4:1:0 keep at least the chroma samples that they have.
        across, down = min(16 // given.chroma_width(), 2) // 2, min(16 // given.chroma_height(), 2) // 2
        layout = next(name for name, halved in _LAYOUTS.items() if halved == (across, down))
    depth = next((depth for depth in _DEPTHS[layout] if depth >= bits), None)
    if depth is None:
        layout, depth = ("yuv444p" if layout == "yuv440p" and bits <= 16 else layout), 16
    name = layout if depth == 8 else f"{layout}{depth}le"
    notes = []
    if bits > depth:
        notes.append(f"pixel format {pix_fmt} ({bits} bits) is processed with {depth} bits as {name}")
    elif not given.is_rgb and (given.chroma_width() < 8 or given.chroma_height() < 8) and layout != "gray":
        notes.append(f"chroma of pixel format {pix_fmt} is upsampled to {name}")
    if alpha or pix_fmt == "pal8":
        notes.append(f"alpha of pixel format {pix_fmt} is dropped (processed as {name})")
    return name, "; ".join(notes) or None


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture: its time and its samples.

    `planes` are C-contiguous copies without line padding, [rows, columns], uint8 or uint16: Y, Cb, Cr; or gray; or
    G, B, R.
    """

    pts: int
    planes: tuple[Plane, ...]
    format: PixelFormat

    def __post_init__(self) -> None:
        expected = self.format.plane_shapes(self.width, self.height)
        found = tuple(plane.shape for plane in self.planes)
        if found != expected:
            raise ValueError(f"planes of {self.format.name} have shapes {found}, expected {expected}")
        for plane in self.planes:
            if plane.dtype != self.format.dtype:
                raise ValueError(f"planes of {self.format.name} are {plane.dtype}, expected {self.format.dtype}")

    @property
    def width(self) -> int:
        return int(self.planes[0].shape[1])

    @property
    def height(self) -> int:
        return int(self.planes[0].shape[0])

    @property
    def nbytes(self) -> int:
        return sum(plane.nbytes for plane in self.planes)

    def __repr__(self) -> str:
        shapes = " ".join("x".join(map(str, plane.shape)) for plane in self.planes)
        return f"Frame(pts={self.pts}, {self.format.name}, {self.width}x{self.height}, planes {shapes})"

    @staticmethod
    def from_av(frame: av.VideoFrame, pts: int | None = None) -> Frame:
        """Copies a decoded picture out of FFmpeg, in its working format. `pts` replaces the frame's own."""
        time = frame.pts if pts is None else pts
        if time is None:
            raise ValueError("a frame without a time; give its pts")
        name, _ = working_format(frame.format.name)
        native = frame.format.name.replace("yuvj", "yuv")
        if native != name or any(plane.line_size < 0 for plane in frame.planes):
            frame = frame.reformat(format=name, interpolation=_EXACT, threads=1)
        pixel_format = PixelFormat.of(name)
        shapes = pixel_format.plane_shapes(frame.width, frame.height)
        planes = []
        for plane, (rows, columns) in zip(frame.planes, shapes, strict=True):
            samples = np.frombuffer(memoryview(plane), pixel_format.dtype)
            stride = plane.line_size // pixel_format.dtype.itemsize
            planes.append(samples[: rows * stride].reshape(rows, stride)[:, :columns].copy())
        return Frame(time, tuple(planes), pixel_format)

    def to_av(self, time_base: Fraction | None = None) -> av.VideoFrame:
        """The same picture for an encoder or a filter; colour tags are the caller's."""
        frame = av.VideoFrame(self.width, self.height, self.format.name)
        for target, plane in zip(frame.planes, self.planes, strict=True):
            rows, columns = plane.shape
            stride = target.line_size // plane.itemsize
            if stride == columns and target.buffer_size == plane.nbytes:
                target.update(np.ascontiguousarray(plane).tobytes())
                continue
            padded = np.zeros(target.buffer_size // plane.itemsize, plane.dtype)
            padded[: rows * stride].reshape(rows, stride)[:, :columns] = plane
            target.update(padded.tobytes())
        frame.pts = self.pts
        if time_base is not None:
            frame.time_base = time_base
        return frame


def same_picture(first: Frame, second: Frame) -> bool:
    """Whether two frames hold the same samples: an exact duplicate, whatever their times."""
    return first.format == second.format and all(
        np.array_equal(a, b) for a, b in zip(first.planes, second.planes, strict=True)
    )


def luma8(frame: Frame, width: int, height: int) -> npt.NDArray[np.float32]:
    """Area-averaged luma [height, width], float32 on the 8-bit scale (0..255), for cut detection.

    Never enlarges: a smaller frame keeps its size. RGB counts as (2R + 5G + B) / 8. Integer sums: the same everywhere.
    """
    planes = frame.planes
    rows, columns = min(height, frame.height), min(width, frame.width)
    top = np.arange(rows) * frame.height // rows
    left = np.arange(columns) * frame.width // columns

    def sums(plane: Plane) -> npt.NDArray[np.int64]:
        # Columns first in 32 bits: 65535 × 32767 columns still fit.
        across = np.add.reduceat(plane, left, axis=1, dtype=np.uint32)
        return np.asarray(np.add.reduceat(across, top, axis=0, dtype=np.int64))

    if frame.format.is_rgb:
        green, blue, red = (sums(plane) for plane in planes)
        total, scale = 2 * red + 5 * green + blue, 8
    else:
        total, scale = sums(planes[0]), 1
    heights = np.diff(top, append=frame.height)
    widths = np.diff(left, append=frame.width)
    area = np.outer(heights, widths) * (scale << (frame.format.bits - 8))
    return np.asarray(total / area, np.float32)
