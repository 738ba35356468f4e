"""A few small pictures out of a video, for people to look at: no care for every container, but quick at any length."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Glimpse:
    """One frame: its time, and its picture [h,w,3] RGB."""

    pts: int
    time_base: Fraction
    picture: Picture


def glimpses(file: BinaryIO, share: float, count: int, long_side: int) -> list[Glimpse]:
    """`count` frames in a row from `share` (0..1) of the video on, at most `long_side` pixels; fewer where it ends.

    Reads from the key frame before that place. Raises av.FFmpegError or OSError for what cannot be read.
    """
    found: list[Glimpse] = []
    with av.open(file, "r") as container:
        stream = container.streams.video[0]
        start, base = stream.start_time or 0, stream.time_base or Fraction(1, 1000)
        length = stream.duration or round(Fraction(container.duration or 0, av.time_base) / base)
        target = start + int(share * length)
        container.seek(target, stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= target:
                found.append(Glimpse(frame.pts, base, _small(frame, long_side)))
            if len(found) == count:
                break
    return found


def jpeg(picture: Picture, quality: int = 4) -> bytes:
    """The picture [h,w,3] RGB as a JPEG; `quality` 2 (best) to 31. An odd last row or column is left out."""
    height, width = (max(2, side // 2 * 2) for side in picture.shape[:2])
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    encoder.qmin = encoder.qmax = quality
    shown = frame.reformat(format="yuvj420p", dst_color_range=2)
    shown.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(shown), *encoder.encode(None)])


def _small(frame: av.VideoFrame, long_side: int) -> Picture:
    shrink = max(1.0, max(frame.width, frame.height) / long_side)
    width, height = (max(2, 2 * round(side / shrink / 2)) for side in (frame.width, frame.height))
    picture: Picture = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()  # type: ignore[assignment]
    return picture
