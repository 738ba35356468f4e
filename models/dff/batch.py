"""When a batch is computed sample by sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def one_by_one(network: nn.Module, batch: Tensor) -> bool:
    """Whether to split a batch: on the CPU, in evaluation.

    CPU kernels choose their blocking, and with it the last bits, by the batch; they gain nothing from it.
    """
    return len(batch) > 1 and batch.device.type == "cpu" and not network.training and not torch.is_grad_enabled()
