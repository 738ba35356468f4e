"""Small clips made by code: textures that slide, with a cut and a held frame where a test asks for them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import safetensors.torch

from models.rife import IFNet
from models.rife.checkpoint import Sizes
from tests.models.named_weights import named_like


def texture(seed: int, side: int = 160) -> npt.NDArray[np.uint8]:
    """Smooth coloured noise, [side,side,3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((side // 8, side // 8, 3))
    fine = coarse.repeat(8, 0).repeat(8, 1)
    for axis in (0, 1):
        fine = sum(np.roll(fine, k, axis) for k in range(-4, 5)) / 9
    return (fine * 255).astype(np.uint8)


def sliding(frames: int = 16, size: int = 96, speed: int = 2, seed: int = 0) -> list[npt.NDArray[np.uint8]]:
    """A texture that moves right by `speed` pixels a frame."""
    picture = texture(seed)
    return [np.roll(picture, speed * i, axis=1)[:size, :size] for i in range(frames)]


def write_clip(path: Path, frames: list[npt.NDArray[np.uint8]], rate: int = 25) -> Path:
    """Losslessly, so that tests know each pixel."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode(None))
    return path


def write_clip_and_rife(folder: Path, *, speed: int) -> None:
    """A clip in folder/clips, and a tiny IFNet's weights, folder/rife.safetensors."""
    (folder / "clips").mkdir()
    write_clip(folder / "clips" / "a.mkv", sliding(24, seed=0, speed=speed))
    network = IFNet(Sizes(widths=(8, 8, 8, 8), convs=1, hidden=8, features=4))
    network.load_state_dict(named_like(network.state_dict()))
    safetensors.torch.save_file(network.to_reference(), folder / "rife.safetensors")
