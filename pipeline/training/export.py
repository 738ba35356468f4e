"""Trained weights as a file: half precision, published names, and where they came from in the header."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from models.cain_sd import CAIN


def save_weights(network: CAIN, path: Path, metadata: Mapping[str, str]) -> str:
    """Write a network's tensors as fp16 safetensors; returns the file's sha256. Same tensors, same bytes."""
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in network.to_reference().items()}
    damaged = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if damaged:
        raise ValueError(f"{path}: tensors {damaged[:3]} are not finite in fp16; the training diverged, resume earlier")
    data = safetensors.torch.save(tensors, {key: metadata[key] for key in sorted(metadata)})
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
