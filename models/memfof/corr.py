"""All-pairs correlation at 1/16 and its lookup (paper, section 3.2; RAFT, section 3.2).

Departures from the official code, same result up to rounding: one product is pooled to all levels (2x2 means of a
linear map are the map of the 2x2 means); the volume towards the previous frame is the transpose of that frame's
volume towards this one; bilinear reads are direct, so that a level of one cell is no division by zero.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.memfof.precision import full_precision


class Correlation(Protocol):
    """Reads correlations around where a flow points."""

    def __call__(self, flow: Tensor) -> Tensor:
        """flow [N,2,h,w] in cells -> [N, levels * (2 radius + 1)², h, w]: level-major, then x offset, then y."""


def all_pairs(source: Tensor, target: Tensor) -> Tensor:
    """<source, target> / sqrt(D) of maps [N,D,h,w] -> [N, n, n], query cells first. Always fp32."""
    with full_precision(source):
        query = source.float().flatten(2).transpose(1, 2) / source.shape[1] ** 0.5  # (N, n, D)
        return torch.bmm(query, target.float().flatten(2))


def pyramid(volume: Tensor, height: int, width: int, levels: int) -> list[Tensor]:
    """Target axes of [B, n] averaged 2x2, floor sizes -> `levels` maps [B, h/2^l, w/2^l]."""
    maps = [volume.reshape(-1, height, width)]
    for _ in range(levels - 1):
        maps.append(F.avg_pool2d(maps[-1].unsqueeze(1), 2).squeeze(1))
    return maps


def lookup(maps: list[Tensor], centre: Tensor, radius: int) -> Tensor:
    """Bilinear reads on a (2 radius + 1)² window around centre [B,2] (x, y at level 0), zero outside.

    All reads of a window share their fractional parts, so one patch of (2 radius + 2)² cells serves them.
    maps: [B, h/2^l, w/2^l] each -> [B, levels * (2 radius + 1)²]; x offset before y offset, as in RAFT.
    """
    offset = torch.arange(-radius, radius + 2, device=centre.device, dtype=centre.dtype)
    out = []
    for level, values in enumerate(maps):
        height, width = values.shape[-2:]
        at = centre / 2**level
        corner = at.floor()
        fraction = at - corner
        columns = corner[:, :1] + offset  # (B, 2r+2)
        rows = corner[:, 1:] + offset
        inside = ((columns >= 0) & (columns < width))[:, :, None] & ((rows >= 0) & (rows < height))[:, None, :]
        # Clamped as integers: a diverged flow of NaN must read something, not crash.
        x, y = columns.long().clamp(0, width - 1), rows.long().clamp(0, height - 1)
        index = (y[:, None, :] * width + x[:, :, None]).flatten(1)
        patch = values.flatten(1).gather(1, index).view(inside.shape) * inside  # (B, 2r+2 in x, 2r+2 in y)
        fx, fy = fraction[:, :1, None], fraction[:, 1:, None]
        patch = patch[:, :-1] + fx * (patch[:, 1:] - patch[:, :-1])
        patch = patch[:, :, :-1] + fy * (patch[:, :, 1:] - patch[:, :, :-1])
        out.append(patch.flatten(1))
    return torch.cat(out, 1)


def centres(flow: Tensor) -> Tensor:
    """Where flow [N,2,h,w] in cells points to -> [N, n, 2] (x, y)."""
    height, width = flow.shape[-2:]
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)
    cell = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])  # (2, h, w)
    return (flow + cell).flatten(2).transpose(1, 2)


class StoredCorrelation:
    """The pyramid of a volume [N, n, n], kept for all iterations."""

    def __init__(self, volume: Tensor, height: int, width: int, levels: int, radius: int) -> None:
        self.radius = radius
        self.maps = pyramid(volume, height, width, levels)

    def __call__(self, flow: Tensor) -> Tensor:
        samples, _, height, width = flow.shape
        with full_precision(flow):
            values = lookup(self.maps, centres(flow.float()).reshape(-1, 2), self.radius)
        return values.view(samples, height, width, -1).permute(0, 3, 1, 2)


class BlockedCorrelation:
    """The same without a volume: `rows` query cells at a time are correlated, pooled, read and forgotten."""

    def __init__(self, source: Tensor, target: Tensor, levels: int, radius: int, rows: int) -> None:
        self.source, self.target = source, target  # (N, D, h, w)
        self.levels, self.radius, self.rows = levels, radius, rows

    def __call__(self, flow: Tensor) -> Tensor:
        samples, _, height, width = flow.shape
        with full_precision(flow):
            at = centres(flow.float())
            query = self.source.float().flatten(2)  # (N, D, n)
            blocks = []
            for start in range(0, height * width, self.rows):
                some = slice(start, start + self.rows)
                volume = all_pairs(query[..., some], self.target)  # (N, rows, n)
                maps = pyramid(volume, height, width, self.levels)
                values = lookup(maps, at[:, some].reshape(-1, 2), self.radius)
                blocks.append(values.view(samples, -1, values.shape[-1]))
        return torch.cat(blocks, 1).view(samples, height, width, -1).permute(0, 3, 1, 2)


class FramePair:
    """Two neighbouring frames' maps [N,D,h,w] and, unless `rows` at a time are to do, their volume.

    The volume is C(t, t+1). Towards the earlier frame it is read transposed; a clip computes it once for both.
    """

    def __init__(
        self,
        earlier: Tensor,
        later: Tensor,
        levels: int,
        radius: int,
        rows: int | None,
        volume: Tensor | None = None,
    ) -> None:
        self.earlier, self.later = earlier, later
        self.levels, self.radius, self.rows = levels, radius, rows
        if volume is None and rows is None:
            volume = all_pairs(earlier, later)
        self.volume = volume  # (N, n, n), query cells of `earlier`

    def towards_later(self) -> Correlation:
        if self.volume is None:
            return self._blocked(self.earlier, self.later)
        return self._stored(self.volume)

    def towards_earlier(self) -> Correlation:
        if self.volume is None:
            return self._blocked(self.later, self.earlier)
        return self._stored(self.volume.transpose(1, 2).contiguous())

    def followed_by(self, batch: FramePair) -> FramePair:
        """This pair and all but the last of a batch of pairs that follow it; stored or in blocks as the batch is."""
        volume = None
        if self.volume is not None and batch.volume is not None:
            volume = torch.cat([self.volume, batch.volume[:-1]])
        earlier, later = torch.cat([self.earlier, batch.earlier[:-1]]), torch.cat([self.later, batch.later[:-1]])
        return FramePair(earlier, later, self.levels, self.radius, batch.rows, volume)

    def last(self) -> FramePair:
        """The last of a batch of pairs, on its own: it keeps no memory of the others."""
        volume = None if self.volume is None else self.volume[-1:].clone()
        return FramePair(self.earlier[-1:], self.later[-1:], self.levels, self.radius, self.rows, volume)

    def _stored(self, volume: Tensor) -> Correlation:
        height, width = self.earlier.shape[-2:]
        return StoredCorrelation(volume, height, width, self.levels, self.radius)

    def _blocked(self, source: Tensor, target: Tensor) -> Correlation:
        return BlockedCorrelation(source, target, self.levels, self.radius, self.rows or 1)
