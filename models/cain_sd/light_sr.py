"""The way back to full size for patches that CAIN made smaller, at a twentieth of CARN-M's arithmetic.

CAIN-SD's paper names super-resolution as its bottleneck. A patch's neighbours are at hand in full size, though: where
nothing moves, the detail that the small picture lost stands in both of them, and needs no network to be imagined. So
this network looks at what each neighbour has that the enlarged picture has not, folded to the small size, and says what
to add: two neighbours that agree are telling detail, two that differ are telling motion.

Three convolutions for each scale, at the small size; the last one starts at zero, so that an untrained network is
bicubic enlargement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cain_sd.cain import depth_to_space, space_to_depth
from models.checkpoint import checked

REACH = 2
"""Pixels on either side that an enlarged pixel is made from."""
TAPS = (2 * REACH + 1) ** 2


@lru_cache(maxsize=64)
def _phases(scale: int, channels: int, device: torch.device) -> Tensor:
    """[channels*scale², 1, 5, 5]: what a pixel's neighbours weigh in each of the pixels that it becomes."""
    with torch.inference_mode(False):
        length = 4 * REACH + 1  # its middle is beyond the borders' reach
        line = F.interpolate(torch.eye(length)[None, None], size=(length * scale, length), mode="bicubic")[0, 0]
        one = line[2 * REACH * scale : (2 * REACH + 1) * scale, REACH : 3 * REACH + 1]  # (scale, 5)
        both = torch.einsum("ay,bx->abyx", one, one).reshape(1, scale**2, 2 * REACH + 1, -1)
        kernel = both.expand(channels, -1, -1, -1).reshape(channels * scale**2, 1, 2 * REACH + 1, -1)
        return kernel.contiguous(memory_format=torch.channels_last).to(device)


def bicubic(image: Tensor, scale: int) -> Tensor:
    """F.interpolate's bicubic enlargement (align_corners=False), to rounding, folded: [N,C,h,w] -> [N,C*scale²,h,w].

    As one convolution, on the CPU in a quarter of the time. `depth_to_space` unfolds it.
    """
    channels = image.shape[1]
    padded = F.pad(image.float(), (REACH,) * 4, mode="replicate").contiguous(memory_format=torch.channels_last)
    with torch.autocast(image.device.type, enabled=False), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return F.conv2d(padded, _phases(scale, channels, image.device), groups=channels)


@dataclass(frozen=True)
class LightSizes:
    """width: channels between the convolutions; scales: what it enlarges by."""

    width: int = 32
    scales: tuple[int, ...] = (2, 4)

    def __post_init__(self) -> None:
        if self.width < 1 or not self.scales or min(self.scales) < 2:
            raise ValueError(f"width is {self.width}, scales are {self.scales}; give 1 or more, and scales above 1")


class Branch(nn.Module):
    """One scale's convolutions: [N,6 s²,H,W] -> [N,3 s²,H,W]."""

    def __init__(self, width: int, scale: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(6 * scale**2, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, 3 * scale**2, 3, padding=1)
        nn.init.zeros_(self.conv3.weight)
        nn.init.zeros_(self.conv3.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(x), 0.1)
        x = F.leaky_relu(self.conv2(x), 0.1)
        added: Tensor = self.conv3(x)
        return added


class LightSR(nn.Module):
    """Enlargement of the picture between two frames, with the help of both."""

    def __init__(self, sizes: LightSizes | None = None) -> None:
        super().__init__()
        self.sizes = sizes or LightSizes()
        self.up = nn.ModuleDict({str(scale): Branch(self.sizes.width, scale) for scale in self.sizes.scales})

    def forward(self, image: Tensor, scale: int, frame0: Tensor, frame1: Tensor) -> Tensor:
        """image [N,3,h,w], frames [N,3,scale*h,scale*w] in full size, RGB 0..1 -> [N,3,scale*h,scale*w], unclamped.

        Raises ValueError for a scale that the network has no branch for, or frames of another size.
        """
        if str(scale) not in self.up:
            raise ValueError(f"scale is {scale}; this network enlarges by {', '.join(self.up)}")
        height, width = image.shape[-2] * scale, image.shape[-1] * scale
        if frame0.shape[-2:] != (height, width) or frame1.shape[-2:] != (height, width):
            raise ValueError(
                f"frames are {list(frame0.shape[-2:])} and {list(frame1.shape[-2:])}; the enlarged picture will be "
                f"{[height, width]}"
            )
        enlarged = bicubic(image, scale)  # (N, 3 s², h, w)
        folded = (space_to_depth(frame, scale) for frame in (frame0, frame1))
        missing = [each.contiguous(memory_format=torch.channels_last) - enlarged for each in folded]
        added = self.up[str(scale)](torch.cat(missing, 1))
        return depth_to_space(enlarged + added.to(enlarged.dtype), scale)

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any]) -> LightSR:
        """The network of its own tensors; sizes are read off the shapes.

        Raises KeyError for missing or unknown names, ValueError for shapes.
        """
        firsts = {name.split(".")[1]: value for name, value in tensors.items() if name.endswith(".conv1.weight")}
        if not firsts or not all(scale.isdigit() for scale in firsts):
            raise KeyError(f"not LightSR's weights: no tensor 'up.SCALE.conv1.weight'; found {sorted(tensors)[:3]}")
        network = cls(LightSizes(int(next(iter(firsts.values())).shape[0]), tuple(sorted(map(int, firsts)))))
        network.load_state_dict(checked(tensors, network.state_dict(), f"LightSR of {network.sizes}"))
        return network.eval()

    def to_reference(self) -> dict[str, Tensor]:
        """The tensors under their own names: the inverse of from_reference."""
        return dict(self.state_dict())
