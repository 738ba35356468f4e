"""One process's training, whatever the network: a step, the averaged weights, measuring, and a state to resume from.

No Ray in here: processes meet only in `all_reduce`, which the rim (ray_train) leaves to torch.distributed.
"""

from __future__ import annotations

import abc
import copy
import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

HELD_OUT_BATCHES = 8

N = TypeVar("N", bound=nn.Module)


class Movable(Protocol):
    def to(self, device: torch.device) -> Any: ...


B = TypeVar("B", bound=Movable)
B_co = TypeVar("B_co", bound=Movable, covariant=True)


class Sampler(Protocol[B_co]):
    def batch(self, step: int, rank: int = 0) -> B_co:
        """The batch of one process at one optimiser step: always the same."""


class BaseTrainer(abc.ABC, Generic[N, B]):
    """Owns a network, its optimiser, its average and the step count. A subclass makes the first two, and the loss."""

    network: N
    optimiser: torch.optim.Optimizer

    def __init__(self, network: N, *, steps: int, average_decay: float, device: torch.device, bf16: bool) -> None:
        self.device, self.bf16, self.steps, self.average_decay = device, bf16, steps, average_decay
        self.network = network.to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.average = copy.deepcopy(self.network) if average_decay else None
        self.step_count = 0
        self.first_loss: float | None = None

    @property
    def progress(self) -> float:
        return self.step_count / self.steps

    @property
    def result(self) -> N:
        """The network to measure and to export."""
        return self.network if self.average is None else self.average

    @abc.abstractmethod
    def learning_rate(self) -> float:
        """At this step."""

    @abc.abstractmethod
    def loss(self, network: N, batch: B) -> Tensor:
        """Of a batch on the device."""

    @property
    @abc.abstractmethod
    def clip_norm(self) -> float:
        """Of all gradients together."""

    def skips(self, loss: float) -> bool:
        """Whether a step with this loss, averaged over processes, is left out."""
        return not math.isfinite(loss)

    def step(self, batch: B) -> dict[str, float]:
        """One optimiser step on a batch (of each process). Returns the loss and whether the step was skipped."""
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate() * group["factor"]
        loss = self.loss(self.network, batch.to(self.device))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        mean_loss = self._average_over_processes(loss.detach())
        if self.first_loss is None:
            self.first_loss = mean_loss
        skipped = self.skips(mean_loss)
        if not skipped:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
            self.optimiser.step()
        self.step_count += 1
        self._update_average()
        return {"loss": mean_loss, "skipped": float(skipped)}

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
        decay = min(self.average_decay, self.step_count / (10 + self.step_count))
        averaged, current = _averaged(self.average), _averaged(self.network)
        torch._foreach_lerp_(averaged, current, 1 - decay)

    @torch.no_grad()
    def measure(self, held_out: Sampler[B]) -> float:
        """Mean loss on held-out batches, the same ones each time."""
        self.result.eval()
        losses = [float(self.loss(self.result, held_out.batch(i).to(self.device))) for i in range(HELD_OUT_BATCHES)]
        return sum(losses) / len(losses)

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step_count,
            "first_loss": self.first_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step_count = state["step"]
        self.first_loss = state["first_loss"]


def _averaged(network: nn.Module) -> list[Tensor]:
    """Parameters, and the statistics that BatchNorm keeps."""
    return [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bf16. Emulated bf16 would be slower than fp32, so auto asks the device."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and "avx512_bf16" in _cpu_flags()


def _cpu_flags() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""


def prefetch(sampler: Sampler[B], first: int, last: int, rank: int = 0) -> Iterator[B]:
    """Batches of steps first..last-1, the next one made in a thread while the current one is computed with.

    A sampler whose batches may be made at the same time says in `ahead` how many should be.
    """
    ahead: int = getattr(sampler, "ahead", 1)
    with ThreadPoolExecutor(ahead) as pool:
        pending = deque(pool.submit(sampler.batch, step, rank) for step in range(first, min(first + ahead, last)))
        for step in range(first, last):
            batch = pending.popleft().result()
            if step + ahead < last:
                pending.append(pool.submit(sampler.batch, step + ahead, rank))
            yield batch
