"""How much of what grows with the square of the frame is kept, and how much is recomputed in blocks.

Three tensors relate every cell to every cell (n cells, n² entries): the two correlation pyramids and the attention.
At 1080p they take 973 MB. Kept, they are computed once a triplet; in blocks of query cells, once an iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT = 4  # bytes
UPSAMPLING = 32 * 2**20  # bytes of the upsampling mask that exist at once in evaluation, if the budget has them


@dataclass(frozen=True)
class MemoryPlan:
    """Rows (query cells, or grid rows for the mask) computed at once. None: all, and kept over the iterations."""

    correlation_rows: int | None = None
    attention_rows: int | None = None
    mask_rows: int | None = None


def plan_memory(
    budget: int | None,
    *,
    samples: int,
    height: int,
    width: int,
    levels: int,
    radius: int,
    mask_channels: int,
) -> MemoryPlan:
    """What a budget of bytes can hold of `samples` triplets on a grid of height x width cells.

    The budget covers the all-pairs tensors with their temporaries, and the upsampling mask; it does not cover the
    weights and the maps whose size is linear in the frame's. Recomputing the correlation costs four times the
    attention, so the correlation is kept first. At least one row is computed at a time, whatever the budget.
    """
    cells = height * width
    square = samples * cells * cells * FLOAT
    pyramids = 2 * pyramid_cells(height, width, levels) * samples * cells * FLOAT
    mask_row = 3 * samples * width * mask_channels * FLOAT  # logits, their softmax, and the upsampled values
    if budget is None:
        return MemoryPlan(None, None, max(1, UPSAMPLING // mask_row))
    if budget < 1:
        raise ValueError(f"memory_budget is {budget} bytes; it must be positive, or None for no limit")
    left, correlation_rows, attention_rows = budget, None, None
    if pyramids <= left:
        left -= pyramids
    else:
        patch = (2 * radius + 2) ** 2 * (8 + 4 * FLOAT)  # int64 indices, and the values on their way to bilinear ones
        row = samples * (2 * pyramid_cells(height, width, levels) * FLOAT + patch)
        correlation_rows = max(1, left // row)
    if 2 * square <= left:  # the logits and their softmax
        left -= square
    else:
        attention_rows = max(1, left // (2 * samples * cells * FLOAT))
    return MemoryPlan(correlation_rows, attention_rows, max(1, min(budget, UPSAMPLING) // mask_row))


def pyramid_cells(height: int, width: int, levels: int) -> int:
    """Target cells of one query in all levels."""
    return sum((height >> level) * (width >> level) for level in range(levels))
