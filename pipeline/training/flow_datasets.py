"""Sets of recorded or rendered triplets with true flow, as their authors distribute them, read one triplet at a time.

A triplet is a frame with both neighbours; ends of sequences have none. FlyingThings3D and Spring know the flow to both
neighbours. The others know it to the next frame alone, and then nothing is known of the way back. Every triplet occurs
backwards too: (next, middle, previous), with its flows swapped.

What stays in memory of a set is its files' names, under 1 kB a triplet. A file that is missing or damaged ends the
run with an error that names it: a set is curated, so a hole in it is a fault to repair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ConfigError, InputNotFound, RecordDamaged
from pipeline.evaluation.flow_layouts import FILES, LAYOUTS, Pair
from pipeline.evaluation.flow_sources import picture
from pipeline.records.flow_files import read_flow_image
from pipeline.training.flow_recipe import DatasetRecipe
from pipeline.training.roots import named


class Files(NamedTuple):
    """Names below the set's root. frames: previous, middle, next; flows of the middle one: backward, forward."""

    frames: tuple[str, str, str]
    flows: tuple[str | None, str | None]
    invalid: str | None  # marks pixels of the flows as unknown


class Example(NamedTuple):
    """A triplet as its files have it."""

    frames: Tensor  # [3,3,H,W] RGB 0..255: previous, middle, next
    flow: Tensor  # [2,2,H,W] px: backward, forward; 0 where unknown
    known: Tensor  # [2,H,W] bool


@dataclass(frozen=True)
class FlowSet:
    """Example 2 k is triplet k, example 2 k + 1 the same one backwards."""

    recipe: DatasetRecipe
    root: Path
    triplets: Sequence[Files]

    def __len__(self) -> int:
        return 2 * len(self.triplets)

    def __repr__(self) -> str:
        return f"FlowSet({self.recipe.name} at {self.root}, {len(self.triplets)} triplets)"

    def __getitem__(self, index: int) -> Example:
        """Raises InputNotFound, ObjectNotFound, UnreadableVideo or RecordDamaged, each naming the file."""
        place, backwards = divmod(index, 2)
        files = self.triplets[place]
        pictures = [picture(self.root / name) for name in files.frames]
        size = pictures[1].shape[1:]
        for name, one in zip(files.frames, pictures, strict=True):
            if one.shape[1:] != size:
                raise RecordDamaged(
                    f"{self.root / name}: {list(one.shape[1:])} px, {files.frames[1]} {list(size)}; restore it"
                )
        flow, known = torch.zeros(2, 2, *size), torch.zeros(2, *size, dtype=torch.bool)
        for direction, truth in enumerate(files.flows):
            if truth is None:
                continue
            invalid = None if files.invalid is None else str(self.root / files.invalid)
            found = read_flow_image(str(self.root / truth), invalid=invalid)
            if found.known.shape != size:
                raise RecordDamaged(
                    f"{self.root / truth}: flow of {list(found.known.shape)} px, the picture {files.frames[1]} has "
                    f"{list(size)}; restore it"
                )
            flow[direction], known[direction] = torch.from_numpy(found.flow), torch.from_numpy(found.known)
        frames = torch.stack(pictures)
        return Example(*(x.flip(0) for x in (frames, flow, known))) if backwards else Example(frames, flow, known)


def load_sets(recipes: Sequence[DatasetRecipe], data: Sequence[Path]) -> list[FlowSet]:
    """The recipe's sets at --data's NAME=FOLDER. Raises ConfigError for missing or unused ones, InputNotFound for
    folders that hold no such set."""
    roots = {name: folder.resolve() for name, folder in map(named, data)}
    missing = [one for one in recipes if one.root not in roots]
    if missing:
        lines = dict.fromkeys(f"  --data {one.root}=FOLDER   {FILES[one.layout]}" for one in missing)
        raise ConfigError(
            f"this recipe trains on {', '.join(dict.fromkeys(one.name for one in recipes))}; without a folder: "
            f"{', '.join(dict.fromkeys(one.root for one in missing))}. Give\n" + "\n".join(lines) + "\n"
            "or train on scenes made of the pictures and clips of a plain --data FOLDER: --set datasets=[]"
        )
    unused = [str(one) for one in data if named(one)[0] not in {one.root for one in recipes}]
    if unused:
        raise ConfigError(
            f"--data {', '.join(unused)}: this recipe has no such set; its sets are at "
            f"{', '.join(dict.fromkeys(one.root for one in recipes))}"
        )
    return [FlowSet(one, roots[one.root], find_triplets(roots[one.root], one)) for one in recipes]


def find_triplets(root: Path, recipe: DatasetRecipe) -> list[Files]:
    """All triplets of a set, in the order of their names. Raises InputNotFound where there are none, or a hole."""
    if not root.is_dir():
        raise InputNotFound(f"--data {recipe.root}={root}: no such folder; it should hold {FILES[recipe.layout]}")
    found: dict[str, Files] = {}
    ends: dict[str, list[Pair]] = {}
    places: dict[str, list[int]] = {}  # first and last frame with a flow in each sequence
    shared: dict[str, str] = {}
    for pair in LAYOUTS[recipe.layout](root, recipe.render):
        if recipe.part and recipe.part not in pair.truth.relative_to(root).parts:
            continue
        first, last = places.get(pair.sequence, [pair.index, pair.index])
        places[pair.sequence] = [min(first, pair.index), max(last, pair.index)]
        if pair.previous is None or not pair.second.exists():
            ends.setdefault(pair.sequence, []).append(pair)
            continue
        files = _files(pair, root, shared)
        other = found.get(files.frames[1])
        found[files.frames[1]] = files if other is None else _merged(files, other)
    if not places:
        raise InputNotFound(f"--data {recipe.root}={root}: no true flow there; it should hold {FILES[recipe.layout]}")
    for hole in _holes(ends, places):
        missing = hole.second if not hole.second.exists() else f"the frame on the other side of {hole.second.name}"
        raise InputNotFound(
            f"{hole.first}: has a true flow, but not both neighbours ({missing} is not there); unpack the set again"
            + (", with its multi-view extension" if recipe.layout == "kitti" else "")
        )
    triplets = [found[name] for name in sorted(found)]
    if not triplets:
        raise InputNotFound(f"--data {recipe.root}={root}: no frame with both neighbours; {FILES[recipe.layout]}")
    one_way = [files for files in triplets if None in files.flows]
    if one_way and len(one_way) < len(triplets):
        raise InputNotFound(
            f"{root / one_way[0].frames[1]}: has one true flow, other frames of the set have both; unpack it again"
        )
    return triplets


def _files(pair: Pair, root: Path, shared: dict[str, str]) -> Files:
    """shared: every name once, as three triplets have each frame."""
    begin = len(str(root)) + 1

    def name(path: Path) -> str:
        text = str(path)[begin:]
        return shared.setdefault(text, text)

    assert pair.previous is not None
    outer = name(pair.previous), name(pair.second)
    if pair.backward:
        outer = outer[::-1]
    truth, invalid = name(pair.truth), None if pair.invalid is None else name(pair.invalid)
    flows = (truth, None) if pair.backward else (None, truth)
    return Files((outer[0], name(pair.first), outer[1]), flows, invalid)


def _merged(one: Files, other: Files) -> Files:
    """Of a frame's two truths."""
    backward, forward = (a or b for a, b in zip(one.flows, other.flows, strict=True))
    return one._replace(flows=(backward, forward))


def _holes(ends: Mapping[str, Sequence[Pair]], places: Mapping[str, Sequence[int]]) -> Iterator[Pair]:
    """Frames without both neighbours that are neither the first nor the last of several in their sequence."""
    for sequence, pairs in ends.items():
        first, last = places[sequence]
        yield from (pair for pair in pairs if first == last or first < pair.index < last)
