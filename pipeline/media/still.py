"""Still pictures of any kind that FFmpeg knows (PNG, JPEG, PPM, WebP, …), as arrays of 8 or 16 bits."""

from __future__ import annotations

import io

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from pipeline.errors import UnreadableVideo

# FFmpeg recognises these by their contents only where the numbers stand as it expects.
_NETPBM = {b"P4": "pbm_pipe", b"P5": "pgm_pipe", b"P6": "ppm_pipe", b"P7": "pam_pipe"}

Still = NDArray[np.uint8] | NDArray[np.uint16]


def read_still(data: bytes, name: str) -> Still:
    """[H,W,3] RGB, or [H,W] of a grey picture; uint16 where the file has more than 8 bits. Alpha is dropped.

    Palettes are turned into their colours. UnreadableVideo with `name` where it is no picture, or a damaged one.
    """
    try:
        with av.open(io.BytesIO(data), mode="r", format=_NETPBM.get(data[:2])) as container:
            frame = next(container.decode(video=0))
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise UnreadableVideo(f"{name}: no readable picture ({error}); restore or remove it") from error
    return _values(frame)


def _values(frame: VideoFrame) -> Still:
    components = frame.format.components
    deep = max(component.bits for component in components) > 8
    grey = sum(not component.is_alpha for component in components) == 1 and "pal" not in frame.format.name
    if deep:
        return np.asarray(frame.to_ndarray(format="gray16le" if grey else "rgb48le"), np.uint16)
    return np.asarray(frame.to_ndarray(format="gray" if grey else "rgb24"), np.uint8)
