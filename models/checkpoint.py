"""Tensors under published names, checked against the network that is to hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def checked(tensors: Mapping[str, Any], expected: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    """Copies of the tensors in the types of `expected`, a network's own state.

    network: what it is, for messages. Raises KeyError for missing or unknown names, ValueError for shapes.
    """
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise KeyError(
            f"not a checkpoint of {network}: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )
    state = {}
    for name, wanted in expected.items():
        value = torch.as_tensor(tensors[name])
        if value.shape != wanted.shape:
            raise ValueError(f"{name} has shape {list(value.shape)}; {network} needs {list(wanted.shape)}")
        state[name] = value.detach().to(dtype=wanted.dtype, copy=True)
    return state
