"""A compact IFNet's training: from random weights, by the real frames and by a teacher's flows.

After RIFE's privileged distillation (Huang et al., ECCV 2022, section 3.4): the teacher's flows are followed only where
they give a better picture than the student's own. Here the teacher is a published network that has seen the two known
frames alone. The weight of its flows falls over the run; what stays is PSNR itself, at each exit.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.rife import SCALES, IFNet, Synthesis
from models.rife.warp import grid_of, warp
from pipeline.training.losses import log_mse
from pipeline.training.rife_recipe import RifeRecipe
from pipeline.training.rife_sampling import RifeBatch
from pipeline.training.rife_start import start_as_matcher
from pipeline.training.trainer import HELD_OUT_BATCHES, BaseTrainer, Sampler, uses_bf16

AROUND = 5
"""Pixels to the side of the square over which two pictures' errors are compared."""


class RifeTrainer(BaseTrainer[IFNet, RifeBatch]):
    def __init__(self, recipe: RifeRecipe, device: torch.device | None = None) -> None:
        device = device or torch.device("cpu")
        torch.manual_seed(recipe.seed)
        network = IFNet(recipe.model.sizes)
        if recipe.model.start_as_matcher:
            start_as_matcher(network)
        super().__init__(
            network, steps=recipe.schedule.steps, average_decay=recipe.average_decay, device=device,
            bf16=uses_bf16(recipe.precision, device),
        )  # fmt: skip
        self.recipe = recipe
        optimiser = recipe.optimiser
        self.optimiser = torch.optim.AdamW(
            [{"params": list(self.network.parameters()), "factor": 1.0}],
            lr=optimiser.learning_rate, betas=optimiser.betas, weight_decay=optimiser.weight_decay,
        )  # fmt: skip

    def learning_rate(self) -> float:
        rate = self.recipe.optimiser.learning_rate * min(1.0, (self.step_count + 1) / (self.recipe.schedule.warmup + 1))
        return rate * (0.5 + 0.5 * math.cos(math.pi * min(1.0, self.progress)))

    @property
    def clip_norm(self) -> float:
        return self.recipe.optimiser.clip_norm

    def loss(self, network: IFNet, batch: RifeBatch) -> Tensor:
        weight = self.recipe.loss.flow.at(self.progress)
        teacher_error = _error(_teachers(batch), batch.wanted)
        average = (batch.frame0 + batch.frame1) / 2
        total = batch.t.new_zeros(())
        taught = batch.taught[:, None, None, None]
        exits = self._exits(network, batch)
        for share, found in zip(self.recipe.loss.exits[-len(exits) :], exits, strict=True):
            picture = found.frame
            better = teacher_error < _error(picture.detach(), batch.wanted)
            better = (better & (taught > 0)) | (taught > 1)
            far = distance(found.flow, batch.teacher[:, :4], better)
            total = total + share * (log_mse(picture, batch.wanted, average) + weight * far)
        return total

    def _exits(self, network: IFNet, batch: RifeBatch) -> list[Synthesis]:
        blocks = self.recipe.stage(min(self.progress, 1.0)).blocks
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            first, last = network.encode_frame(batch.frame0), network.encode_frame(batch.frame1)
            return list(network.exits(first, last, batch.t, SCALES[:blocks]))

    @torch.no_grad()
    def measure(self, held_out: Sampler[RifeBatch]) -> float:
        """Minus the mean PSNR of the last exit on held-out crops, in dB: the same ones each time."""
        self.result.eval()
        found = []
        for index in range(HELD_OUT_BATCHES):
            batch = held_out.batch(index).to(self.device)
            each = (self._exits(self.result, batch)[-1].frame - batch.wanted).square().mean((1, 2, 3))
            found.append(10 * torch.log10(each.clamp_min(1e-6)))
        return float(torch.cat(found).mean())


def distance(flow: Tensor, known: Tensor, counts: Tensor) -> Tensor:
    """How far two pairs of flows [N,4,H,W] are apart where `counts` [N,1,H,W] is set, px; a mean over all pixels.

    Not in relation to the motion: the many samples that hardly move would keep the flows at nothing.
    """
    count, _, height, width = flow.shape
    apart = (flow - known).reshape(count, 2, 2, height, width).square().sum(2).add(1e-4).sqrt()
    return (counts * apart).mean()


def _teachers(batch: RifeBatch) -> Tensor:
    """The teacher's picture, [N,3,H,W]; the average of both frames where there is no teacher."""
    height, width = batch.frame0.shape[-2:]
    grid = grid_of(height, width, batch.frame0.device)
    flow, share = batch.teacher[:, :4], torch.sigmoid(batch.teacher[:, 4:])
    return warp(batch.frame0, flow[:, :2], grid) * share + warp(batch.frame1, flow[:, 2:], grid) * (1 - share)


def _error(picture: Tensor, wanted: Tensor) -> Tensor:
    """Around each pixel, [N,1,H,W]."""
    return F.avg_pool2d((picture - wanted).abs().mean(1, keepdim=True), AROUND, 1, AROUND // 2)
