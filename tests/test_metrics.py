"""PSNR and SSIM against the values of the CAIN code (golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.metrics import psnr, quantise, ssim

GOLDEN = Path(__file__).parent / "golden"


def frame(key: str) -> torch.Tensor:
    return torch.from_numpy(np.load(GOLDEN / "cain_96x160.npz")[key]).permute(2, 0, 1).float() / 255


def test_both_measures_give_the_official_values() -> None:
    first, last = frame("im0"), frame("im1")
    assert psnr(first, last) == pytest.approx(14.825124329918681, abs=1e-5)
    assert ssim(first, last) == pytest.approx(0.26152458786964417, abs=1e-5)


def test_identical_frames_give_the_official_ceilings() -> None:
    first = frame("im0")
    assert psnr(first, first) == pytest.approx(80.0, abs=1e-6)
    assert ssim(first, first) == pytest.approx(1.0, abs=1e-6)


def test_levels_are_clamped_and_rounded_half_to_even() -> None:
    values = torch.tensor([-0.1, 0.5 / 255, 1.5 / 255, 2.4 / 255, 1.2])
    assert quantise(values).tolist() == [0, 0, 2, 2, 255]
