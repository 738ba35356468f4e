"""One process's training: a step, the averaged weights, measuring, and a state from which it resumes bit for bit.

No Ray in here: processes meet only in `all_reduce`, which the rim (ray_train) leaves to torch.distributed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from models import weights
from models.cain_sd import CAIN
from pipeline.training.losses import LOSSES
from pipeline.training.recipe import Recipe
from pipeline.training.sampling import Batch, TripletSampler
from pipeline.training.start import start_as_average

HELD_OUT_BATCHES = 8


class Trainer:
    """Owns the network, its optimiser, its average and the step count."""

    def __init__(self, recipe: Recipe, device: torch.device | None = None) -> None:
        self.recipe = recipe
        self.device = device or torch.device("cpu")
        torch.manual_seed(recipe.seed)
        self.network = build(recipe).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.average = copy.deepcopy(self.network) if recipe.average_decay else None
        optimiser, tail = recipe.optimiser, set(self.network.tail.parameters())
        body = [p for p in self.network.parameters() if p not in tail]
        self.optimiser = torch.optim.Adam(
            [{"params": body, "factor": 1.0}, {"params": list(tail), "factor": optimiser.tail_factor}],
            lr=optimiser.learning_rate, betas=optimiser.betas,
        )  # fmt: skip
        self.bf16 = uses_bf16(recipe, self.device)
        self.step_count = 0
        self.first_loss: float | None = None
        self.plateau_factor = 1.0
        self.best_loss = math.inf
        self.stale = 0

    @property
    def progress(self) -> float:
        return self.step_count / self.recipe.schedule.steps

    @property
    def result(self) -> CAIN:
        """The network to measure and to export."""
        return self.network if self.average is None else self.average

    def learning_rate(self) -> float:
        schedule = self.recipe.schedule
        rate = self.recipe.optimiser.learning_rate * min(1.0, (self.step_count + 1) / (schedule.warmup + 1))
        if schedule.kind == "cosine":
            return rate * (0.5 + 0.5 * math.cos(math.pi * self.progress))
        return rate * self.plateau_factor

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step on a batch (of each process). Returns the loss and whether the step was skipped."""
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate() * group["factor"]
        batch = batch.to(self.device)
        loss = self._loss(self.network, batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        mean_loss = self._average_over_processes(loss.detach())
        if self.first_loss is None:
            self.first_loss = mean_loss
        limit = self.recipe.optimiser.skip_above
        skipped = not math.isfinite(mean_loss)
        if limit is not None and self.first_loss > 0:  # log losses can start below zero: no multiple of it is a limit
            skipped |= mean_loss > limit * self.first_loss
        if not skipped:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optimiser.clip_norm)
            self.optimiser.step()
        self.step_count += 1
        self._update_average()
        return {"loss": mean_loss, "skipped": float(skipped)}

    def _loss(self, network: CAIN, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            output = network(batch.frame0, batch.frame1, pad_multiple=network.shuffle)
        name = self.recipe.stage(min(self.progress, 1.0)).loss
        return LOSSES[name](output.float(), batch.middle, (batch.frame0 + batch.frame1) / 2)

    def _average_over_processes(self, loss: Tensor) -> float:
        """Average gradients and loss over all processes in one message, so that all take and skip the same steps."""
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            grads = [p.grad for p in self.network.parameters() if p.grad is not None]
            flat = torch.cat([*(g.flatten() for g in grads), loss.reshape(1)])
            torch.distributed.all_reduce(flat)
            flat /= torch.distributed.get_world_size()
            *parts, loss = torch.split(flat, [*(g.numel() for g in grads), 1])
            for grad, part in zip(grads, parts, strict=True):
                grad.copy_(part.view_as(grad))
        return float(loss)

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is None:
            return
        # Early weights are forgotten faster: they are far from anything worth averaging.
        decay = min(self.recipe.average_decay, self.step_count / (10 + self.step_count))
        averaged: list[Tensor] = list(self.average.parameters())
        current: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)

    @torch.no_grad()
    def measure(self, held_out: TripletSampler) -> float:
        """Mean loss on held-out triplets, the same ones each time; tells the plateau rule about it."""
        self.result.eval()
        losses = [float(self._loss(self.result, held_out.batch(i).to(self.device))) for i in range(HELD_OUT_BATCHES)]
        loss = sum(losses) / len(losses)
        schedule = self.recipe.schedule
        if loss < self.best_loss * (1 - 1e-4):
            self.best_loss, self.stale = loss, 0
        else:
            self.stale += 1
            if self.stale > schedule.plateau_patience:
                self.plateau_factor, self.stale = self.plateau_factor * schedule.plateau_factor, 0
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step_count,
            "first_loss": self.first_loss,
            "plateau": (self.plateau_factor, self.best_loss, self.stale),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step_count = state["step"]
        self.first_loss = state["first_loss"]
        self.plateau_factor, self.best_loss, self.stale = state["plateau"]


def build(recipe: Recipe) -> CAIN:
    """The network with which a run starts."""
    network = CAIN(**recipe.model.model_dump(exclude={"start_as_average"}))
    if recipe.model.start_as_average:
        start_as_average(network)
    if recipe.initial_weights:
        network = CAIN.from_reference(weights.load(recipe.initial_weights).tensors)
        expected = recipe.model.model_dump(exclude={"start_as_average"})
        if network.sizes != expected:
            raise ValueError(f"initial_weights {recipe.initial_weights} are of {network.sizes}; the recipe: {expected}")
    return network


def uses_bf16(recipe: Recipe, device: torch.device) -> bool:
    """Whether to compute in bf16. Emulated bf16 would be slower than fp32, so auto asks the device."""
    if recipe.precision != "auto":
        return recipe.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and "avx512_bf16" in _cpu_flags()


def _cpu_flags() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""


def prefetch(sampler: TripletSampler, first: int, last: int, rank: int = 0) -> Iterator[Batch]:
    """Batches of steps first..last-1, the next one made in a thread while the current one is computed with."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(sampler.batch, first, rank)
        for step in range(first, last):
            batch = pending.result()
            if step + 1 < last:
                pending = pool.submit(sampler.batch, step + 1, rank)
            yield batch
