"""Where benchmarks keep their pictures and true flows.

middlebury   <scene>/flow10.flo or other-gt-flow/<scene>/flow10.flo; frame10.png, frame11.png
chairs       00001_img1.ppm, 00001_img2.ppm, 00001_flow.flo, or 0000001-img0.ppm, -img1.ppm, -gt.flo
kitti        flow_occ/000000_10.png (or flow_noc); image_2/000000_10.png, 000000_11.png
sintel       flow/<scene>/frame_0001.flo; invalid/…png; clean/ or final/<scene>/frame_0001.png
spring       <scene>/flow_FW_left/flow_FW_left_0001.flo5 (and BW, right); <scene>/frame_left/frame_left_0001.png
things       optical_flow/TRAIN/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm (and into_past, right);
             frames_cleanpass/ or frames_finalpass/TRAIN/A/0000/left/0006.png (or frames_…_webp/….webp)
tartanair    <environment>/<level>/P000/flow/000000_000001_flow.npy, …_mask.npy; image_left/000000_left.png
hd1k         hd1k_flow_gt/flow_occ/000000_0010.png; hd1k_input/image_2/000000_0010.png
"""

from __future__ import annotations

import operator
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError, InputNotFound


@dataclass(frozen=True)
class Pair:
    """One true flow. Pictures may be missing where predictions come from files.

    name        of the pair: where a prediction's file is, below its folder and without its suffix
    sequence    and index: where it is in a run of jobs/flow.py over videos, one a sequence
    backward    the flow goes to the frame before; `second` is that frame
    previous    the frame on the other side of `first`, where the benchmark has it
    """

    name: str
    truth: Path
    first: Path
    second: Path
    sequence: str
    index: int
    invalid: Path | None = None
    previous: Path | None = None
    backward: bool = False


def find_pairs(folder: Path, layout: str = "auto", render: str = "final") -> list[Pair]:
    """All true flows of a folder. render: `clean` or `final`, of Sintel and FlyingThings3D.

    Raises ConfigError for an unknown layout, InputNotFound where a layout has no flow there.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(f"layout={layout}: known are auto, {', '.join(LAYOUTS)}")
    for name in LAYOUTS if layout == "auto" else (layout,):
        found = sorted(LAYOUTS[name](folder, render), key=lambda pair: pair.name)
        if found:
            return found
    raise InputNotFound(
        f"{folder}: no true flow in the layout {layout} (of {', '.join(LAYOUTS)}); name its root folder"
    )


def _middlebury(folder: Path, render: str) -> Iterator[Pair]:
    for truth in folder.rglob("flow10.flo"):
        pictures = truth.parent
        if not (pictures / "frame10.png").exists():  # as distributed: truth and pictures in folders side by side
            pictures = truth.parents[1].with_name("other-data") / truth.parent.name
        frames = sorted(pictures.glob("frame*.png"))
        index = frames.index(pictures / "frame10.png") if pictures / "frame10.png" in frames else 0
        yield Pair(
            str(truth.relative_to(folder).with_suffix("")), truth, pictures / "frame10.png", pictures / "frame11.png",
            truth.parent.name, index, previous=_existing(pictures / "frame09.png"),
        )  # fmt: skip


def _chairs(folder: Path, render: str) -> Iterator[Pair]:
    for suffix, first, second in (("_flow.flo", "_img1.ppm", "_img2.ppm"), ("-gt.flo", "-img0.ppm", "-img1.ppm")):
        for truth in folder.rglob("*" + suffix):
            stem = truth.name.removesuffix(suffix)
            name = str(truth.relative_to(folder).with_name(stem))
            yield Pair(name, truth, truth.with_name(stem + first), truth.with_name(stem + second), stem, 0)


def _kitti(folder: Path, render: str) -> Iterator[Pair]:
    kinds = ("flow_occ", "flow_noc", "flow")
    kind = next((kind for kind in kinds if any(folder.rglob(f"{kind}/*_10.png"))), None)
    if kind is None:
        return
    for truth in folder.rglob(f"{kind}/*_10.png"):
        scene = truth.name.removesuffix("_10.png")
        root = truth.parents[1]
        pictures = next(
            (root / p for p in ("image_2", "colored_0", "image_0") if (root / p).is_dir()), root / "image_2"
        )
        yield Pair(
            f"{scene}_10", truth, pictures / f"{scene}_10.png", pictures / f"{scene}_11.png", scene, 0,
            previous=_existing(pictures / f"{scene}_09.png"),
        )  # fmt: skip


def _sintel(folder: Path, render: str) -> Iterator[Pair]:
    for truth in folder.rglob("flow/*/frame_*.flo"):
        scene, number = truth.parent.name, int(truth.stem.removeprefix("frame_"))
        root = truth.parents[2]
        pictures = root / render / scene
        yield Pair(
            f"{scene}/{truth.stem}", truth, pictures / f"frame_{number:04d}.png",
            pictures / f"frame_{number + 1:04d}.png", scene, number - 1,
            _existing(root / "invalid" / scene / f"{truth.stem}.png"),
            _existing(pictures / f"frame_{number - 1:04d}.png"),
        )  # fmt: skip


def _spring(folder: Path, render: str) -> Iterator[Pair]:
    for truth in folder.rglob("flow_*/flow_*.flo5"):
        named = re.fullmatch(r"flow_(FW|BW)_(left|right)_(\d+)", truth.stem)
        if named is None:
            continue
        scene, camera, number = truth.parents[1], named[2], int(named[3])
        step = -1 if named[1] == "BW" else 1
        first, second, previous = (
            scene / f"frame_{camera}" / f"frame_{camera}_{n:04d}.png" for n in (number, number + step, number - step)
        )
        yield Pair(
            str(truth.relative_to(scene.parent).with_suffix("")), truth, first, second, f"{scene.name}_{camera}",
            number - 1, previous=_existing(previous), backward=step < 0,
        )  # fmt: skip


def _things(folder: Path, render: str) -> Iterator[Pair]:
    begin: dict[Path, int] = {}
    for truth in folder.rglob("OpticalFlowInto*.pfm"):
        named = re.fullmatch(r"OpticalFlowInto(Future|Past)_(\d+)_[LR]", truth.stem)
        top = next((parent for parent in truth.parents if parent.name == "optical_flow"), None)
        if named is None or top is None:
            continue
        camera, scene, number = truth.parent.name, truth.parents[2].relative_to(top), int(named[2])
        frames, suffix = top.with_name(f"frames_{render}pass"), ".png"
        if not frames.is_dir() and frames.with_name(f"{frames.name}_webp").is_dir():
            frames, suffix = frames.with_name(f"{frames.name}_webp"), ".webp"
        step, pictures = -1 if named[1] == "Past" else 1, frames / scene / camera
        if pictures not in begin:
            begin[pictures] = min((int(path.stem) for path in pictures.glob(f"*{suffix}")), default=0)
        first, second, previous = (pictures / f"{n:04d}{suffix}" for n in (number, number + step, number - step))
        yield Pair(
            str(truth.relative_to(folder).with_suffix("")), truth, first, second, "_".join((*scene.parts, camera)),
            number - begin[pictures], previous=_existing(previous), backward=step < 0,
        )  # fmt: skip


def _tartanair(folder: Path, render: str) -> Iterator[Pair]:
    for truth in folder.rglob("flow/*_flow.npy"):
        named = re.fullmatch(r"(\d+)_(\d+)_flow", truth.stem)
        if named is None:
            continue
        run, number = truth.parents[1], int(named[1])
        name, sequence = truth.relative_to(folder).with_suffix(""), "_".join(run.relative_to(folder).parts)
        first, second, previous = (
            run / "image_left" / f"{n:06d}_left.png" for n in (number, int(named[2]), number - 1)
        )
        yield Pair(
            str(name), truth, first, second, sequence, number, truth.with_name(f"{named[1]}_{named[2]}_mask.npy"),
            _existing(previous),
        )  # fmt: skip


def _hd1k(folder: Path, render: str) -> Iterator[Pair]:
    for truths in folder.rglob("hd1k_flow_gt/flow_occ"):
        pictures = truths.parents[1] / "hd1k_input" / "image_2"
        numbers: dict[str, list[int]] = {}
        for picture in sorted(pictures.glob("*_*.png")):
            scene, number = picture.stem.split("_", 1)
            numbers.setdefault(scene, []).append(int(number))
        steps = {scene: min(map(operator.sub, some[1:], some), default=1) for scene, some in numbers.items()}
        for truth in truths.glob("*_*.png"):
            scene, number = truth.stem.split("_", 1)
            width, step, index = len(number), steps.get(scene, 1), bisect_left(numbers.get(scene, []), int(number))
            second, previous = (pictures / f"{scene}_{int(number) + n:0{width}d}.png" for n in (step, -step))
            yield Pair(
                truth.stem, truth, pictures / truth.name, second, scene, index, previous=_existing(previous),
            )  # fmt: skip


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


LAYOUTS: dict[str, Callable[[Path, str], Iterator[Pair]]] = {
    "spring": _spring,
    "sintel": _sintel,
    "things": _things,
    "tartanair": _tartanair,
    "hd1k": _hd1k,
    "kitti": _kitti,
    "middlebury": _middlebury,
    "chairs": _chairs,
}
FILES: dict[str, str] = {
    "spring": "train/0001/frame_left/*.png, flow_FW_left/*.flo5 and flow_BW_left/*.flo5 (and right)",
    "sintel": "training/clean and final/SCENE/*.png, training/flow/SCENE/*.flo, training/invalid/SCENE/*.png",
    "things": "frames_cleanpass and frames_finalpass, optical_flow/TRAIN/A/0000/into_future and into_past/left/*.pfm",
    "tartanair": "ENVIRONMENT/Easy/P000/image_left/*_left.png, flow/*_flow.npy and flow/*_mask.npy",
    "hd1k": "hd1k_input/image_2/*.png, hd1k_flow_gt/flow_occ/*.png",
    "kitti": "training/image_2/*_09.png, *_10.png and *_11.png (multi-view extension), training/flow_occ/*_10.png",
}
"""What messages say of a layout's files."""
