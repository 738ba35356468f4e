"""Labelled frames for detection: pictures and frames of videos, each with the boxes that a COCO file says it has."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.training.clips import VIDEO_SUFFIXES, Frames, cuts, decode, shrink, thumbnail_changes
from pipeline.training.flow_textures import PHOTO_SUFFIXES

LAYOUT = 1


@dataclass(frozen=True, eq=False)
class Source:
    """A photograph, or the labelled frames of a video."""

    name: str
    frames: Frames  # [N,H,W,3] RGB, memory-mapped
    numbers: Sequence[int]  # of the frames in their video
    shots: Sequence[int]  # which shot each belongs to
    objects: Sequence[Tensor]  # of each frame [K,6]: x1, y1, x2, y2 px of `frames`, class, score

    def __len__(self) -> int:
        return len(self.numbers)

    def picture(self, index: int) -> Tensor:
        """uint8 [3,H,W]."""
        return torch.from_numpy(np.array(self.frames[index])).permute(2, 0, 1)

    def near(self, index: int, offset: int) -> list[int]:
        """Other frames of its shot, at most `offset` frames of the video away."""
        return [
            other
            for other in range(max(0, index - offset), min(len(self), index + offset + 1))
            if other != index
            and self.shots[other] == self.shots[index]
            and abs(self.numbers[other] - self.numbers[index]) <= offset
        ]


@dataclass(frozen=True, eq=False)
class Labelled:
    classes: tuple[str, ...]
    sources: tuple[Source, ...]


def classes_of(labels: Path) -> tuple[str, ...]:
    """Names of the COCO file's categories, by their numbers. Raises ConfigError."""
    categories = _document(labels)["categories"]
    return tuple(one["name"] for one in sorted(categories, key=lambda one: one["id"]))


def load_sources(labels: Path, folders: Sequence[Path], cache: Path, short_side: int) -> Labelled:
    """All files below the folders that the COCO file has images of. Raises ConfigError where there are none."""
    document = _document(labels)
    classes = {one["id"]: place for place, one in enumerate(sorted(document["categories"], key=lambda one: one["id"]))}
    boxes = defaultdict(list)
    for one in document["annotations"]:
        x, y, width, height = one["bbox"]
        boxes[one["image_id"]].append([x, y, x + width, y + height, classes[one["category_id"]], one.get("score", 1.0)])
    frames: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for image in document["images"]:
        stem, _, number = image["file_name"].rpartition(".")[0].rpartition("/")
        frames[stem][int(number)] = torch.tensor(boxes[image["id"]], dtype=torch.float32).reshape(-1, 6)
    files = [file for one in folders for file in sorted(one.rglob("*"))]
    known = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES | PHOTO_SUFFIXES and file.stem in frames]
    if not known:
        raise ConfigError(f"{labels}: has no image of a file in {', '.join(map(str, folders))} (STEM/FRAME.jpg)")
    names = tuple(one["name"] for one in sorted(document["categories"], key=lambda one: one["id"]))
    return Labelled(names, tuple(_source(file, frames[file.stem], cache, short_side) for file in known))


def _document(labels: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        document = json.loads(labels.read_text(encoding="utf-8"))
        if not document["images"] or not document["categories"] or "annotations" not in document:
            raise ValueError("no images or no categories")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"labels={labels}: no COCO file of boxes ({type(error).__name__}: {error})") from None
    return document  # type: ignore[no-any-return]


def _source(path: Path, objects: dict[int, Tensor], cache: Path, short_side: int) -> Source:
    numbers = sorted(objects)
    stat = path.stat()
    identity = json.dumps([LAYOUT, path.name, stat.st_size, stat.st_mtime_ns, short_side, numbers])
    folder = cache / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if not folder.exists():
        _decode_into(folder, path, numbers, short_side)
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    if len(frames) != len(numbers):
        raise ConfigError(f"{path}: the labels name frame {numbers[-1]}; its frames end before")
    changes, scale = np.load(folder / "changes.npy"), float(np.load(folder / "scale.npy"))
    shots = np.zeros(len(numbers), np.int64)
    for cut in cuts(changes):
        shots[cut + 1 :] += 1
    sized = [objects[number] * torch.tensor([scale] * 4 + [1.0, 1.0]) for number in numbers]
    return Source(path.name, frames, numbers, shots.tolist(), sized)


def _decode_into(folder: Path, path: Path, numbers: Sequence[int], short_side: int) -> None:
    """The folder appears when it is complete, also with several processes at it."""
    first = next(decode(path))
    height, width = first.shape[:2]
    scale = min(1.0, short_side / min(height, width))
    size = (round(width * scale), round(height * scale)) if scale < 1 else None
    wanted = set(numbers)
    kept = [frame for number, frame in enumerate(decode(path, size)) if number in wanted]
    changes = thumbnail_changes([shrink(frame) for frame in kept]) if len(kept) > 1 else np.zeros(0, np.float32)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        partial = Path(name) / "source"
        partial.mkdir()
        np.save(partial / "frames.npy", np.stack(kept))
        np.save(partial / "changes.npy", changes)
        np.save(partial / "scale.npy", np.array(scale))
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
