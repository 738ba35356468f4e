"""A finished video as a viewer sees it: its frames one after the other, as RGB, with their times."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt

from pipeline.errors import RecordDamaged


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One frame. time: seconds; rgb: [H,W,3] uint8 (of deeper video the upper 8 bits)."""

    time: Fraction
    rgb: npt.NDArray[np.uint8]


def shown(file: BinaryIO, name: str) -> Generator[Shown, None, None]:
    """All frames of the first video stream, in order. RecordDamaged for what cannot be decoded."""
    try:
        with av.open(file, "r") as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if frame.pts is None or frame.time_base is None:
                    raise RecordDamaged(f"{name}: a frame has no time; make the video anew")
                yield Shown(frame.pts * frame.time_base, frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False))
    except (av.error.FFmpegError, IndexError) as error:
        raise RecordDamaged(f"{name}: cannot be decoded ({error}); restore it, or make it anew") from error
