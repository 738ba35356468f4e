"""CAIN-SD's training: phases, what learns in each, and what its loss is (specs: section 3.5 of the paper)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from models.cain_sd.adaptive import CAINSD
from models.cain_sd.sd_finder import (
    SHORT_SIDE,
    DecisionNet,
    Logits,
    Window,
    resource_loss,
    straight_through,
)
from pipeline.plan.adaptive import fitted_grid
from pipeline.training.losses import LOSSES
from pipeline.training.sd_build import build
from pipeline.training.sd_recipe import Phase, SDRecipe
from pipeline.training.sd_sampling import SDBatch
from pipeline.training.trainer import BaseTrainer, uses_bf16

FLOOR = 1e-6  # of a frame's squared error: frames of more than 60 dB count alike


class SDTrainer(BaseTrainer[CAINSD, SDBatch]):
    def __init__(self, recipe: SDRecipe, device: torch.device | None = None) -> None:
        device = device or torch.device("cpu")
        torch.manual_seed(recipe.seed)
        super().__init__(
            build(recipe), steps=recipe.schedule.steps, average_decay=recipe.average_decay, device=device,
            bf16=uses_bf16(recipe.precision, device),
        )  # fmt: skip
        self.recipe = recipe
        self.costs = torch.tensor(self.network.flops_per_pixel(), device=device)
        tail = set(self.network.cain.tail.parameters())
        finder = list(self.network.finder.parameters())
        self.optimiser = torch.optim.Adam(
            [
                {"params": [p for p in self.network.cain.parameters() if p not in tail], "factor": 1.0},
                {"params": list(tail), "factor": recipe.tail_factor},
                {"params": list(self.network.enlarger.parameters()), "factor": recipe.enlarger_factor},
                {"params": finder, "factor": 1.0, "finder": True},
            ],
            lr=1.0, betas=recipe.betas,
        )  # fmt: skip
        self._measured: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    @property
    def phase(self) -> Phase:
        return self.recipe.phase_at(self.step_count)[0]

    def learning_rate(self) -> float:
        phase, first = self.recipe.phase_at(self.step_count)
        done = self.step_count - first
        rate = phase.learning_rate * min(1.0, (done + 1) / (self.recipe.warmup + 1))
        return rate * (0.5 + 0.5 * math.cos(math.pi * min(1.0, done / phase.steps)))

    @property
    def clip_norm(self) -> float:
        return self.recipe.clip_norm

    def step(self, batch: SDBatch) -> dict[str, float]:
        phase, first = self.recipe.phase_at(self.step_count)
        if self.step_count == first and self.average is not None:
            self.network.load_state_dict(self.average.state_dict())
        if phase.kind != "finder":
            self._measured.clear()  # of networks that change now
        choose_trained(self.network, phase.kind, self.recipe.adapts)
        for group in self.optimiser.param_groups:
            if group.get("finder"):
                group["factor"] = phase.finder_factor
        return super().step(batch)

    def loss(self, network: CAINSD, batch: SDBatch) -> Tensor:
        loss = {
            "exits": self.exits_loss,
            "depth": self.depth_loss,
            "scale": self.scale_loss,
            "finder": self.finder_loss,
        }[self.phase.kind](network, batch)
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            # Processes add their gradients up: each needs one for the same parameters, whatever it drew.
            loss = loss + sum(0 * p.sum() for p in network.parameters() if p.requires_grad)
        return loss

    def exits_loss(self, network: CAINSD, batch: SDBatch) -> Tensor:
        """Mean over the phase's exits, at one scale that all processes draw alike."""
        scales = self.phase.scales
        draw = torch.rand((), generator=self.generator(batch.step, -1)).item() * sum(scales.values())
        scale = next(s for s in scales if (draw := draw - scales[s]) <= 0)
        found = self.every_exit(network, batch, scale)
        wanted = self.phase.exits or range(1, len(found) + 1)
        return torch.stack([self.distance(found[depth - 1], batch) for depth in wanted]).mean()

    def depth_loss(self, network: CAINSD, batch: SDBatch) -> Tensor:
        """Step 2: the exit drawn by DepthNet, at scale 1, and what it costs."""
        drawn = straight_through(
            of_crops(network, batch).depth[:, 0], generator=self.generator(batch.step, batch.rank)
        )  # (N, D)
        found = self.every_exit(network, batch, 1)
        scale = torch.zeros(len(drawn), len(network.scales), device=drawn.device)
        scale[:, 0] = 1
        return self.combined(found, drawn, batch) + self.resources(scale, drawn, batch)

    def scale_loss(self, network: CAINSD, batch: SDBatch) -> Tensor:
        """Step 3: the scale drawn by ScaleNet, with the exit that DepthNet prefers."""
        logits = of_crops(network, batch)
        drawn = straight_through(logits.scale[:, 0], generator=self.generator(batch.step, batch.rank))  # (N, S)
        exits = logits.depth[:, 0].argmax(-1)
        depth = F.one_hot(exits, network.depths).to(drawn)
        found = []
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            for scale in network.scales:
                each = [
                    network.synthesise(batch.frame0[i : i + 1], batch.frame1[i : i + 1], scale, int(exits[i]) + 1)
                    for i in range(len(exits))
                ]
                found.append(torch.cat(each).float())
        return self.combined(found, drawn, batch) + self.resources(drawn, depth, batch)

    def finder_loss(self, network: CAINSD, batch: SDBatch) -> Tensor:
        """The expected log error of a whole frame and its price, over all choices for its patches; exact, no draws.

        Errors are those of the networks, which stay as they are: each frame's are computed once.
        """
        logits, errors = self.of_frame(network, batch)
        by_scale, by_depth = F.log_softmax(logits.scale[0], -1), F.log_softmax(logits.depth[0], -1)
        both = by_scale[:, :, None] + by_depth[:, None, :]  # (P, S, D) log probabilities
        chances = both.exp()
        share = self.costs / self.costs[0, -1]
        loss = 0.25 * torch.log((chances * errors).sum((1, 2)).mean() + FLOOR)
        phase, first = self.recipe.phase_at(self.step_count)
        price = phase.price.at((self.step_count - first) / phase.steps) * (chances * share).sum((1, 2)).mean()
        entropy = -(chances * both).sum((1, 2)).mean()
        return loss + price - phase.temperature * entropy

    def of_frame(self, network: CAINSD, batch: SDBatch) -> tuple[Logits, Tensor]:
        """The finder's logits for a whole frame's patches, and the patches' mean squared errors [P,S,D]."""
        height, width = batch.frame0.shape[-2:]
        grid = self.recipe.grid
        multiple = network.cain.shuffle * max(network.scales)
        windows = [
            Window(p.top, p.left, p.height, p.width)
            for p in fitted_grid(height, width, grid.size, grid.overlap, multiple)
        ]
        key = (batch.rank, batch.key)
        if key not in self._measured:
            with torch.no_grad():
                seen = network.finder.seen(batch.frame0, batch.frame1, network.motion)
                self._measured[key] = (seen, self.errors(network, batch, windows))
        seen, errors = self._measured[key]
        return network.finder.judge(seen, windows, (height, width)), errors

    def errors(self, network: CAINSD, batch: SDBatch, windows: list[Window]) -> Tensor:
        """Mean squared error of each window at each scale and exit, [P,S,D]."""
        means = (batch.frame0.mean((2, 3), keepdim=True), batch.frame1.mean((2, 3), keepdim=True))
        rows = []
        for window in windows:
            across = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
            patch0, middle, patch1 = (x[..., across[0], across[1]] for x in batch[:3])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                found = [network.every_exit(patch0, patch1, scale, means) for scale in network.scales]
            rows.append([[(x.float().clamp(0, 1) - middle).square().mean() for x in exits] for exits in found])
        return torch.tensor(rows, device=self.device)

    def every_exit(self, network: CAINSD, batch: SDBatch, scale: int) -> list[Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return [output.float() for output in network.every_exit(batch.frame0, batch.frame1, scale)]

    def combined(self, found: list[Tensor], drawn: Tensor, batch: SDBatch) -> Tensor:
        """Loss of the outputs that were drawn, one-hot [N,choices], and of all of them by the phase's weight."""
        output = torch.einsum("nk,knchw->nchw", drawn, torch.stack(found))
        loss = self.distance(output, batch)
        every = self.phase.every_choice
        return loss + every * torch.stack([self.distance(each, batch) for each in found]).mean() if every else loss

    def distance(self, output: Tensor, batch: SDBatch) -> Tensor:
        return LOSSES[self.phase.loss](output, batch.middle, (batch.frame0 + batch.frame1) / 2)

    def resources(self, scale: Tensor, depth: Tensor, batch: SDBatch) -> Tensor:
        """R of section 3.4, the crop being the one patch of its frame."""
        size = (batch.frame0.shape[-2], batch.frame0.shape[-1])
        weights = self.recipe.resources
        return resource_loss(
            scale[:, None], depth[:, None], self.costs, [Window(0, 0, *size)], size,
            weights.scale_lambda, weights.depth_lambda,
        ).mean()  # fmt: skip

    def generator(self, step: int, rank: int) -> torch.Generator:
        """Of a step's draws: the same whenever it is taken."""
        generator = torch.Generator(self.device if rank >= 0 else torch.device("cpu"))
        return generator.manual_seed((self.recipe.seed << 40) + (step << 8) + rank + 1)


def of_crops(network: CAINSD, batch: SDBatch) -> Logits:
    """Logits [N,1,·] of crops as one patch each; made small as much as their whole frames are at inference."""
    size = (batch.frame0.shape[-2], batch.frame0.shape[-1])
    found = []
    for index, side in enumerate(batch.short_sides):
        ratio = min(1.0, SHORT_SIDE / side)
        short = max(1, round(min(size) * ratio))
        frame0, frame1 = batch.frame0[index : index + 1], batch.frame1[index : index + 1]
        seen = network.finder.seen(frame0, frame1, network.motion, short)
        found.append(network.finder.judge(seen, [Window(0, 0, *size)], size))
    return Logits(torch.cat([each.scale for each in found]), torch.cat([each.depth for each in found]))


def choose_trained(network: CAINSD, kind: str, adapts: tuple[str, ...]) -> None:
    """Leave what a phase does not train without gradients."""
    network.requires_grad_(False)
    nets: dict[str, DecisionNet] = {"scale": network.finder.scale_net, "depth": network.finder.depth_net}
    trained: list[nn.Module] = [net for name, net in nets.items() if name in adapts and kind in (name, "finder")]
    if kind != "finder":
        trained += [network.cain, network.enlarger]
    for module in trained:
        module.requires_grad_(True)
    enlarger: Any = network.enlarger
    for frozen in ("sub_mean", "add_mean"):  # CARN-M's constants
        if hasattr(enlarger, frozen):
            getattr(enlarger, frozen).requires_grad_(False)
