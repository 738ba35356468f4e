"""Tiny copies of the data sets that MEMFOF is trained on: two moving scenes each, laid out as their authors do."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from pipeline.records.flow_files import flo_bytes, kitti_bytes
from pipeline.records.png import encode_png
from pipeline.training.flow_recipe import MotionRecipe
from pipeline.training.flow_scene import make_scene
from tests.training.test_flow_scenes import PICTURES, SHAPES

SIZE = (80, 96)
MOTION = MotionRecipe(objects=0, still=0, textures_by_code=0, elastic=0.5)
NOTHING = np.full((2, *SIZE), np.nan, np.float32)
"""The flow of sequences' ends: a reader that took it would know nothing of it."""


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def scene(seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Three pictures uint8 [H,W,3], and the middle one's flows [2,2,H,W] px: backward, forward."""
    made = make_scene(PICTURES, SHAPES, MOTION, 6.0, SIZE, np.random.default_rng(seed))
    frames = [made.draw(time).round().byte().permute(1, 2, 0).numpy() for time in (-1.0, 0.0, 1.0)]
    return frames, made.flow().numpy()


def scattered(seed: int) -> np.ndarray:
    """Where a sparse truth is known, bool [H,W]: three pixels in ten, none in the upper quarter."""
    known = np.random.default_rng(seed).random(SIZE) < 0.3
    known[: SIZE[0] // 4] = False
    return known


def pfm(flow: np.ndarray) -> bytes:
    values = np.concatenate([flow, np.zeros((1, *flow.shape[1:]), np.float32)]).transpose(1, 2, 0)[::-1]
    return b"PF\n%d %d\n-1.0\n" % flow.shape[:0:-1] + values.astype("<f4").tobytes()


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def flo5(flow: np.ndarray) -> bytes:
    """Three of a pixel's four values are not the one that counts."""
    values = np.full((2 * flow.shape[1], 2 * flow.shape[2], 2), 77, np.float32)
    values[::2, ::2] = flow.transpose(1, 2, 0)
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        opened["flow"] = values
    return file.getvalue()


def tartanair(root: Path) -> None:
    for seed, run in enumerate(("office/office/Easy/P001", "westerndesert/westerndesert/Hard/P000")):
        frames, flow = scene(seed)
        for number, picture in enumerate(frames):
            put(root / run / f"image_left/{number:06d}_left.png", encode_png(picture))
        for number, truth in enumerate((NOTHING, flow[1])):
            mask = np.where(scattered(seed), 0, 10).astype(np.uint8)
            mask[-1] = 100
            begin = root / run / f"flow/{number:06d}_{number + 1:06d}_flow.npy"
            put(begin, npy(truth.transpose(1, 2, 0)))
            put(begin.with_name(begin.name.replace("flow", "mask")), npy(mask))


def things(root: Path) -> None:
    for seed, place in enumerate(("TRAIN/A/0000", "TEST/B/0003")):
        frames, flow = scene(seed)
        for side in ("left", "right"):
            for number, picture in enumerate(frames):
                for render in ("clean", "final"):
                    put(root / f"frames_{render}pass" / place / side / f"{6 + number:04d}.png", encode_png(picture))
                for direction, way in enumerate(("past", "future")):
                    name = f"into_{way}/{side}/OpticalFlowInto{way.title()}_{6 + number:04d}_{side[0].upper()}.pfm"
                    put(root / "optical_flow" / place / name, pfm(flow[direction] if number == 1 else NOTHING))


def sintel(root: Path) -> None:
    for seed, name in enumerate(("alley_1", "cave_2")):
        frames, flow = scene(seed)
        for number, picture in enumerate(frames, 1):
            for render in ("clean", "final"):
                put(root / f"training/{render}/{name}/frame_{number:04d}.png", encode_png(picture))
        for number, truth in enumerate((NOTHING, flow[1]), 1):
            invalid = np.zeros((*SIZE, 3), np.uint8)
            invalid[:, :4] = 255
            put(root / f"training/flow/{name}/frame_{number:04d}.flo", flo_bytes(truth))
            put(root / f"training/invalid/{name}/frame_{number:04d}.png", encode_png(invalid))


def kitti(root: Path) -> None:
    for seed in (0, 1):
        frames, flow = scene(seed)
        for number, picture in enumerate(frames, 9):
            put(root / f"training/image_2/{seed:06d}_{number:02d}.png", encode_png(picture))
        put(root / f"training/flow_occ/{seed:06d}_10.png", kitti_bytes(flow[1], scattered(seed)))


def hd1k(root: Path) -> None:
    for seed in (0, 1):
        frames, flow = scene(seed)
        for number, picture in enumerate(frames):
            name = f"{seed:06d}_{10 + 5 * number:04d}.png"
            put(root / "hd1k_input/image_2" / name, encode_png(picture))
            known = scattered(seed) if number == 1 else np.zeros(SIZE, bool)
            put(root / "hd1k_flow_gt/flow_occ" / name, kitti_bytes(flow[1], known))


def spring(root: Path) -> None:
    for seed in (0, 1):
        frames, flow = scene(seed)
        for side in ("left", "right"):
            base = root / f"train/{seed + 1:04d}"
            for number, picture in enumerate(frames, 1):
                put(base / f"frame_{side}/frame_{side}_{number:04d}.png", encode_png(picture))
                for direction, way in enumerate(("BW", "FW")):
                    if number != (1, 3)[direction]:
                        truth = flow[direction] if number == 2 else NOTHING
                        put(base / f"flow_{way}_{side}/flow_{way}_{side}_{number:04d}.flo5", flo5(truth))


TREES: dict[str, Callable[[Path], None]] = {
    "tartanair": tartanair,
    "things": things,
    "sintel": sintel,
    "kitti": kitti,
    "hd1k": hd1k,
    "spring": spring,
}


def roots(folder: Path) -> Iterator[Path]:
    """--data of all sets, made below the folder."""
    for name, make in TREES.items():
        make(folder / name)
        yield Path(f"{name}={folder / name}")
