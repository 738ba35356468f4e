"""What the dense head learns from boxes: which places are whose middle, how sure to be, and where the sides are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.dff.dense_head import PLACE, centres

MIDDLE = 0.22  # of a box's size: places this near to its middle are its own
NEAREST = 0.75 * PLACE  # px: or this near, so that the smallest have a place too


def assign(objects: Tensor, height: int, width: int, sure: float) -> tuple[Tensor, Tensor]:
    """Objects [M,6] of one frame -> (owner [h,w] of each place, -1: none; left_out [h,w] bool: places to ignore).

    Where several claim a place, the smallest has it. A place inside a box whose score is below `sure` is left out.
    """
    x, y = centres(height, width, objects.device)
    owner = torch.full((height, width), -1, dtype=torch.int64, device=objects.device)
    if not len(objects):
        return owner, torch.zeros(height, width, dtype=torch.bool, device=objects.device)
    x1, y1, x2, y2, kind, score = (column[:, None, None] for column in objects.unbind(1))
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)  # (M, h, w)
    reach_x, reach_y = ((MIDDLE * extent).clamp(min=NEAREST) for extent in (x2 - x1, y2 - y1))
    central = inside & ((x - (x1 + x2) / 2).abs() <= reach_x) & ((y - (y1 + y2) / 2).abs() <= reach_y)
    there, certain = kind >= 0, score >= sure
    area = ((x2 - x1) * (y2 - y1)).expand_as(central)
    area = torch.where(central & there & certain, area, torch.inf)
    smallest, index = area.min(0)
    owner = torch.where(smallest < torch.inf, index, owner)
    left_out = (inside & there & ~certain).any(0) & (owner < 0)
    return owner, left_out


def detection_loss(
    logits: Tensor, boxes: Tensor, objects: Tensor, sure: float, weight: float, places: int | None = None
) -> Tensor:
    """Quality focal loss of scores and generalised IoU of boxes, each over the number of objects' places.

    logits    [N,classes,h,w] and boxes [N,4,h,w] xyxy px, as DenseHead.raw gives them
    objects   [N,M,6]: x1, y1, x2, y2, class (-1: none), score
    weight    of the boxes' part
    places    an object with more of them counts as the root of (their number * places), so that one which fills the
              frame does not outweigh all others; None: as their number
    """
    height, width = logits.shape[-2:]
    target = torch.zeros_like(logits)
    counted = torch.ones_like(logits)
    box_losses, shares = [], []
    for frame, found in enumerate(objects):
        owner, left_out = assign(found, height, width, sure)
        counted[frame, :, left_out] = 0
        row, column = (owner >= 0).nonzero(as_tuple=True)
        own = found[owner[row, column]]
        overlap, generalised = ious(boxes[frame, :, row, column].t(), own[:, :4])
        target[frame, own[:, 4].long(), row, column] = overlap.detach()
        share = torch.ones_like(overlap)
        if places is not None:
            counts = owner[row, column].bincount()[owner[row, column]]
            share = (counts / places).clamp(min=1) ** -0.5
        counted[frame, :, row, column] = share
        shares.append(share)
        box_losses.append(1 - generalised)
    box_loss, share = torch.cat(box_losses), torch.cat(shares)
    count = share.sum().clamp(min=1)
    away = (logits.sigmoid().detach() - target).square() * counted
    scores = (away * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum() / count
    return scores + weight * (box_loss * share).sum() / count


def ious(found: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """(IoU, generalised IoU) of pairs of boxes [K,4] xyxy px (Rezatofighi et al., CVPR 2019)."""
    low, high = torch.maximum(found[:, :2], true[:, :2]), torch.minimum(found[:, 2:], true[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    areas = [(one[:, 2:] - one[:, :2]).clamp(min=0).prod(1) for one in (found, true)]
    union = (areas[0] + areas[1] - common).clamp(min=1e-6)
    hull = torch.maximum(found[:, 2:], true[:, 2:]) - torch.minimum(found[:, :2], true[:, :2])
    around = hull.clamp(min=0).prod(1).clamp(min=1e-6)
    overlap = common / union
    return overlap, overlap - (around - union) / around
