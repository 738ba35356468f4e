"""Flow records as one file a field, for tools that know nothing else: Middlebury .flo, or KITTI's 16-bit PNG.

FOLDER/<video name>/forward/000012.flo     from frame 12 to frame 13
FOLDER/<video name>/backward/000012.flo    from frame 12 to frame 11
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import InputNotFound, RecordDamaged
from pipeline.layout import Layout, within
from pipeline.records.commit import iter_video_commits
from pipeline.records.flow import read_flow
from pipeline.records.flow_codec import Bools, Floats
from pipeline.records.flow_files import KITTI_STEPS, KITTI_ZERO, flo_bytes, kitti_bytes
from pipeline.records.flow_schema import FlowRecord
from pipeline.storage import Storage, absolute, join, redact

Format = Literal["flo", "kitti"]
SUFFIXES: dict[Format, str] = {"flo": ".flo", "kitti": ".png"}


@dataclass(slots=True)
class Exported:
    """What was written."""

    files: int = 0
    out_of_range: int = 0
    """Pixels whose motion KITTI's PNG cannot hold, marked as unknown in it."""


def export(
    output: str,
    folder: str,
    form: Format,
    *,
    video: str | None = None,
    only_valid: bool = False,
    storage: Storage | None = None,
) -> Exported:
    """Writes every field of a run, or of one video (name, URI or video_id), below `folder`, replacing what is there.

    only_valid: pixels that are not valid become unknown. Fields that were stored smaller than the frame are written at
    that size, in pixels of that size. Raises InputNotFound where there is nothing to export, as `read_flow` does.
    """
    storage, done = storage or Storage(), Exported()
    for name, record in _records(output, video, storage):
        if not within(name):
            raise RecordDamaged(f"{redact(output)}: a record of {name!r}, which is no video's name; restore the run")
        for direction in ("forward", "backward"):
            flow: Floats | None = getattr(record, f"flow_{direction}")
            if flow is None:
                continue
            known: Bools | None = getattr(record, f"validity_{direction}") if only_valid else None
            own = flow * np.float32(record.stored_scale)
            if form == "kitti":
                inside = (np.abs(own * KITTI_STEPS) < KITTI_ZERO - 1).all(axis=0)
                done.out_of_range += int((~inside).sum())
                known = inside if known is None else known & inside
            data = flo_bytes(own, known) if form == "flo" else kitti_bytes(own, known)
            storage.put(join(absolute(folder), name, direction, f"{record.frame_index:06d}{SUFFIXES[form]}"), data)
            done.files += 1
    if not done.files:
        raise InputNotFound(f"{redact(output)}: no flow fields there; has jobs/flow.py finished a video in it?")
    return done


def _records(output: str, video: str | None, storage: Storage) -> Iterator[tuple[str, FlowRecord]]:
    """(name of the video, record). Records do not know the name, which is the run's choice; commits do."""
    names = {
        commit.video_id: commit.name
        for commit in iter_video_commits(storage, Layout(absolute(output)))
        if commit.status == "ok"
    }
    for record in read_flow(output, video, storage=storage):
        yield names.get(record.video_id, record.video_id), record
