"""What stays fp32 under autocast: correlation, coordinates, the heads' last layers, upsampling."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def full_precision(like: Tensor) -> contextlib.AbstractContextManager[object]:
    """Autocast off on `like`'s device. Inside it, callers widen their inputs with `.float()`.

    bf16 has 8 bits of mantissa: at a flow of 30 cells it counts in eighths of a cell, two pixels of the frame.
    """
    if like.is_meta:  # counted, not computed: there is no autocast of it
        return contextlib.nullcontext()
    return torch.autocast(like.device.type, enabled=False)
