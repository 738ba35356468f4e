"""Which small videos share an output file: pure, so that a run decides the same whatever order its videos came in.

Videos are taken in order of their names and fill one file after the other. Files that came out small, and those with
rows of videos that are gone, are made anew together with what has been added since; full ones are left alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """Where a video's rows lie now."""

    video_id: str
    name: str
    rows: int
    path: str
    """Of the object; other videos may lie in it too."""
    size: int
    """Bytes of the object."""
    object_rows: int
    settled: bool
    """Whether the object lies where readers look for finished ones; False: it waits to be grouped."""

    @property
    def share(self) -> int:
        """Bytes of the object that are this video's, taking rows as equal."""
        return self.size * self.rows // max(1, self.object_rows)


def plan_groups(held: Iterable[Held], below: int, up_to: int) -> list[tuple[Held, ...]]:
    """The files to be made, each with its videos in order; [] where all is well.

    below: bytes; only objects smaller than this are made anew. up_to: bytes of a file, at most (a single video may
    have more).
    """
    by_path: dict[str, list[Held]] = defaultdict(list)
    for one in held:
        by_path[one.path].append(one)
    moving: list[Held] = []
    needed = False
    for members in by_path.values():
        stale = sum(one.rows for one in members) < members[0].object_rows
        needed |= stale or not members[0].settled
        if stale or not members[0].settled or members[0].size < below:
            moving += members
    if not needed:
        return []
    files: list[list[Held]] = []
    filled = 0
    for one in sorted(moving, key=lambda one: (one.name, one.video_id)):
        if not files or filled + one.share > up_to:
            files.append([])
            filled = 0
        files[-1].append(one)
        filled += one.share
    return [tuple(file) for file in files if not _is_there(file)]


def _is_there(file: Sequence[Held]) -> bool:
    """Whether these videos, and no others, share a settled object already."""
    first = file[0]
    return (
        first.settled
        and all(one.path == first.path for one in file)
        and sum(one.rows for one in file) == first.object_rows
    )
