"""Convolutions that keep their weights in the order in which the CPU's kernels read them.

oneDNN brings weights into blocks before it multiplies, at every call. Where a layer has many weights and few places, as
FlowNet's middle has, that takes longer than the convolution: 25 of deconv5's 28 ms at 640x360 px. In evaluation on the
CPU the blocks are made once, for a frame size. Transposed convolutions give the same bits as before, others the same up
to rounding. Everywhere else (training, GPUs, counting) these are torch's own layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Packed = tuple[tuple[object, ...], Tensor]


class _Packs(nn.Module):
    weight: Tensor
    _packed: Packed | None = None  # what it was made for, and the weights in blocks

    def __getstate__(self) -> dict[str, Any]:
        """Without the blocks, which can be neither copied nor pickled."""
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}

    def _dtype(self, x: Tensor) -> torch.dtype | None:
        """What is computed in; None where torch's own layer is to run."""
        if x.device.type != "cpu" or self.training or torch.is_grad_enabled() or not _available():
            return None
        if self.weight.is_inference():  # which keep no count of their changes
            return None
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return None
        return dtype if dtype in (torch.float32, torch.bfloat16) else None

    def _key(self, x: Tensor, dtype: torch.dtype) -> tuple[object, ...]:
        return self.weight.data_ptr(), self.weight._version, tuple(x.shape), dtype


class PackedConv2d(nn.Conv2d, _Packs):
    """nn.Conv2d with zero padding given as a number of pixels."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = self._dtype(x)
        if dtype is None:
            return super().forward(x)
        shape = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
        key = self._key(x, dtype)
        if self._packed is None or self._packed[0] != key:
            pack = torch.ops.mkldnn._reorder_convolution_weight
            self._packed = key, pack(self.weight.to(dtype), *shape, list(x.shape))
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x.to(dtype), self._packed[1], _bias(self.bias, dtype), *shape, "none", [], ""
        )
        return y


class PackedConvTranspose2d(nn.ConvTranspose2d, _Packs):
    """nn.ConvTranspose2d without a size asked for in the call."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        dtype = self._dtype(x)
        if dtype is None or output_size is not None:
            return super().forward(x, output_size)
        padding, rest = list(self.padding), (list(self.stride), list(self.dilation), self.groups)
        shape = (padding, list(self.output_padding), *rest)
        key = self._key(x, dtype)
        if self._packed is None or self._packed[0] != key:
            pack = torch.ops.mkldnn._reorder_convolution_transpose_weight
            self._packed = key, pack(self.weight.to(dtype), *shape, list(x.shape))
        y: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
            x.to(dtype), self._packed[1], _bias(self.bias, dtype), *shape, "none", [], ""
        )
        return y


def _bias(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(dtype)


def _available() -> bool:
    """torch names these operations for its own compiler; a build without oneDNN lacks them."""
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(built) and hasattr(torch.ops.mkldnn, "_convolution_transpose_pointwise")
