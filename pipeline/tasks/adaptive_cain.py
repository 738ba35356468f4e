"""CAIN-SD as a backbone of adaptive interpolation: three scales, five exits, the middle only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from models.cain_sd.adaptive import CAINSD
from models.cain_sd.cain import centred_padding, pad, spatial_mean
from models.cain_sd.sd_finder import Window
from pipeline.plan.patches import Patch


@dataclass(frozen=True)
class CainState:
    """Both frames padded [1,3,H,W], and their means [1,3,1,1], which every patch is given."""

    left: Tensor
    right: Tensor
    means: tuple[Tensor, Tensor]


class CainBackbone:
    def __init__(self, network: CAINSD, deepest: int, device: str) -> None:
        """deepest: the last exit that may be chosen."""
        self._network = network.to(device).eval()
        self._deepest = deepest
        self.scales = network.scales
        self.fold = network.cain.shuffle * max(network.scales)
        self.costs = [row[:deepest] for row in network.flops_per_pixel()]

    def padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        return centred_padding(height, width, self.fold, 2 * self.fold)

    def full_flops(self, height: int, width: int) -> int:
        left, right, top, bottom = centred_padding(height, width, self._network.cain.shuffle, 0)
        return round(self.costs[0][-1] * (height + top + bottom) * (width + left + right))

    def overhead_flops(self, height: int, width: int) -> int:
        return self._network.finder_flops(height, width)

    def begin(self, left: Tensor, right: Tensor, t: Fraction) -> CainState:
        if t != Fraction(1, 2):
            raise ValueError(f"t={t}: CAIN knows the middle only")
        padding = self.padding(*left.shape[-2:])
        return CainState(pad(left, padding), pad(right, padding), (spatial_mean(left), spatial_mean(right)))

    def scores(self, state: CainState, patches: Sequence[Patch]) -> list[list[list[float]]]:
        windows = [Window(patch.top, patch.left, patch.height, patch.width) for patch in patches]
        logits = self._network.logits(state.left, state.right, windows)
        scale, depth = (F.log_softmax(x[0].double(), -1) for x in logits)  # (P, scales), (P, exits)
        joint: list[list[list[float]]] = (scale[:, :, None] + depth[:, None, : self._deepest]).tolist()
        return joint

    def run(self, scale: int, pieces: Sequence[tuple[CainState, Patch]], depths: Sequence[int]) -> Tensor:
        lefts, rights = ([_cut(getattr(state, side), patch) for state, patch in pieces] for side in ("left", "right"))
        means = [torch.cat([state.means[index] for state, _ in pieces]) for index in (0, 1)]
        return self._network.synthesise(torch.cat(lefts), torch.cat(rights), scale, depths, (means[0], means[1]))


def _cut(frame: Tensor, patch: Patch) -> Tensor:
    return frame[..., patch.top : patch.top + patch.height, patch.left : patch.left + patch.width]
