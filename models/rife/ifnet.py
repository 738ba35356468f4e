"""RIFE 4.14's IFNet: intermediate flow estimation for video frame interpolation (Huang et al., ECCV 2022).

Four blocks, coarse to fine, each correct the flows from the wanted moment into both frames, and say anew how to mix
the two warped frames. A picture can be had after each of them. What depends on one frame alone (`encode`) is done once
a frame, whatever the number of times wanted on either side of it.

The network is the interpolator that the published 4.14 weights belong to; the paper's later refinement net is not part
of it. Departures: frames are encoded apart from the blocks; times, exits and scales are arguments of a call. Under
autocast only the convolutions run in low precision: flows, masks and warps stay fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoint import checked
from models.enlarge import Enlarge
from models.rife.checkpoint import Sizes, infer_sizes
from models.rife.cost import NATIVE
from models.rife.warp import grid_of, resize, warp

SCALES = NATIVE
"""Each block's working size is the frame's divided by this. Divide all by 2 or 4 where motion is small, multiply for
very large pictures; but the last block harms unless it works at 1 (measured: 0.5 coarser costs 3 to 6 dB)."""

STRIDE = 4  # of a block's two convolutions, below its scale
CUT = [2, 3, 0, 1]  # exchanges the flows into the first and the second frame


@dataclass(frozen=True, eq=False)
class Encoded:
    """A frame as the blocks read it: padded below and right, with its features.

    image      [N,3,H',W'] RGB 0..1
    features   [N,8,H',W']
    size       (H, W) of the frame itself
    """

    image: Tensor
    features: Tensor
    size: tuple[int, int]

    def __repr__(self) -> str:
        return f"Encoded({list(self.image.shape)} of {self.size})"


@dataclass(frozen=True, eq=False)
class Synthesis:
    """What is known after a block, at the frames' size.

    flow     [N,4,H,W] px: from the pixel of the new picture into the first frame (x, y), and into the second
    mask     [N,1,H,W] logit: the share of the first frame
    warped   both frames as the flows bring them, [N,3,H,W] each
    """

    flow: Tensor
    mask: Tensor
    warped: tuple[Tensor, Tensor]

    @property
    def frame(self) -> Tensor:
        """[N,3,H,W] RGB 0..1."""
        share = torch.sigmoid(self.mask)
        return self.warped[0] * share + self.warped[1] * (1 - share)

    def __repr__(self) -> str:
        return f"Synthesis({list(self.mask.shape)})"


class Encoder(nn.Module):
    """Features of one frame, at its full size."""

    def __init__(self, hidden: int, features: int) -> None:
        super().__init__()
        self.cnn0 = nn.Conv2d(3, hidden, 3, 2, 1)
        self.cnn1 = nn.Conv2d(hidden, hidden, 3, 1, 1)
        self.cnn2 = nn.Conv2d(hidden, hidden, 3, 1, 1)
        self.cnn3 = Enlarge(hidden, features)

    def forward(self, image: Tensor) -> Tensor:
        x = F.leaky_relu(self.cnn0(image), 0.2)  # (N, 32, H/2, W/2)
        x = F.leaky_relu(self.cnn1(x), 0.2)
        x = F.leaky_relu(self.cnn2(x), 0.2)
        features: Tensor = self.cnn3(x)
        return features


class ResidualConv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.beta = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(x) * self.beta + x, 0.2)


class Block(nn.Module):
    """A correction of the flows, and a new mask, found at 1/scale of the frames' size."""

    def __init__(self, channels: int, width: int, convs: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(
            nn.Sequential(nn.Conv2d(channels, width // 2, 3, 2, 1), nn.LeakyReLU(0.2)),
            nn.Sequential(nn.Conv2d(width // 2, width, 3, 2, 1), nn.LeakyReLU(0.2)),
        )
        self.convblock = nn.Sequential(*(ResidualConv(width) for _ in range(convs)))
        self.lastconv = nn.Sequential(Enlarge(width, 24), nn.PixelShuffle(2))

    def forward(self, x: Tensor, flow: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        """x [N,C,H,W] and the flows so far [N,4,H,W] px -> (what to add to the flows, mask logit [N,1,H,W])."""
        return self.at_scale(resize(x, 1 / scale), None if flow is None else resize(flow, 1 / scale), scale)

    def at_scale(self, x: Tensor, flow: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        """As forward, with x [N,C,H/s,W/s] and the flows [N,4,H/s,W/s], still in px, made small already."""
        if flow is not None:
            x = torch.cat([x, flow / scale], 1)
        out = self.lastconv(self.convblock(self.conv0(x)))  # (N, 6, H/s, W/s): 4 of flow, mask, unused
        out = resize(out[:, :5].float(), scale)
        return out[:, :4] * scale, out[:, 4:]


class IFNet(nn.Module):
    """The frame at a time between two frames. The published network by default; `Sizes` of a compact variant else."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        super().__init__()
        self.sizes = s = sizes or Sizes()
        channels = 2 * (3 + s.features) + 1  # both images and features, and the time
        self.blocks = len(s.widths)
        for index, width in enumerate(s.widths):  # the mask and the flows, from the second block on
            setattr(self, f"block{index}", Block(channels + 5 * bool(index), width, s.convs))
        self.encode = Encoder(s.hidden, s.features)

    def forward(
        self,
        frame0: Tensor,
        frame1: Tensor,
        t: float | Tensor,
        blocks: int | None = None,
        *,
        scales: Sequence[float] = SCALES,
        ensemble: bool = False,
    ) -> Tensor:
        """The frame at t.

        frame0, frame1   [N,3,H,W] RGB; clamped to 0..1
        t                0 < t < 1, one number or one a sample [N]. At 0 and 1 take the frame itself: the network
                         would only come near it
        blocks           1..4: the block after which to stop; None is the last of `scales`
        scales           of each block: the frame is worked on at 1/scale of its size
        ensemble         both directions of time averaged: twice the cost, and the same picture either way round
        Returns [N,3,H,W] in 0..1. Raises ValueError for shapes, times, blocks or scales that cannot be.
        """
        if frame0.shape != frame1.shape:
            raise ValueError(f"IFNet takes two frames of one shape; got {list(frame0.shape)}, {list(frame1.shape)}")
        first, second = (self.encode_frame(frame, scales) for frame in (frame0, frame1))
        return self.between(first, second, t, blocks, scales=scales, ensemble=ensemble).frame

    def encode_frame(self, frame: Tensor, scales: Sequence[float] = SCALES) -> Encoded:
        """What `between` needs of a frame [N,3,H,W]: keep it while the frame has intervals to go."""
        if frame.ndim != 4 or frame.shape[1] != 3:
            raise ValueError(f"IFNet takes frames [N,3,H,W]; got {list(frame.shape)}")
        height, width = frame.shape[-2:]
        multiple = padding_multiple(scales)
        # Below and right, with zeros, as in the reference; -side % multiple is what is missing.
        image = F.pad(frame.clamp(0, 1), (0, -width % multiple, 0, -height % multiple))
        return Encoded(image, self.encode(image).float(), (height, width))

    def between(
        self,
        first: Encoded,
        second: Encoded,
        t: float | Tensor,
        blocks: int | None = None,
        *,
        scales: Sequence[float] = SCALES,
        ensemble: bool = False,
    ) -> Synthesis:
        """As `forward`, from encoded frames (encoded for the same `scales`), with the flows and the mask."""
        last = len(scales) if blocks is None else blocks
        if not 1 <= last <= min(len(scales), self.blocks):
            raise ValueError(
                f"blocks is {last}; this network with {len(scales)} scales has exits 1 to "
                f"{min(len(scales), self.blocks)}"
            )
        for found in self.exits(first, second, t, scales[:last], ensemble=ensemble):
            state = found  # one at a time: four of them would hold 360 MB at 1080p
        return state

    def exits(
        self,
        first: Encoded,
        second: Encoded,
        t: float | Tensor,
        scales: Sequence[float] = SCALES,
        *,
        ensemble: bool = False,
    ) -> Iterator[Synthesis]:
        """What is known after each block in turn; the next block runs when the next one is asked for."""
        height, width = self._check(first, second, scales)
        grid = grid_of(height, width, first.image.device)
        time = time_plane(t, first.image)
        flow: Tensor | None = None
        mask: Tensor | None = None
        pictures, features = (first.image, second.image), (first.features, second.features)
        for index, scale in enumerate(scales):
            block = getattr(self, f"block{index}")
            delta, mask = self._step(block, pictures, features, time, flow, mask, scale, ensemble)
            flow = delta if flow is None else flow + delta
            # Always the frames themselves with the whole flow: warps of warps would blur.
            pictures = (warp(first.image, flow[:, :2], grid), warp(second.image, flow[:, 2:], grid))
            yield _cropped(flow, mask, pictures, first.size)
            if index + 1 < len(scales):
                features = (warp(first.features, flow[:, :2], grid), warp(second.features, flow[:, 2:], grid))

    def _step(
        self,
        block: Block,
        pictures: tuple[Tensor, Tensor],
        features: tuple[Tensor, Tensor],
        time: Tensor,
        flow: Tensor | None,
        mask: Tensor | None,
        scale: float,
        ensemble: bool,
    ) -> tuple[Tensor, Tensor]:
        known = [] if mask is None else [mask]
        delta, logit = block(torch.cat([*pictures, *features, time, *known], 1), flow, scale)
        if not ensemble:
            return delta, logit
        mirrored = torch.cat([*reversed(pictures), *reversed(features), 1 - time, *(-x for x in known)], 1)
        other, opposite = block(mirrored, None if flow is None else flow[:, CUT], scale)
        return (delta + other[:, CUT]) / 2, (logit - opposite) / 2

    def _check(self, first: Encoded, second: Encoded, scales: Sequence[float]) -> tuple[int, int]:
        if first.image.shape != second.image.shape or first.size != second.size:
            raise ValueError(f"IFNet takes two frames of one shape; got {first} and {second}")
        if not 1 <= len(scales) <= self.blocks:
            raise ValueError(f"scales are {tuple(scales)}; this network takes 1 to {self.blocks}, one a block")
        height, width = first.image.shape[-2:]
        multiple = padding_multiple(scales)
        if height % multiple or width % multiple:
            raise ValueError(f"{first} was not encoded for scales {tuple(scales)}, which need multiples of {multiple}")
        return height, width

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any]) -> IFNet:
        """The network of a published checkpoint's tensors (or a compact variant's), under their published names.

        Names carry no "module." prefix (models.weights strips it). Sizes are read off the tensors. Raises KeyError for
        missing or unknown names, ValueError for shapes.
        """
        sizes = infer_sizes(tensors)
        network = cls(sizes)
        network.load_state_dict(checked(tensors, network.state_dict(), f"IFNet of {sizes}"))
        return network.eval()

    def to_reference(self) -> dict[str, Tensor]:
        """The tensors under their published names: the inverse of from_reference."""
        return dict(self.state_dict())


def padding_multiple(scales: Sequence[float]) -> int:
    """The frame's sides are padded to a multiple of this: every block must divide them. 32 at the native scales."""
    multiple = max(round(STRIDE * max(scales, default=1)), 1)
    if not scales or any(scale <= 0 or (multiple / scale) % STRIDE for scale in scales):
        raise ValueError(f"scales are {tuple(scales)}: powers of two, the largest a multiple of the others")
    return multiple


def time_plane(t: float | Tensor, like: Tensor) -> Tensor:
    """(N, 1, H, W) filled with the time of each sample."""
    count, _, height, width = like.shape
    times = torch.as_tensor(t, dtype=torch.float32, device=like.device).reshape(-1)
    if times.numel() not in (1, count):
        raise ValueError(f"t has {times.numel()} values for {count} samples; give one, or one a sample")
    if not bool(((times > 0) & (times < 1)).all()):
        raise ValueError(f"t is {times.tolist()}; the network works strictly between 0 and 1, where the frames are")
    return times[:, None, None, None].expand(count, 1, height, width)


def _cropped(flow: Tensor, mask: Tensor, warped: tuple[Tensor, Tensor], size: tuple[int, int]) -> Synthesis:
    height, width = size
    area = (..., slice(height), slice(width))
    return Synthesis(flow[area], mask[area], (warped[0][area], warped[1][area]))
