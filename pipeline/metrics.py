"""How close two pictures are, as the CAIN code measures it, so that numbers compare with the paper's tables."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
K1, K2, PEAK = 0.01, 0.03, 255.0


def quantise(frame: Tensor) -> Tensor:
    """0..1 -> the 8-bit levels 0..255 that a file would hold (round half to even), still floating point."""
    return frame.float().mul(255).clamp(0, 255).round()


def psnr(output: Tensor, target: Tensor) -> float:
    """PSNR in dB of two [3,H,W] RGB frames in 0..1 on their 8-bit levels. Identical frames give 80."""
    difference = (quantise(output) - quantise(target)).double() / 255
    return float(-10 * torch.log10(difference.square().mean() + 1e-8))


def ssim(output: Tensor, target: Tensor) -> float:
    """SSIM of two [3,H,W] RGB frames in 0..1, the CAIN code's "ssim_matlab".

    RGB is the depth of one volume: a Gaussian of 11x11x11 and sigma 1.5 slides over all three axes, replicated at the
    borders. Values do not compare with per-channel SSIM (skimage, torchmetrics).
    """
    x, y = (quantise(frame)[None, None] for frame in (output, target))  # (1, 1, 3, H, W)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x * mean_x
    variance_y = _blur(y * y) - mean_y * mean_y
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    score = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    score = score / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return float(score.mean())


def _blur(volume: Tensor) -> Tensor:
    """The separable 3-D Gaussian, one axis after the other."""
    axis = torch.arange(WINDOW, dtype=volume.dtype) - WINDOW // 2
    kernel = torch.exp(-(axis**2) / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).to(volume.device)
    reach = WINDOW // 2
    volume = F.pad(volume, (reach,) * 6, mode="replicate")
    for shape in ((1, 1, WINDOW, 1, 1), (1, 1, 1, WINDOW, 1), (1, 1, 1, 1, WINDOW)):
        volume = F.conv3d(volume, kernel.reshape(shape))
    return volume
