"""One iteration: correlations and flow to motion, motion to a new hidden state (paper, section 3.1; SEA-RAFT).

Departure from the official code, same result up to rounding: the last two layers of a refinement block are linear
with nothing between them but a sum, so their product, computed once a triplet, replaces the wider of the two:
10 % of the multiplications of a 1080p triplet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.memfof.attention import Aggregator, Weighting
from models.memfof.precision import full_precision


class MotionEncoder(nn.Module):
    """Correlations [N,C,h,w] and both flows [N,4,h,w] in cells -> motion [N,dim,h,w], whose last four are the flows."""

    def __init__(self, corr_channels: int, dim: int) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(corr_channels, 2 * dim, 1)
        self.convc2 = nn.Conv2d(2 * dim, dim + dim // 2, 3, padding=1)
        self.convf1 = nn.Conv2d(4, dim, 7, padding=3)
        self.convf2 = nn.Conv2d(dim, dim // 2, 3, padding=1)
        self.conv = nn.Conv2d(2 * dim, dim - 4, 3, padding=1)

    def forward(self, corr: Tensor, flow: Tensor) -> Tensor:
        a = F.relu(self.convc2(F.relu(self.convc1(corr))))
        with full_precision(flow):  # coordinates
            b = F.relu(self.convf1(flow))
        b = F.relu(self.convf2(b))
        m = F.relu(self.conv(torch.cat([a, b], 1)))
        return torch.cat([m, flow.to(m.dtype)], 1)


CELLS = 4096  # of a refinement block's perceptron at once in evaluation: 34 MB a layer instead of 67 at 1080p


@dataclass(frozen=True)
class Collapsed:
    """final(gamma * pwconv2(·)) as one linear map [dim, 4 dim], with all biases."""

    weight: Tensor
    bias: Tensor


class Refine(nn.Module):
    """ConvNeXt block and a projection to the next hidden state: [N,4 dim,h,w] -> [N,dim,h,w]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        wide = 4 * dim
        self.dwconv = nn.Conv2d(wide, wide, 7, padding=3, groups=wide)
        self.norm = nn.LayerNorm(wide, eps=1e-6)
        self.pwconv1 = nn.Linear(wide, wide)
        self.pwconv2 = nn.Linear(wide, wide)
        self.gamma = nn.Parameter(torch.full((wide,), 1e-6))
        self.final = nn.Conv2d(wide, dim, 1)

    def collapsed(self) -> Collapsed:
        with full_precision(self.gamma):
            projection = self.final.weight.flatten(1) * self.gamma  # (dim, 4 dim)
            bias = torch.addmv(self.final.get_parameter("bias"), projection, self.pwconv2.bias)
            return Collapsed(projection @ self.pwconv2.weight, bias)

    def forward(self, x: Tensor, tail: Collapsed) -> Tensor:
        # z = x + gamma * pwconv2(gelu(pwconv1(norm(dwconv(x))))); final(z)
        y = self.dwconv(x).permute(0, 2, 3, 1)  # (N, h, w, 4 dim)
        rows = y.shape[1] if x.requires_grad else max(1, CELLS // (y.shape[0] * y.shape[2]))
        y = torch.cat([self.perceptron(some, tail) for some in torch.split(y, rows, 1)], 1)
        return y.permute(0, 3, 1, 2) + F.conv2d(x, self.final.weight)

    def perceptron(self, y: Tensor, tail: Collapsed) -> Tensor:
        """Of each cell alone: [..., 4 dim] -> [..., dim]."""
        return F.linear(F.gelu(self.pwconv1(self.norm(y))), tail.weight, tail.bias)


class UpdateBlock(nn.Module):
    def __init__(self, corr_channels: int, dim: int, refine_blocks: int) -> None:
        super().__init__()
        self.encoder = MotionEncoder(corr_channels, dim)
        self.refine = nn.ModuleList(Refine(dim) for _ in range(refine_blocks))
        self.aggregator = Aggregator(dim)

    def collapsed(self) -> list[Collapsed]:
        """What `forward` needs of the weights alone; valid until they change."""
        return [block.collapsed() for block in self.refine if isinstance(block, Refine)]

    def forward(
        self, net: Tensor, context: Tensor, corr: Tensor, flow: Tensor, attention: Weighting, tails: list[Collapsed]
    ) -> Tensor:
        motion = self.encoder(corr, flow)  # (N, dim, h, w)
        everywhere = self.aggregator(attention, motion)
        for block, tail in zip(self.refine, tails, strict=True):
            net = block(torch.cat([net, context, motion, everywhere], 1), tail)
        return net


class FlowHead(nn.Sequential):
    """Hidden state [N,dim,h,w] -> [N,2,6,h,w]: backward and forward; flow x, y in cells, then four of the mixture."""

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.Conv2d(dim, 2 * dim, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(2 * dim, 12, 3, padding=1)
        )

    def forward(self, net: Tensor) -> Tensor:
        hidden = self[1](self[0](net))
        with full_precision(net):
            out: Tensor = self[2](hidden.float())
        return torch.stack(out.chunk(2, 1), 1)
