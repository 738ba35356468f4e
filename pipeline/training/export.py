"""Trained weights as a file: half precision, published names, and where they came from in the header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch


class Referenced(Protocol):
    def to_reference(self) -> Mapping[str, torch.Tensor]:
        """Tensors under their published names."""


def save_weights(network: Referenced, path: Path, metadata: Mapping[str, str]) -> str:
    """Write a network's tensors as fp16 safetensors; returns the file's sha256. Same tensors, same bytes."""
    tensors = {name: half(tensor) for name, tensor in network.to_reference().items()}
    damaged = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if damaged:
        raise ValueError(f"{path}: tensors {damaged[:3]} are not finite in fp16; the training diverged, resume earlier")
    data = ordered(safetensors.torch.save(tensors, dict(metadata)))
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def ordered(data: bytes) -> bytes:
    """A safetensors file with the notes of its header in the order of their names; the library's order is any."""
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[begin:]


def half(tensor: torch.Tensor) -> torch.Tensor:
    """fp16 of floating-point tensors; counts, such as BatchNorm's of batches, as they are."""
    kept = tensor.detach().contiguous()
    return kept.to(torch.float16) if kept.is_floating_point() else kept
