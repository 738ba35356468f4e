"""Where benchmarks keep their pictures and true flows.

middlebury   <scene>/flow10.flo or other-gt-flow/<scene>/flow10.flo; frame10.png, frame11.png
chairs       00001_img1.ppm, 00001_img2.ppm, 00001_flow.flo, or 0000001-img0.ppm, -img1.ppm, -gt.flo
kitti        flow_occ/000000_10.png (or flow_noc); image_2/000000_10.png, 000000_11.png
sintel       flow/<scene>/frame_0001.flo; invalid/…png; clean/ or final/<scene>/frame_0001.png
spring       <scene>/flow_FW_left/flow_FW_left_0001.flo5 (and BW, right); <scene>/frame_left/frame_left_0001.png
"""

from __future__ import annotations

import re
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
    """All true flows of a folder. render: Sintel's `clean` or `final`.

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
            (root / p for p in ("image_2", "image_0", "colored_0") if (root / p).is_dir()), root / "image_2"
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


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


LAYOUTS: dict[str, Callable[[Path, str], Iterator[Pair]]] = {
    "spring": _spring,
    "sintel": _sintel,
    "kitti": _kitti,
    "middlebury": _middlebury,
    "chairs": _chairs,
}
