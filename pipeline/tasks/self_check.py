"""How well a video is interpolated, on its own frames: some are taken as unknown and made again from their neighbours.

A frame is chosen by a digest of the video's identity and the frame's time, so the same frames are checked however the
video is cut into clips. It is made at its own time between the frame before and the frame after, by the same model and
settings as the output; both must belong to its shot, and differ from it and from each other, as they do where the job
interpolates. Twice the job's distance makes it harder than the job: a fall shows early.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pipeline.config import CutsConfig
from pipeline.media.colour import to_rgb
from pipeline.media.frame import Frame, luma8, same_picture
from pipeline.metrics import psnr, quantise, ssim
from pipeline.plan import shots
from pipeline.plan.midpoints import NoMidpoint
from pipeline.tasks.interpolators import Blend, Interpolator, Pair
from pipeline.types import ClipRef, Colour

Triple = tuple[Frame, Frame, Frame]


def chosen(video_id: str, pts: int, share: float) -> bool:
    """Whether a frame of a video is one of the `share` (0..1) to check."""
    digest = hashlib.sha256(f"{video_id}\n{pts}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


class SelfCheck:
    """Watches a clip's frames go by, and checks those that are chosen. Nothing that it sees is changed."""

    def __init__(self, share: float, clip: ClipRef, cuts: CutsConfig, colour: Colour, device: str) -> None:
        self.rows: list[list[Any]] = []
        """Of each frame that was checked: the columns of self_check_report.ROW."""
        self.unreachable = 0
        """Frames at whose place the model, with its configuration, makes no picture."""
        self.seconds = 0.0
        self._share, self._clip, self._cuts = share, clip, cuts
        self._colour, self._device = colour, device
        self._waiting: list[Triple] = []

    def over(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Passes the clip's frames and halo on, and keeps those that will be needed."""
        if not self._share:
            yield from frames
            return
        first: Frame | None = None
        middle: Frame | None = None
        for last in frames:
            if first is not None and middle is not None and self._wanted(middle):
                self._waiting.append((first, middle, last))
            first, middle = middle, last
            yield last

    def _wanted(self, frame: Frame) -> bool:
        own = self._clip.start_pts <= frame.pts < self._clip.end_pts
        return own and chosen(self._clip.video.video_id, frame.pts, self._share)

    def run(self, model: Interpolator) -> None:
        """Checks the frames that wait: a few at most, since each batch of intervals."""
        started = time.perf_counter()
        for first, middle, last in self._waiting:
            if self._between(first, middle, last):
                self._check(model, first, middle, last)
        self._waiting.clear()
        self.seconds += time.perf_counter() - started

    def _between(self, first: Frame, middle: Frame, last: Frame) -> bool:
        """Whether the middle frame shows a moment of its own between its neighbours."""
        for one, other in ((first, middle), (middle, last), (first, last)):
            if one.format != other.format or same_picture(one, other):
                return False
        if not self._cuts.detect:
            return True
        thumbs = [luma8(frame, shots.WIDTH, shots.HEIGHT) for frame in (first, middle, last)]
        return not any(shots.is_cut(*pair, self._cuts.threshold) for pair in pairwise(thumbs))

    def _check(self, model: Interpolator, first: Frame, middle: Frame, last: Frame) -> None:
        left, truth, right = (to_rgb(frame, self._colour, self._device) for frame in (first, middle, last))
        pair = Pair(left, right, [Fraction(middle.pts - first.pts, last.pts - first.pts)])
        try:
            made = model.between([pair])[0][0]
        except NoMidpoint:  # max_t_error was set for other places
            self.unreachable += 1
            return
        if made.place in (0, 1):  # a neighbour itself is near enough to be shown
            self.unreachable += 1
            return
        average = Blend().between([pair])[0][0].picture
        picture = made.picture.to(truth.device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # SSIM subtracts squares of nearly equal size
            found = (motion(left, right), psnr(picture, truth), psnr(average, truth), ssim(picture, truth))
        self.rows.append([middle.pts, *(round(value, 4) for value in found)])

    def as_extra(self) -> dict[str, Any]:
        """For the clip's commit: what `self_check_report.of_clips` takes."""
        return {"frames": self.rows, "unreachable": self.unreachable}


def motion(first: Tensor, last: Tensor) -> float:
    """Mean absolute difference of two frames [3,H,W] RGB 0..1, in 8-bit steps."""
    return float((quantise(first) - quantise(last)).abs().double().mean())
