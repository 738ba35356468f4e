"""Global motion aggregation: where the context looks alike, motion may be alike (Jiang et al., GMA; paper, 3.1)."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn


class Weighting(Protocol):
    def __call__(self, values: Tensor) -> Tensor:
        """values [N, n, C] -> their weighted means [N, n, C], one for each query cell."""


class Attention(nn.Module):
    """One head over all cells, without position; computed once a triplet."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_qk = nn.Conv2d(dim, 2 * dim, 1, bias=False)

    def forward(self, context: Tensor, rows: int | None = None) -> Weighting:
        """context [N,dim,h,w]; `rows` query cells at a time, or all at once and kept (None)."""
        query, key = self.to_qk(context).flatten(2).chunk(2, 1)  # (N, dim, n) each
        cells = query.shape[-1]
        query = query.transpose(1, 2) * (math.log(cells, 3) / query.shape[1] ** 0.5)  # (N, n, dim)
        return StoredAttention(query, key) if rows is None else BlockedAttention(query, key, rows)


def attend(query: Tensor, key: Tensor) -> Tensor:
    """Softmax over the keys, in fp32, kept in the queries' type."""
    return torch.softmax(query @ key, -1, dtype=torch.float32).to(query.dtype)  # (N, rows, n)


class StoredAttention:
    def __init__(self, query: Tensor, key: Tensor) -> None:
        self.weights = attend(query, key)  # (N, n, n)

    def __call__(self, values: Tensor) -> Tensor:
        return self.weights @ values


class BlockedAttention:
    """The same without its n² weights: they are recomputed, `rows` queries at a time."""

    def __init__(self, query: Tensor, key: Tensor, rows: int) -> None:
        self.query, self.key, self.rows = query, key, rows

    def __call__(self, values: Tensor) -> Tensor:
        return torch.cat([attend(some, self.key) @ values for some in torch.split(self.query, self.rows, 1)], 1)


class Aggregator(nn.Module):
    """Adds to each cell's motion what cells of like context see: motion + gamma * A V."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_v = nn.Conv2d(dim, dim, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, attention: Weighting, motion: Tensor) -> Tensor:
        values = self.to_v(motion).flatten(2).transpose(1, 2)  # (N, n, dim)
        gathered = attention(values).transpose(1, 2).reshape(motion.shape)
        return motion + self.gamma * gathered
