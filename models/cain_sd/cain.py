"""CAIN: channel attention is all you need for video frame interpolation (Choi et al., AAAI 2020).

The network has no flow and no warping. Space-to-depth folds each 8x8 block of both frames into channels, residual
groups of channel-attention blocks mix them at 1/8 resolution, and depth-to-space unfolds the frame in the middle.
Exits after each group (CAIN-SD, Lee et al., ICCV 2021) share the long skip and the tail.

Departures from the official code: the caller's tensors are never written to; frames too small for reflection padding
are replicated at their border instead of refused; the sizes are arguments, so that compact variants are the same code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EVALUATION_MULTIPLE = 128  # the official evaluation pads to it, although the network only needs the shuffle's multiple
PREFIX = "encoder.interpolate."  # of every key in the published checkpoints


def spatial_mean(x: Tensor) -> Tensor:
    """Mean over H and W, [N,C,H,W] -> [N,C,1,1]; of half precision in fp32.

    In two steps: each step has many outputs, so torch splits the outputs among threads and never one sum; the result
    then does not depend on the number of threads or on the batch. Which side goes first depends on the layout: the
    other one takes five to ten times as long.
    """
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return x.mean(3, keepdim=True, dtype=wide).mean(2, keepdim=True)
    count, channels, _, width = x.shape
    columns = x.permute(0, 2, 3, 1).flatten(2).mean(1, dtype=wide)  # (N, W * C)
    return columns.reshape(count, width, channels).mean(1)[:, :, None, None]


def space_to_depth(x: Tensor, factor: int) -> Tensor:
    """F.pixel_unshuffle, [N,C,H,W] -> [N,C*factor²,H/factor,W/factor]: twice as fast on the CPU."""
    if factor > 4:  # too many small parts
        return F.pixel_unshuffle(x, factor)
    parts = [x[..., down::factor, across::factor] for down in range(factor) for across in range(factor)]
    return torch.stack(parts, 2).flatten(1, 2)


def depth_to_space(x: Tensor, factor: int) -> Tensor:
    """F.pixel_shuffle, [N,C*factor²,H,W] -> [N,C,H*factor,W*factor]: four times as fast on the CPU, channels last."""
    count, channels, height, width = x.shape
    cells = x.reshape(count, channels // factor**2, factor, factor, height, width)
    return cells.permute(0, 1, 4, 2, 5, 3).reshape(count, -1, height * factor, width * factor)


def pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution of single pixels, [N,C,1,1] -> [N,O,1,1], in fp32.

    Written as a sum because the library's kernels round it differently with other batches and numbers of threads.
    """
    products = x.float().flatten(1)[:, None] * conv.weight.flatten(1)  # (N, O, C)
    total = products.sum(2)
    if conv.bias is not None:
        total = total + conv.bias
    return total[:, :, None, None]


def full_precision(like: Tensor) -> torch.autocast:
    """Head and tail carry the picture itself; in bf16 they alone would cost more than a grey level.

    Residual sums stay fp32 with them: under autocast, only the body's convolutions run in bf16.
    """
    return torch.autocast(like.device.type, enabled=False)


class ReflectConv(nn.Conv2d):
    """3x3 convolution behind reflection padding."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, padding_mode="reflect")


class ChannelAttention(nn.Module):
    """Scales each channel by a gate computed from all channels' global averages (paper, section 3.2)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.excite = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        descriptor = spatial_mean(x)  # (N, C, 1, 1)
        gate = torch.sigmoid(pointwise(self.excite, F.relu(pointwise(self.squeeze, descriptor))))
        return x * gate.to(x.dtype)


class RCAB(nn.Module):
    """Residual channel-attention block: no normalisation, no activation after the sum."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.conv1 = ReflectConv(channels)
        self.conv2 = ReflectConv(channels)
        self.attention = ChannelAttention(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.leaky_relu(self.conv1(x), 0.2))
        scaled: Tensor = self.attention(y)
        return x + scaled


class ResidualGroup(nn.Module):
    def __init__(self, channels: int, rcabs: int, reduction: int) -> None:
        super().__init__()
        self.rcabs = nn.ModuleList(RCAB(channels, reduction) for _ in range(rcabs))
        self.conv = ReflectConv(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for rcab in self.rcabs:
            y = rcab(y)
        residual: Tensor = self.conv(y)
        return x + residual


class CAIN(nn.Module):
    """The midpoint between two frames.

    channels    width of the body; the paper's 192 is 3 * shuffle**2
    rcabs       attention blocks in a residual group
    groups      residual groups; an exit follows each
    shuffle     space-to-depth factor
    reduction   of the channel attention's bottleneck
    """

    def __init__(
        self, channels: int = 192, rcabs: int = 12, groups: int = 5, shuffle: int = 8, reduction: int = 16
    ) -> None:
        super().__init__()
        self.sizes = {
            "channels": channels, "rcabs": rcabs, "groups": groups, "shuffle": shuffle, "reduction": reduction,
        }  # fmt: skip
        self.shuffle = shuffle
        folded = 3 * shuffle**2
        self.head = nn.Conv2d(2 * folded, channels, 3, padding=1)
        self.groups = nn.ModuleList(ResidualGroup(channels, rcabs, reduction) for _ in range(groups))
        self.tail = nn.Conv2d(channels, folded, 3, padding=1)

    def forward(
        self,
        frame0: Tensor,
        frame1: Tensor,
        exit_depth: int | Sequence[int] | None = None,
        *,
        means: tuple[Tensor, Tensor] | None = None,
        pad_multiple: int | None = None,
    ) -> Tensor:
        """The frame halfway between two frames, unclamped.

        frame0, frame1   [N,3,H,W] RGB in 0..1; not written to
        exit_depth       1..groups: the residual group after which to stop; None is the last. Or one for each of the N,
                         deepest first: those that are done leave the batch, and the others go on
        means            per-channel means [N,3,1,1] to subtract from each frame; a patch passes its whole frame's.
                         None takes those of the tensors given, as the paper does
        pad_multiple     sides are padded to a multiple of it and the padding is cropped off the result. None: 128 in
                         evaluation, as the official code; none in training. Patches pass the shuffle factor
        Raises ValueError for shapes, exits or multiples that the network cannot work with.
        """
        depth = len(self.groups) if exit_depth is None else exit_depth
        depths = [depth] * len(frame0) if isinstance(depth, int) else list(depth)
        multiple = pad_multiple or (self.shuffle if self.training else EVALUATION_MULTIPLE)
        self._check(frame0, frame1, depths, multiple)
        mean0, mean1 = means if means is not None else (spatial_mean(frame0), spatial_mean(frame1))
        height, width = frame0.shape[-2:]
        left, right, top, bottom = padding = centred_padding(height, width, multiple, 2 * self.shuffle)

        folded = self.fold(pad(frame0 - mean0, padding), pad(frame1 - mean1, padding))  # (N, 6 s², H/s, W/s)
        with full_precision(frame0):
            shallow = self.head(folded)  # (N, C, H/s, W/s)
        deep = self._body(shallow, depths)
        with full_precision(frame0):
            features = self.tail(deep + shallow)  # (N, 3 s², H/s, W/s)
        middle = depth_to_space(features, self.shuffle)
        middle = middle[..., top : middle.shape[-2] - bottom, left : middle.shape[-1] - right]
        return middle + (mean0 + mean1) / 2

    def fold(self, frame0: Tensor, frame1: Tensor) -> Tensor:
        """What the head sees, [N,3,H,W] twice -> [N,6 s²,H/s,W/s], channels last: faster from here on."""
        folded = [space_to_depth(frame, self.shuffle) for frame in (frame0, frame1)]
        return torch.cat(folded, 1).contiguous(memory_format=torch.channels_last)

    def _body(self, x: Tensor, depths: Sequence[int]) -> Tensor:
        done: list[Tensor] = []
        for number, group in enumerate(list(self.groups)[: max(depths)], 1):
            x = group(x)
            leaving = sum(depth == number for depth in depths)
            if leaving and leaving < len(x):
                done.append(x[len(x) - leaving :])
                x = x[: len(x) - leaving]
        return torch.cat([x, *reversed(done)]) if done else x

    def _check(self, frame0: Tensor, frame1: Tensor, depths: Sequence[int], multiple: int) -> None:
        if frame0.shape != frame1.shape or frame0.ndim != 4 or frame0.shape[1] != 3:
            raise ValueError(
                f"CAIN takes two frames of one shape [N,3,H,W]; got {list(frame0.shape)} and {list(frame1.shape)}"
            )
        for depth in depths:
            if not 1 <= depth <= len(self.groups):
                raise ValueError(f"exit_depth is {depth}; this network has exits 1 to {len(self.groups)}")
        if len(depths) != len(frame0) or any(later > depth for depth, later in pairwise(depths)):
            raise ValueError(f"exit_depth is {depths} for {len(frame0)} frames; give one for each, deepest first")
        if multiple % self.shuffle:
            raise ValueError(f"pad_multiple {multiple} is no multiple of this network's shuffle factor {self.shuffle}")
        if self.training and multiple == self.shuffle and any(side % self.shuffle for side in frame0.shape[-2:]):
            raise ValueError(
                f"training crops are {list(frame0.shape[-2:])}; their sides must be multiples of {self.shuffle}"
            )

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any]) -> CAIN:
        """The network of a published checkpoint's tensors (or a compact variant's), under their published names.

        Sizes are read off the tensors. Raises KeyError for missing or unknown names, ValueError for shapes.
        """
        sizes = infer_sizes(tensors)
        network = cls(**sizes)
        own = {published_name(name, sizes["rcabs"]): name for name in network.state_dict()}
        missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        if missing or unknown:
            raise KeyError(
                f"not a CAIN checkpoint of {sizes}: {len(missing)} tensors missing {missing[:3]}, "
                f"{len(unknown)} unknown {unknown[:3]}; published names begin with {PREFIX!r}"
            )
        expected = network.state_dict()
        state = {}
        for name, ours in own.items():
            value = torch.as_tensor(tensors[name])
            if value.shape != expected[ours].shape:
                raise ValueError(f"{name} has shape {list(value.shape)}; CAIN needs {list(expected[ours].shape)}")
            state[ours] = value.to(torch.float32)
        network.load_state_dict(state)
        return network.eval()

    def to_reference(self) -> dict[str, Tensor]:
        """The tensors under their published names: the inverse of from_reference."""
        return {published_name(name, self.sizes["rcabs"]): value for name, value in self.state_dict().items()}


def centred_padding(height: int, width: int, multiple: int, least: int) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) that bring both sides to a multiple, and to `least` or more.

    The odd pixel goes right and down. The body reflects single features, so it needs two of them on each side.
    """
    across, down = (max(side, least) - side + -max(side, least) % multiple for side in (width, height))
    return across // 2, across - across // 2, down // 2, down - down // 2


def pad(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    left, right, top, bottom = padding
    if not any(padding):
        return x
    # Reflection has no more pixels to show than the frame's side less one.
    mode = "reflect" if right < x.shape[-1] and bottom < x.shape[-2] else "replicate"
    return F.pad(x, (left, right, top, bottom), mode=mode)


def published_name(name: str, rcabs: int) -> str:
    """The published checkpoints' key of one of our parameters."""
    group, _, rest = name.removeprefix("groups.").partition(".")
    if not name.startswith("groups."):
        return PREFIX + name.replace("head.", "headConv.").replace("tail.", "tailConv.")
    if rest.startswith("conv."):
        return f"{PREFIX}body.{group}.body.{rcabs}.{rest}"
    _, rcab, part = rest.split(".", 2)
    for ours, theirs in (
        ("conv1.", "0.conv."),
        ("conv2.", "2.conv."),
        ("attention.squeeze.", "3.conv_du.0."),
        ("attention.excite.", "3.conv_du.2."),
    ):
        part = part.replace(ours, theirs)
    return f"{PREFIX}body.{group}.body.{rcab}.body.{part}"


def infer_sizes(tensors: Mapping[str, Any]) -> dict[str, int]:
    """CAIN's arguments, read off a checkpoint's names and shapes."""
    try:
        channels, folded = tensors[PREFIX + "headConv.weight"].shape[:2]
        squeezed = tensors[PREFIX + "body.0.body.0.body.3.conv_du.0.weight"].shape[0]
    except KeyError as error:
        raise KeyError(f"not a CAIN checkpoint: it has no tensor {error}; found {sorted(tensors)[:3]}") from None

    def indices(pattern: str) -> Iterator[int]:
        return (int(m[1]) for name in tensors if (m := re.match(re.escape(PREFIX) + pattern, name)))

    shuffle = round((folded / 6) ** 0.5)
    if folded != 6 * shuffle**2 or squeezed < 1 or channels % squeezed:
        raise ValueError(
            f"not a CAIN checkpoint: its head takes {folded} channels (6 * shuffle² expected) and its attention "
            f"squeezes {channels} channels to {squeezed}"
        )
    return {
        "channels": channels,
        "rcabs": 1 + max(indices(r"body\.0\.body\.(\d+)\.body\.")),
        "groups": 1 + max(indices(r"body\.(\d+)\.")),
        "shuffle": shuffle,
        "reduction": channels // squeezed,
    }
