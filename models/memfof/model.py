"""MEMFOF: optical flow of three frames in little memory (Bargatin et al., ICCV 2025, arXiv 2506.23151).

Both flows of the middle frame, backward to the frame before and forward to the one after, are regressed at 1/16,
corrected by iterations that read two all-pairs correlations, and upsampled once.

Departures from the official code, same output up to rounding: what it repeats is done once (see corr.py, update.py,
upsample.py and stream.py); sides under 241 px are padded instead of refused; ImageNet weights are never fetched; the
sizes are arguments. Under autocast, correlation, coordinates and upsampling stay fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.memfof.attention import Attention, Weighting
from models.memfof.budget import MemoryPlan, plan_memory
from models.memfof.checkpoint import Sizes, checked, infer_sizes
from models.memfof.corr import Correlation, FramePair
from models.memfof.encoder import STRIDE, Encoder, crop, normalise, pad, padding_of
from models.memfof.update import FlowHead, UpdateBlock
from models.memfof.upsample import DIRECTIONS, NEIGHBOURS, PIXELS, UpsampleWeight

ITERATIONS = 8


@dataclass(frozen=True, eq=False)
class Prediction:
    """Flow of the middle frames, and its uncertainty.

    flow      [N,2,2,H,W] px: backward (to the previous frame), forward (to the next); x right, y down
    info      [N,2,4,H,W]: two logits and two raw log-scales of each direction's mixture of Laplacians
    earlier   predictions of the iterations before, first to last, where they were asked for
    """

    flow: Tensor
    info: Tensor
    earlier: tuple[Prediction, ...] = ()

    def __repr__(self) -> str:
        return f"Prediction(flow={list(self.flow.shape)}, info={list(self.info.shape)}, earlier={len(self.earlier)})"


@dataclass(frozen=True, eq=False)
class State:
    """What one triplet's iterations start from: `net` changes, the rest does not."""

    net: Tensor  # (N, dim, h, w)
    context: Tensor  # (N, dim, h, w)
    attention: Weighting


class MEMFOF(nn.Module):
    """The published network by default; `Sizes` of a compact variant otherwise."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        super().__init__()
        self.sizes = s = sizes or Sizes()
        self.cnet = Encoder(9, 2 * s.dim, s.widths, s.blocks)
        self.init_conv = nn.Conv2d(2 * s.dim, 2 * s.dim, 3, padding=1)
        self.upsample_weight = UpsampleWeight(s.dim)
        self.flow_head = FlowHead(s.dim)
        self.fnet = Encoder(3, 2 * s.dim, s.widths, s.blocks)
        self.update_block = UpdateBlock(s.corr_channels, s.dim, s.refine_blocks)
        self.att = Attention(s.dim)

    def forward(
        self,
        frames: Tensor,
        iterations: int = ITERATIONS,
        *,
        every_iteration: bool | None = None,
        memory_budget: int | None = None,
    ) -> Prediction:
        """Flows of the middle frames of triplets.

        frames            [N,3,3,H,W]: previous, current, next; RGB in 0..255, float or uint8. Any size: sides are
                          padded to multiples of 16, and to 128 px (one cell at the coarsest level), and cropped back
        iterations        0 or more; 0 is the first regression alone
        every_iteration   also upsample the predictions before the last (`earlier`); None: in training only
        memory_budget     bytes for all-pairs tensors and the upsampling mask (budget.py); None: no limit
        Raises ValueError for what it cannot work with. On the CPU in evaluation, samples are computed one by one:
        a sample's bits do not depend on its batch.
        """
        self._check(frames, iterations)
        every = self.training if every_iteration is None else every_iteration
        if len(frames) > 1 and self.one_by_one(frames):
            return joined([self(one, iterations, every_iteration=every, memory_budget=memory_budget)
                           for one in torch.split(frames, 1)])  # fmt: skip

        images, padding = self.padded(frames)
        plan = self.plan(images, memory_budget)
        previous, current, following = (self.fnet(images[:, i]) for i in range(3))  # (N, 2 dim, h, w) each
        state = self.start(images, plan)
        del images
        towards = (
            self.pair(previous, current, plan).towards_earlier(),
            self.pair(current, following, plan).towards_later(),
        )
        done: list[Prediction] = []
        for net, fields in self.refinements(state, towards, iterations):
            last = (net, fields)
            if every:
                done.append(self.upsampled(*last, plan, padding))
        if not every:
            del state, towards
            return self.upsampled(*last, plan, padding)
        return Prediction(done[-1].flow, done[-1].info, tuple(done[:-1]))

    # The steps of forward, which a stream of frames (stream.py) takes too.

    def padded(self, frames: Tensor) -> tuple[Tensor, tuple[int, int, int, int]]:
        """Normalised frames [...,3,H,W] on whole cells, and the padding to crop off."""
        height, width = frames.shape[-2:]
        padding = padding_of(height, width, smallest=STRIDE << (self.sizes.corr_levels - 1))
        return pad(normalise(frames), padding), padding

    def start(self, images: Tensor, plan: MemoryPlan) -> State:
        """Context of padded triplets [N,3,3,H,W]: hidden state, context and attention (specs 2 and 3)."""
        net, context = self.init_conv(self.cnet(images.flatten(1, 2))).chunk(2, 1)
        return State(net, context, self.att(context, plan.attention_rows))

    def pair(self, earlier: Tensor, later: Tensor, plan: MemoryPlan) -> FramePair:
        return FramePair(earlier, later, self.sizes.corr_levels, self.sizes.corr_radius, plan.correlation_rows)

    def refinements(
        self, state: State, towards: tuple[Correlation, Correlation], iterations: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(hidden state [N,dim,h,w], fields [N,2,6,h,w]) after the first regression and after each iteration.

        Fields: flow x, y in cells, then the mixture's four. Flows add up, the mixture is replaced (specs 5).
        """
        net = state.net
        fields = self.flow_head(net)
        yield net, fields
        tails = self.update_block.collapsed() if iterations else []
        for _ in range(iterations):
            flow = fields[:, :, :2].detach()  # (N, 2, 2, h, w)
            corr = torch.cat([read(flow[:, i]) for i, read in enumerate(towards)], 1)
            net = self.update_block(net, state.context, corr, flow.flatten(1, 2), state.attention, tails)
            change = self.flow_head(net)
            fields = torch.cat([flow + change[:, :, :2], change[:, :, 2:]], 2)
            yield net, fields

    def upsampled(
        self, net: Tensor, fields: Tensor, plan: MemoryPlan, padding: tuple[int, int, int, int]
    ) -> Prediction:
        rows = None if net.requires_grad else plan.mask_rows
        full = crop(self.upsample_weight.upsample(net, fields, rows), padding)  # (N, 2, 6, H, W)
        return Prediction(STRIDE * full[:, :, :2], full[:, :, 2:].contiguous())

    def plan(self, images: Tensor, memory_budget: int | None) -> MemoryPlan:
        """What the budget holds of padded triplets [N,...,H,W]."""
        height, width = images.shape[-2] // STRIDE, images.shape[-1] // STRIDE
        return plan_memory(
            memory_budget,
            samples=len(images),
            height=height,
            width=width,
            levels=self.sizes.corr_levels,
            radius=self.sizes.corr_radius,
            mask_channels=DIRECTIONS * NEIGHBOURS * PIXELS,
        )

    def one_by_one(self, frames: Tensor) -> bool:
        """CPU kernels choose their blocking, and with it the last bits, by the batch; they gain nothing from it."""
        return frames.device.type == "cpu" and not self.training

    def _check(self, frames: Tensor, iterations: int) -> None:
        if frames.ndim != 5 or frames.shape[1:3] != (3, 3) or 0 in frames.shape:
            raise ValueError(
                f"MEMFOF takes triplets [N,3,3,H,W] (previous, current, next; RGB in 0..255); got {list(frames.shape)}"
            )
        if iterations < 0:
            raise ValueError(f"iterations is {iterations}; it must be 0 or more")

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any]) -> MEMFOF:
        """The network of a published checkpoint's tensors (or a compact variant's), under their published names.

        Sizes are read off the tensors. Raises KeyError for missing or unknown names, ValueError for shapes.
        """
        sizes = infer_sizes(tensors)
        with torch.device("meta"):  # 75 million random numbers less
            network = cls(sizes)
        network.load_state_dict(checked(tensors, network.state_dict(), sizes), assign=True)
        return network.eval()

    def to_reference(self) -> dict[str, Tensor]:
        """The tensors under their published names, which are the modules' own: the inverse of from_reference."""
        return dict(self.state_dict())


def joined(parts: list[Prediction]) -> Prediction:
    """Predictions of single samples as those of a batch."""
    earlier = (joined(list(of_one_iteration)) for of_one_iteration in zip(*(p.earlier for p in parts), strict=True))
    return Prediction(torch.cat([p.flow for p in parts]), torch.cat([p.info for p in parts]), tuple(earlier))
