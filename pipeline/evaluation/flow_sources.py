"""Where predictions come from: flow files, a run of jobs/flow.py, or weights applied to the benchmark's pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models import weights
from models.memfof import ITERATIONS, MEMFOF
from pipeline.errors import ConfigError, InputNotFound, WeightsUnusable
from pipeline.evaluation.flow_layouts import Pair
from pipeline.media.still import read_still
from pipeline.records import read_flow
from pipeline.records.flow import Directions
from pipeline.records.flow_codec import Floats
from pipeline.records.flow_files import read_flow_image

MODEL = "model:"
SUFFIXES = (".flo", ".flo5", ".png")

Source = Callable[[Pair], Floats]  # a pair's flow [2,H,W] px


def source(prediction: str, *, iterations: int = ITERATIONS, scale: float = 1.0, threads: int = 2) -> Source:
    """`model:NAME` is MEMFOF of some weights; else a folder of flow files, or the output of a run of jobs/flow.py."""
    if prediction.startswith(MODEL):
        return memfof(prediction.removeprefix(MODEL), iterations, scale, threads)
    folder = Path(prediction)
    if "://" in prediction or (folder / "_motionmill").is_dir():
        return from_run(prediction)
    if not folder.is_dir():
        raise InputNotFound(
            f"{prediction}: no folder; give one of flow files, an output of jobs/flow.py, or model:NAME"
        )
    return lambda pair: from_files(folder, pair)


def from_files(folder: Path, pair: Pair) -> Floats:
    """The prediction's file: named as the pair, in its folder or, as an export has it, all in one."""
    names = (pair.name, PurePosixPath(pair.name).name, f"{pair.sequence}/{pair.index:06d}")
    for name in dict.fromkeys(names):
        for suffix in SUFFIXES:
            path = folder / (name + suffix)
            if path.exists():
                return read_flow_image(str(path)).flow
    raise InputNotFound(f"{folder}: no prediction {pair.name}{'|'.join(SUFFIXES)}; name files as the ground truth's")


def from_run(output: str) -> Source:
    """Records of the pairs' first frames, in the videos whose names without suffix are the pairs' sequences."""
    videos = {
        PurePosixPath(record.video_uri.rpartition("#")[2]).stem: record.video_id
        for record in read_flow(output, frames=0, directions="forward")
    }

    def flow(pair: Pair) -> Floats:
        if pair.sequence not in videos:
            raise InputNotFound(
                f"{output}: no video named {pair.sequence} among {sorted(videos)[:5]}; make one of its pictures"
            )
        direction: Directions = "backward" if pair.backward else "forward"
        record = next(iter(read_flow(output, videos[pair.sequence], pair.index, directions=direction)))
        found = record.flow_backward if pair.backward else record.flow_forward
        if found is None:
            raise InputNotFound(f"{output}: frame {pair.index} of {pair.sequence} has no {direction} flow; store both")
        return found

    return flow


def memfof(name: str, iterations: int, scale: float, threads: int) -> Source:
    """The network on pictures. scale: of the pictures before it; flows are brought back (specs 10: 2 for small ones).

    A pair without a frame before its first takes the first in its place, as a shot's beginning does.
    """
    if scale <= 0 or iterations < 0:
        raise ConfigError(f"scale={scale}, iterations={iterations}: the one must be positive, the other 0 or more")
    torch.set_num_threads(threads)
    try:
        network = MEMFOF.from_reference(weights.load(name).tensors).eval()
    except (weights.WeightsError, KeyError, ValueError) as error:
        raise WeightsUnusable(str(error.args[0])) from error

    @torch.inference_mode()
    def flow(pair: Pair) -> Floats:
        first, second = picture(pair.first), picture(pair.second)
        frames = torch.stack([first if pair.previous is None else picture(pair.previous), first, second])
        height, width = frames.shape[-2:]
        if scale != 1:
            size = round(height * scale), round(width * scale)
            frames = F.interpolate(frames, size, mode="bilinear", antialias=scale < 1)
        found = network(frames[None], iterations).flow[0, 1:]
        if scale != 1:
            factor = torch.tensor([width / found.shape[-1], height / found.shape[-2]])
            found = F.interpolate(found, (height, width), mode="bilinear") * factor[:, None, None]
        out: Floats = found[0].numpy().astype(np.float32)
        return out

    return flow


def picture(path: Path) -> Tensor:
    """[3,H,W] RGB in 0..255; 16-bit pictures are brought to that range, grey ones repeated."""
    if not path.exists():
        raise InputNotFound(f"{path}: the benchmark's picture is missing; give its root folder, with pictures")
    values = read_still(path.read_bytes(), str(path))
    scaled = torch.from_numpy(values.astype(np.float32) / (257 if values.dtype == np.uint16 else 1))
    return scaled.permute(2, 0, 1) if scaled.ndim == 3 else scaled.expand(3, -1, -1)
