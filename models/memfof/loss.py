"""Mixture-of-Laplace loss (SEA-RAFT, section 3.2; MEMFOF, section 3.3; specs 8)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.memfof.model import Prediction

VAR_MAX = 10.0  # of the free component's log-scale
MAX_FLOW = 512.0  # px: longer targets teach nothing
GAMMA = 0.85  # weight of an iteration relative to the next


def log_scale(info: Tensor) -> Tensor:
    """Log-scale in 0..10 of the free component, info [...,4,H,W] -> [...,H,W]; the other's is 0 (plain L1)."""
    return info[..., 2, :, :].clamp(0, VAR_MAX)


def negative_log_likelihood(flow: Tensor, info: Tensor, target: Tensor) -> Tensor:
    """-log of the mixture's density at the target: flow and target [...,2,H,W], info [...,4,H,W] -> [...,2,H,W].

    Each coordinate on its own, with the same mixture: w / (2 exp(beta)) * exp(-error / exp(beta)), summed over both.
    """
    error = (target - flow).abs()
    logits = info[..., :2, :, :]
    beta = log_scale(info).unsqueeze(-3)  # (..., 1, H, W)
    free = logits[..., :1, :, :] - math.log(2) - beta - error * torch.exp(-beta)
    plain = logits[..., 1:, :, :] - math.log(2) - error
    return torch.logsumexp(logits, -3, keepdim=True) - torch.logaddexp(free, plain)


def sequence_loss(
    prediction: Prediction, target: Tensor, valid: Tensor, gamma: float = GAMMA, max_flow: float = MAX_FLOW
) -> Tensor:
    """Sum over the iterations, the last at weight 1 and each before at gamma of the next, of the mean likelihood.

    target   [N,2,2,H,W] px: backward, forward; any number where it is not valid
    valid    [N,2,H,W], at least 0.5 where there is a target; a direction without ground truth has 0 everywhere
    One mean over both directions and coordinates; 0, with a gradient of 0, where nothing is valid.
    """
    known = (valid >= 0.5) & (target.norm(dim=2) < max_flow)  # (N, 2, H, W)
    target = torch.where(known.unsqueeze(2), target, 0)
    predictions = (*prediction.earlier, prediction)
    total = prediction.flow.new_zeros(())
    for i, one in enumerate(predictions):
        nll = negative_log_likelihood(one.flow, one.info, target)
        counted = known.unsqueeze(2) & nll.isfinite()
        mean = torch.where(counted, nll, 0).sum() / counted.sum().clamp(min=1)
        total = total + gamma ** (len(predictions) - 1 - i) * mean
    return total
