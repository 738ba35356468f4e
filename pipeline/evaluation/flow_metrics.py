"""How far a flow is from the truth: end-point error, 1px, Fl-all and WAUC, overall and by magnitude of motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.records.flow_codec import Bools, Floats

MAGNITUDES: tuple[tuple[str, float, float], ...] = (("s0-10", 0, 10), ("s10-40", 10, 40), ("s40+", 40, np.inf))
"""Of the true motion, px: Sintel's and Spring's classes."""
WAUC_STEPS = 100
WAUC_LIMIT = 5.0  # px


@dataclass(frozen=True)
class FlowScore:
    """Of some pixels. NaN where there are none.

    pixels   how many have a ground truth
    epe      mean end-point error, px
    px1      share whose error exceeds 1 px, %
    fl       share whose error exceeds both 3 px and 5 % of the true motion, % (KITTI's Fl-all)
    wauc     weighted area under the curve of pixels within d of the truth, d = 0.05, 0.1, …, 5 px, weight falling
             linearly from 1; 100 is perfect (Richter et al., VIPER, ICCV 2017, as Spring counts it)
    zero     mean length of the true motion, px: the error of claiming that nothing moves
    """

    pixels: int
    epe: float
    px1: float
    fl: float
    wauc: float
    zero: float


def score(flow: Floats, truth: Floats, known: Bools) -> dict[str, FlowScore]:
    """flow, truth [2,H,W] px; known [H,W] -> scores of "all" and of each class of MAGNITUDES.

    A prediction that is not finite is infinitely wrong. ValueError for shapes that differ.
    """
    if flow.shape != truth.shape or known.shape != truth.shape[1:]:
        raise ValueError(f"flow is {list(flow.shape)}, its truth {list(truth.shape)}, known {list(known.shape)}")
    difference = flow.astype(np.float64)[:, known] - truth[:, known]
    error = np.hypot(*difference)
    error[~np.isfinite(error)] = np.inf
    length = np.hypot(*truth.astype(np.float64)[:, known])
    found = {"all": _score(error, length)}
    for name, low, high in MAGNITUDES:
        inside = (length >= low) & (length < high)
        found[name] = _score(error[inside], length[inside])
    return found


def _score(error: np.ndarray, length: np.ndarray) -> FlowScore:
    if not len(error):
        return FlowScore(0, *(float("nan"),) * 5)
    outlier = (error > 3) & (error > 0.05 * length)
    limits = np.arange(1, WAUC_STEPS + 1) * WAUC_LIMIT / WAUC_STEPS
    weights = 1 - np.arange(WAUC_STEPS) / WAUC_STEPS
    within = np.searchsorted(np.sort(error), limits, side="right") / len(error)
    wauc = 100 * float((weights * within).sum() / weights.sum())
    return FlowScore(
        len(error), float(error.mean()), 100 * float((error > 1).mean()), 100 * float(outlier.mean()), wauc,
        float(length.mean()),
    )  # fmt: skip


def pooled(scores: Sequence[FlowScore]) -> FlowScore:
    """The score of all their pixels together; exact, as each figure is a mean over pixels."""
    parts = [one for one in scores if one.pixels]
    total = sum(one.pixels for one in parts)
    if not total:
        return FlowScore(0, *(float("nan"),) * 5)
    names = ("epe", "px1", "fl", "wauc", "zero")
    return FlowScore(total, *(sum(getattr(one, n) * one.pixels for one in parts) / total for n in names))
