"""MEMFOF's training pass: the published sequence loss, and a cheaper one for a compact network on a CPU.

At 1/16, upsampling a prediction costs more than the iteration that made it. So `upsampled: last` compares earlier
predictions cell by cell with the flows at 16 pixels of each cell, and the last one pixel by pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.memfof import MEMFOF, Prediction, sequence_loss
from models.memfof.corr import all_pairs, centres
from models.memfof.encoder import STRIDE, crop
from models.memfof.loss import MAX_FLOW, negative_log_likelihood
from models.memfof.precision import full_precision
from models.memfof.upsample import DIRECTIONS, NEIGHBOURS, PIXELS, neighbourhoods
from pipeline.training.flow_recipe import FlowLossRecipe
from pipeline.training.flow_sampling import FlowBatch

SAMPLES = 4  # pixels a side of a cell that an earlier prediction is compared with


def training_loss(
    network: MEMFOF, batch: FlowBatch, iterations: int, recipe: FlowLossRecipe, progress: float
) -> Tensor:
    """The recipe's loss of a batch whose sides are multiples of 16. `progress` 0..1 of the run."""
    images, padding = network.padded(batch.frames)
    plan = network.plan(images, None)
    # The three frames in one batch: one statistic for BatchNorm, where the published code takes three.
    maps = network.fnet(images.flatten(0, 1)).unflatten(0, images.shape[:2]).unbind(1)  # (N, 2 dim, h, w) each
    state = network.start(images, plan)
    pairs = network.pair(maps[0], maps[1], plan), network.pair(maps[1], maps[2], plan)
    towards = pairs[0].towards_earlier(), pairs[1].towards_later()
    steps = list(network.refinements(state, towards, iterations))
    if recipe.upsampled == "all":
        done = [network.upsampled(net, fields, plan, padding) for net, fields in steps]
        last = done[-1]
        loss = sequence_loss(Prediction(last.flow, last.info, tuple(done[:-1])), batch.flow, batch.valid, recipe.gamma)
    else:
        net, fields = steps[-1]
        full = crop(upsampled(network, net, fields), padding)
        last = Prediction(STRIDE * full[:, :, :2], full[:, :, 2:])
        loss = mean_nll(last.flow, last.info, batch.flow, batch.valid)
        for i, (_, earlier) in enumerate(steps[:-1]):
            loss = loss + recipe.gamma ** (iterations - i) * cell_loss(earlier, batch, padding)
    if recipe.l1:
        loss = loss + recipe.l1 * end_point_error(last.flow, batch)
    matching = recipe.matching.at(progress)
    if matching:
        loss = loss + matching * matching_loss(maps, batch, padding)
    return loss


def upsampled(network: MEMFOF, net: Tensor, fields: Tensor) -> Tensor:
    """UpsampleWeight.upsample as two matrix products, which keep less for the backward pass: [N,2,C,16 h,16 w]."""
    head = network.upsample_weight
    hidden = head[1](head[0](net))
    with full_precision(net):
        samples, height, width = len(net), *net.shape[-2:]
        cells = hidden.float().permute(0, 2, 3, 1)  # (N, h, w, 2 dim)
        last = head[2]
        assert isinstance(last, nn.Conv2d)
        logits = 0.25 * F.linear(cells, last.weight.flatten(1), last.bias)
        weights = logits.view(-1, NEIGHBOURS, PIXELS).softmax(1)  # (N h w 2, 9, 256)
        around = neighbourhoods(fields.float()).permute(0, 4, 5, 1, 2, 3).reshape(len(weights), -1, NEIGHBOURS)
        pixels = torch.bmm(around, weights).view(samples, height, width, DIRECTIONS, -1, STRIDE, STRIDE)
        return pixels.permute(0, 3, 4, 1, 5, 2, 6).reshape(samples, DIRECTIONS, -1, STRIDE * height, STRIDE * width)


def cell_loss(fields: Tensor, batch: FlowBatch, padding: tuple[int, int, int, int]) -> Tensor:
    """Mean likelihood of the flows at 4x4 pixels of each cell under the cell's own prediction [N,2,6,h,w]."""
    flow, valid = on_cells(batch, padding, SAMPLES)
    spread = fields.float().repeat_interleave(SAMPLES, -1).repeat_interleave(SAMPLES, -2)
    return mean_nll(STRIDE * spread[:, :, :2], spread[:, :, 2:], flow, valid)


def mean_nll(flow: Tensor, info: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """What sequence_loss takes of one prediction; its lengths are sums of squares, several times as fast here."""
    known = (valid >= 0.5) & (target.square().sum(2) < MAX_FLOW**2)
    nll = negative_log_likelihood(flow, info, torch.where(known.unsqueeze(2), target, 0))
    counted = known.unsqueeze(2) & nll.isfinite()
    return torch.where(counted, nll, 0).sum() / counted.sum().clamp(min=1)


def on_cells(batch: FlowBatch, padding: tuple[int, int, int, int], samples: int) -> tuple[Tensor, Tensor]:
    """Target and validity at `samples`² evenly spread pixels of each cell of the padded frame; padding is invalid."""
    step = STRIDE // samples
    flow = F.pad(batch.flow, padding)[..., step // 2 :: step, step // 2 :: step]
    valid = F.pad(batch.valid, padding)[..., step // 2 :: step, step // 2 :: step]
    return flow, valid


def end_point_error(flow: Tensor, batch: FlowBatch) -> Tensor:
    """Mean length of the error over valid pixels, px. The root's foot is rounded: its slope at 0 would be infinite."""
    known = (batch.valid >= 0.5) & (batch.flow.square().sum(2) < MAX_FLOW**2)
    error = ((flow - batch.flow).square().sum(2) + 1e-4).sqrt()
    return torch.where(known, error, 0).sum() / known.sum().clamp(min=1)


def matching_loss(maps: tuple[Tensor, ...], batch: FlowBatch, padding: tuple[int, int, int, int]) -> Tensor:
    """Cross-entropy of the true match under a softmax of each cell's correlations, both directions.

    The true match lies between four cells, which share it bilinearly; cells whose match is outside are left out.
    """
    flow, valid = on_cells(batch, padding, 1)  # (N, 2, 2, h, w): at a pixel beside the cell's centre
    height, width = flow.shape[-2:]
    total, count = flow.new_zeros(()), 0.0
    for direction, other in enumerate((maps[0], maps[2])):
        log_p = all_pairs(maps[1], other).log_softmax(-1)  # (N, n, n)
        at = centres(flow[:, direction] / STRIDE)  # (N, n, 2) in cells
        known = valid[:, direction].flatten(1) >= 0.5  # (N, n)
        known &= (at >= 0).all(-1) & (at[..., 0] <= width - 1) & (at[..., 1] <= height - 1)
        corner = torch.minimum(at.clamp(min=0).floor(), at.new_tensor([width - 2, height - 2])).clamp(min=0)
        part = (at - corner).clamp(0, 1)
        for dy in (0, 1):
            for dx in (0, 1):
                share = (part[..., 0] if dx else 1 - part[..., 0]) * (part[..., 1] if dy else 1 - part[..., 1])
                index = ((corner[..., 1] + dy) * width + corner[..., 0] + dx).long()
                there = log_p.gather(-1, index.unsqueeze(-1)).squeeze(-1)
                total = total - (there * share * known).sum()
        count += float(known.sum())
    return total / max(count, 1.0)
