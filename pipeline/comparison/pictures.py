"""How far two runs' finished videos are apart: PSNR and SSIM of frames of the same time, as jobs/evaluate.py counts."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import torch

from pipeline.comparison.frames import ABOUT, Paired, Pairing
from pipeline.comparison.runs import Run
from pipeline.media.playback import Shown, shown
from pipeline.metrics import psnr, ssim
from pipeline.storage import Storage, redact


class PictureDifference:
    """Of frames of one size."""

    def __init__(self) -> None:
        self.frames = 0
        self.identical = 0
        self._squares = self._psnr = self._ssim = 0.0
        self._measured = 0
        self._worst: float | None = None

    def add(self, first: Shown, second: Shown, structure: bool = True) -> None:
        """`structure`: whether to take the SSIM, which costs most of the time."""
        self.frames += 1
        if np.array_equal(first.rgb, second.rgb):
            self.identical += 1
            values = (0.0, 80.0, 1.0)
        else:
            a, b = (torch.from_numpy(one.rgb).permute(2, 0, 1).float() / 255 for one in (first, second))
            square = float(np.square(first.rgb.astype(np.int32) - second.rgb).mean())
            values = (square, psnr(a, b), ssim(a, b) if structure else 0.0)
        self._squares += values[0]
        self._psnr += values[1]
        self._worst = values[1] if self._worst is None else min(self._worst, values[1])
        if structure:
            self._ssim += values[2]
            self._measured += 1

    def merge(self, other: PictureDifference) -> None:
        self.frames += other.frames
        self.identical += other.identical
        self._squares += other._squares
        self._psnr += other._psnr
        self._ssim += other._ssim
        self._measured += other._measured
        if other._worst is not None:
            self._worst = other._worst if self._worst is None else min(self._worst, other._worst)

    def measures(self) -> dict[str, float | None]:
        """rms: root of the mean square difference, 0..255; psnr: mean over frames, dB (identical ones: 80), and the
        worst frame's; ssim: mean over the frames that it was taken of."""
        if not self.frames:
            return dict.fromkeys(("rms", "psnr", "psnr_worst", "ssim"))
        return {
            "rms": (self._squares / self.frames) ** 0.5,
            "psnr": self._psnr / self.frames,
            "psnr_worst": self._worst,
            "ssim": self._ssim / self._measured if self._measured else None,
        }

    def detail(self) -> dict[str, Any]:
        return {"identical_frames": self.identical}


def compare_video(
    first: Run, second: Run, name: str, storage: Storage, ssim_every: int = 10
) -> tuple[Pairing, PictureDifference]:
    """All frames; the SSIM of every `ssim_every`-th."""
    found = PictureDifference()
    uris = [f"{run.output.rstrip('/')}/{run.videos[name].path}" for run in (first, second)]
    with storage.open(uris[0], block=4 << 20) as a, storage.open(uris[1], block=4 << 20) as b:
        sides = [shown(file, redact(uri)) for file, uri in zip((a, b), uris, strict=True)]
        with closing(sides[0]), closing(sides[1]):
            paired = Paired(sides[0], sides[1], lambda one: one.time, lambda one: one.time, ABOUT)
            for ours, theirs in paired:
                if ours.rgb.shape == theirs.rgb.shape:
                    found.add(ours, theirs, structure=found.frames % ssim_every == 0)
                else:
                    paired.pairing.incomparable += 1
    return paired.pairing, found
