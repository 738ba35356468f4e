"""CAIN-SD: each patch between two frames at the scale and the depth that its motion needs (Lee et al., ICCV 2021).

    CAIN          the network, with an exit after each of its residual groups
    enlarger      the way back from a half or a quarter of the size: LightSR, or the paper's CARN-M
    SDFinder      the choice of both for each patch, from small frames
    motion        what the finder is told about motion: BlockMotion, PWC-Net, or any callable of its kind

What follows from the finder's logits is decided elsewhere (pipeline/plan/adaptive.py): the joint choice of scale and
depth that is worth the most at the user's price. At price 0 that is the paper's two separate choices.

Weights are one file: `cain.`, `enlarger.`, `finder.` and `motion.` before the parts' own names; the last only where the
motion network has weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cain_sd import block_motion, cost
from models.cain_sd.block_motion import BlockMotion
from models.cain_sd.cain import CAIN, depth_to_space, full_precision, spatial_mean
from models.cain_sd.carn import CARNM
from models.cain_sd.light_sr import LightSR
from models.cain_sd.pwcnet import PWCNet
from models.cain_sd.sd_finder import DETAIL_MACS, EVIDENCE, SHORT_SIDE, Logits, Motion, SDFinder, Window
from models.checkpoint import checked

Means = tuple[Tensor, Tensor]
PARTS = ("cain", "enlarger", "finder", "motion")


class CAINSD(nn.Module):
    """scales: what a patch's sides are divided by, the finder's order; depths: exits of the network."""

    def __init__(
        self,
        cain: CAIN | None = None,
        enlarger: LightSR | CARNM | None = None,
        finder: SDFinder | None = None,
        motion: Motion | None = None,
    ) -> None:
        """motion: None is BlockMotion, which has no weights."""
        super().__init__()
        self.cain = cain or CAIN()
        self.enlarger = enlarger or LightSR()
        self.scales = (1, *(scale for scale in self.enlarger.sizes.scales if scale in cost.SCALES))
        self.depths = len(self.cain.groups)
        self.finder = finder or SDFinder(len(self.scales), self.depths)
        choices = (self.finder.scale_net.conv3.out_channels, self.finder.depth_net.conv3.out_channels)
        if choices != (len(self.scales), self.depths):
            raise ValueError(
                f"the finder chooses among {choices[0]} scales and {choices[1]} depths; the networks have scales "
                f"{self.scales} and {self.depths} exits"
            )
        self.motion: Motion = motion or BlockMotion()

    def synthesise(
        self, patch0: Tensor, patch1: Tensor, scale: int, depth: int | Sequence[int], means: Means | None = None
    ) -> Tensor:
        """The middle of two patches [N,3,H,W] RGB 0..1 at one scale and exit, unclamped. Nothing is written to.

        scale    1, 2 or 4: the network works on the patches made smaller by that, and the result is enlarged again
        depth    the exit, from 1; or one for each of the N, deepest first: those that are done leave the batch
        means    per-channel means [N,3,1,1] of the frames that the patches are of; None: of the patches
        Sides that are no multiple of scale * the network's shuffle factor are reflected up to it. Raises ValueError.
        """
        if scale not in self.scales:
            raise ValueError(f"scale is {scale}; this network has {', '.join(map(str, self.scales))}")
        if scale == 1:
            whole: Tensor = self.cain(patch0, patch1, depth, means=means, pad_multiple=self.cain.shuffle)
            return whole
        height, width = patch0.shape[-2:]
        patch0, patch1 = (fill_up(x, scale * self.cain.shuffle) for x in (patch0, patch1))
        small0, small1 = reduce(patch0, scale), reduce(patch1, scale)
        small = self.cain(small0, small1, depth, means=means, pad_multiple=self.cain.shuffle)
        return self.enlarge(small, scale, patch0, patch1)[..., :height, :width]

    def every_exit(self, patch0: Tensor, patch1: Tensor, scale: int, means: Means | None = None) -> list[Tensor]:
        """`synthesise` at one scale and each exit, the groups run once: for training and for measuring.

        The patches' sides are multiples of scale * the network's shuffle factor.
        """
        small0, small1 = (patch0, patch1) if scale == 1 else (reduce(patch0, scale), reduce(patch1, scale))
        found = exits(self.cain, small0, small1, means)
        return found if scale == 1 else [self.enlarge(small, scale, patch0, patch1) for small in found]

    def enlarge(self, small: Tensor, scale: int, patch0: Tensor, patch1: Tensor) -> Tensor:
        """The small middle [N,3,H/scale,W/scale] in the size of the patches [N,3,H,W] that it lies between."""
        if isinstance(self.enlarger, LightSR):
            guided: Tensor = self.enlarger(small, scale, patch0, patch1)
            return guided
        alone: Tensor = self.enlarger(small, scale)
        return alone

    @torch.no_grad()
    def logits(self, frame0: Tensor, frame1: Tensor, windows: Sequence[Window]) -> Logits:
        """What the finder thinks of each window of frames [N,3,H,W]: scale [N,P,scales], depth [N,P,depths]."""
        found: Logits = self.finder(frame0, frame1, windows, self.motion)
        return found

    def flops_per_pixel(self) -> list[list[float]]:
        """FLOPs (two a multiplication) for each pixel of a patch, [scale][depth], with the way back."""
        return cost.patch_flops_per_pixel(self.depths, self.cain.sizes, self.enlarger.sizes, self.scales)

    def finder_flops(self, height: int, width: int) -> int:
        """FLOPs of deciding about one pair of frames of (height, width); of unknown motion networks, without motion."""
        ratio = min(1.0, SHORT_SIDE / min(height, width))
        small = round(height * ratio), round(width * ratio)
        seen = (EVIDENCE, EVIDENCE) if self.finder.detail else (1, 3)
        macs = cost.finder_macs(*small, len(self.scales), self.depths, seen=seen)
        if self.finder.detail:
            macs += DETAIL_MACS * height * width
        if isinstance(self.motion, PWCNet):
            macs += 2 * cost.pwcnet_macs(*small)
        elif isinstance(self.motion, BlockMotion):
            macs += 2 * block_motion.macs(*small)
        return 2 * macs

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any], motion: Motion | None = None) -> CAINSD:
        """The networks of one file's tensors; sizes are read off names and shapes.

        motion: instead of what the file says. Raises KeyError for missing or unknown names, ValueError for shapes.
        """
        parts = split_parts(tensors)
        missing = [name for name in PARTS[:3] if not parts[name]]
        if missing:
            raise KeyError(
                f"not CAIN-SD's weights: no tensor begins with {' or '.join(name + '.' for name in missing)}; found "
                f"{sorted(tensors)[:3]}"
            )
        light = any(name.startswith("up.") for name in parts["enlarger"])
        enlarger = (LightSR if light else CARNM).from_reference(parts["enlarger"])
        if motion is None and parts["motion"]:
            motion = PWCNet.from_reference(parts["motion"])
        network = cls(CAIN.from_reference(parts["cain"]), enlarger, finder_of(parts["finder"]), motion)
        return network.eval()

    def to_tensors(self) -> dict[str, Tensor]:
        """The tensors under their parts' names: the inverse of from_tensors."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "cain": self.cain.to_reference(),
            "enlarger": self.enlarger.to_reference(),
            "finder": self.finder.state_dict(),
        }
        if isinstance(self.motion, PWCNet):
            parts["motion"] = self.motion.to_reference()
        return {f"{part}.{name}": value for part, named in parts.items() for name, value in named.items()}

    def to_reference(self) -> dict[str, Tensor]:
        """As to_tensors: the name that all networks have it under."""
        return self.to_tensors()


def exits(cain: CAIN, frame0: Tensor, frame1: Tensor, means: Means | None = None) -> list[Tensor]:
    """CAIN's frame after each group, without padding; frames [N,3,H,W] with sides that its shuffle factor divides."""
    mean0, mean1 = means if means is not None else (spatial_mean(frame0), spatial_mean(frame1))
    folded = cain.fold(frame0 - mean0, frame1 - mean1)
    with full_precision(frame0):
        shallow = cain.head(folded)
    deep, found = shallow, []
    for group in cain.groups:
        deep = group(deep)
        with full_precision(frame0):
            features = cain.tail(deep + shallow)
        found.append(depth_to_space(features, cain.shuffle) + (mean0 + mean1) / 2)
    return found


def is_adaptive(tensors: Mapping[str, Any]) -> bool:
    """Whether a weights file is CAIN-SD's rather than a plain CAIN's."""
    return any(name.startswith("finder.") for name in tensors) and any(name.startswith("cain.") for name in tensors)


def reduce(x: Tensor, scale: int) -> Tensor:
    """[N,3,H,W] -> [N,3,H/scale,W/scale] by antialiased bicubic resampling; sides are multiples of the scale."""
    size = (x.shape[-2] // scale, x.shape[-1] // scale)
    return F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)


def fill_up(x: Tensor, multiple: int) -> Tensor:
    """Sides brought to a multiple, at the right and at the bottom, by reflection; of tiny pictures, by repetition."""
    down, across = (-side % multiple for side in x.shape[-2:])
    if not down and not across:
        return x
    mode = "reflect" if down < x.shape[-2] and across < x.shape[-1] else "replicate"
    return F.pad(x, (0, across, 0, down), mode=mode)


def split_parts(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Tensors by part, without its prefix. Raises KeyError for names of no part."""
    parts: dict[str, dict[str, Any]] = {name: {} for name in PARTS}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise KeyError(f"not CAIN-SD's weights: tensor {name!r} begins with none of {', '.join(PARTS)}")
        parts[part][rest] = value
    return parts


def finder_of(tensors: Mapping[str, Any]) -> SDFinder:
    """The SD-finder of its own tensors. Raises KeyError and ValueError as the other networks do."""
    try:
        scales, depths = (int(tensors[f"{net}.conv3.weight"].shape[0]) for net in ("scale_net", "depth_net"))
        detail = int(tensors["scale_net.conv1.weight"].shape[1]) > 1
    except KeyError as error:
        raise KeyError(f"not an SD-finder's weights: no tensor {error}; found {sorted(tensors)[:3]}") from None
    finder = SDFinder(scales, depths, detail=detail)
    finder.load_state_dict(checked(tensors, finder.state_dict(), "SDFinder"))
    return finder.eval()
