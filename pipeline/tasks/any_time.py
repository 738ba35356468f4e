"""A model that makes the picture at any place between two frames, exactly there (RIFE)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from fractions import Fraction

import torch
from torch import Tensor

from models.rife import SCALES, Encoded, IFNet, copy_static
from models.rife.ifnet import padding_multiple
from pipeline.config import InterpolateConfig
from pipeline.tasks.interpolators import Made, Pair, patched


class AnyTimeModel:
    """One pass for each wanted place, whichever it is; what depends on one frame alone is computed once for it."""

    def __init__(self, network: IFNet, config: InterpolateConfig, device: str, precision: str) -> None:
        self._network = network.to(device).eval()
        self._config = config
        self._device = device
        self._bf16 = precision == "bf16"
        self._batch = config.batch if device.startswith("cuda") else 1
        self._scales = SCALES[: config.blocks]
        self._encoded: dict[int, tuple[Tensor, Encoded]] = {}
        """By the frame's identity, which is safe while the frame itself is kept beside it."""

    @torch.inference_mode()
    def between(self, pairs: Sequence[Pair]) -> list[list[Made]]:
        wanted = [(pair, t) for pair in pairs for t in pair.places]
        pictures: list[Tensor] = []
        for start in range(0, len(wanted), self._batch):
            pictures += self._make(wanted[start : start + self._batch])
        self._forget(pairs)
        made = (Made(picture, t) for picture, (_, t) in zip(pictures, wanted, strict=True))
        return [[next(made) for _ in pair.places] for pair in pairs]

    def _make(self, part: Sequence[tuple[Pair, Fraction]]) -> list[Tensor]:
        lefts, rights = ([getattr(pair, side) for pair, _ in part] for side in ("left", "right"))
        times = torch.tensor([float(t) for _, t in part])
        height, width = lefts[0].shape[-2:]
        if height * width <= self._config.patch.max_area:
            encoded = [_stacked([self._encode(frame) for frame in frames]) for frames in (lefts, rights)]
            return list(self._synthesise(torch.stack(lefts), torch.stack(rights), times, encoded[0], encoded[1]))

        def one(left: Tensor, right: Tensor, means: object) -> Tensor:
            # Every patch is a picture of its own, whose features end where it does.
            return self._synthesise(left, right, times, self._encoded_now(left), self._encoded_now(right))

        multiple = padding_multiple(self._scales)
        return list(patched(one, torch.stack(lefts), torch.stack(rights), self._config.patch, multiple))

    def _synthesise(self, left: Tensor, right: Tensor, times: Tensor, first: Encoded, second: Encoded) -> Tensor:
        with self._autocast():
            found = self._network.between(first, second, times, scales=self._scales)
        frame = found.frame
        if self._config.copy_static:
            left, right = (x.to(self._device) for x in (left, right))
            frame = copy_static(frame, left, right, found.warped)
        return frame.clamp(0, 1)

    def _encode(self, frame: Tensor) -> Encoded:
        known = self._encoded.get(id(frame))
        if known is None:
            known = self._encoded[id(frame)] = (frame, self._encoded_now(frame[None]))
        return known[1]

    def _encoded_now(self, frames: Tensor) -> Encoded:
        with self._autocast():
            return self._network.encode_frame(frames.to(self._device), self._scales)

    def _forget(self, pairs: Sequence[Pair]) -> None:
        """Keeps the last frame alone: the next interval begins with it."""
        last = id(pairs[-1].right) if pairs else None
        self._encoded = {key: value for key, value in self._encoded.items() if key == last}

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        kind = self._device.split(":")[0]
        return torch.autocast(kind, torch.bfloat16) if self._bf16 else nullcontext()


def _stacked(encoded: Sequence[Encoded]) -> Encoded:
    if len(encoded) == 1:
        return encoded[0]
    images, features = (torch.cat([getattr(each, name) for each in encoded]) for name in ("image", "features"))
    return Encoded(images, features, encoded[0].size)
