"""Flow records of a run of jobs/flow.py as what carries features: one precomputation that serves both tasks.

Records hold the flow to a frame's neighbours. From a frame to its key frame it is followed from neighbour to neighbour
(models/dff/chain.py): within the gaps of key frames that takes milliseconds, and no network. There is no scale field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from models.dff.chain import Field, cells_of, field_of, followed, places_a_cell
from pipeline.errors import ConfigError, InputNotFound, RecordDamaged, UnsupportedVideo
from pipeline.layout import Layout
from pipeline.plan.key_frames import Carried
from pipeline.records.flow import Directions, read_flow
from pipeline.records.flow_schema import FlowRecord
from pipeline.storage import Storage, redact
from pipeline.types import VideoRef

STAGE = "flow"
Step = tuple[int, int]
"""(a frame, +1 or -1: its neighbour that is pointed to)."""


def run_digest(storage: Storage, output: str) -> str:
    """Of the flow run in `output`: part of the recognition run's own fingerprint. ConfigError where there is none."""
    layout = Layout(output)
    if not storage.exists(layout.run):
        raise ConfigError(
            f"records.output={redact(output)}: no run of jobs/flow.py there; with flow=records, features are "
            "carried by what one has made: give the OUTPUT that it was given"
        )
    run = storage.read_json(layout.run)
    task = run["keys"].get("task")
    if task != "flow":
        raise ConfigError(f"records.output={redact(output)}: a run of the task {task!r}; give one of jobs/flow.py")
    return str(run["fingerprint"])


def path_of(carried: Carried, key: int) -> list[Step]:
    """The steps from a frame to a key frame."""
    way = 1 if key > carried.frame else -1
    return [(number, way) for number in range(carried.frame, key, way)]


class RecordedFlow:
    """The flow records of one video."""

    def __init__(self, storage: Storage, output: str, video: VideoRef, size: tuple[int, int], stride: int) -> None:
        """size: (H, W) px of the images that the networks see; stride: px of theirs a feature cell."""
        self._storage, self._output, self._video, self._size = storage, output, video, size
        self._places = places_a_cell(stride)
        self._step = stride // self._places
        self._fields: dict[Step, Field] = {}

    def load(self, schedule: Iterable[Carried], pts: Mapping[int, int], device: str) -> None:
        """Reads what these frames need, and forgets the rest. Raises UnsupportedVideo where it is not there."""
        needed: set[Step] = set()
        for carried in schedule:
            for key in (carried.key, carried.other):
                if key is not None:
                    needed.update(path_of(carried, key))
        self._fields = {step: field for step, field in self._fields.items() if step in needed}
        missing = needed - self._fields.keys()
        frames, ways = sorted({frame for frame, _ in missing}), {way for _, way in missing}
        if not frames:
            return
        directions: Directions = "both" if len(ways) == 2 else "forward" if ways == {1} else "backward"
        try:
            for record in read_flow(
                self._output, self._video.video_id, frames, directions=directions, storage=self._storage
            ):
                self._keep(record, missing, pts, device)
        except (InputNotFound, RecordDamaged) as error:
            raise UnsupportedVideo(
                f"{self._video}: flow: records needs its flow of frames {frames[0]} to {frames[-1]} ({error}); run "
                "jobs/flow.py on the same input first, or set flow=dff",
                stage=STAGE,
            ) from error

    def _keep(self, record: FlowRecord, missing: set[Step], pts: Mapping[int, int], device: str) -> None:
        frame = record.frame_index
        if record.pts != pts[frame]:
            raise UnsupportedVideo(
                f"{self._video}: frame {frame} is at pts {pts[frame]}, its flow record at {record.pts}: it was made of "
                "another version or with another decode.*; run jobs/flow.py again",
                stage=STAGE,
            )
        for way, flow, valid in (
            (1, record.flow_forward, record.validity_forward), (-1, record.flow_backward, record.validity_backward),
        ):  # fmt: skip
            if (frame, way) not in missing:
                continue
            if flow is None:
                side = "forward" if way > 0 else "backward"
                raise UnsupportedVideo(
                    f"{self._video}: the flow record of frame {frame} has no {side} flow (it holds "
                    f"{record.direction}); make it with directions=both and the same cuts.* as here",
                    stage=STAGE,
                )
            self._fields[frame, way] = field_of(
                torch.from_numpy(flow).to(device), None if valid is None else torch.from_numpy(valid).to(device),
                (record.height, record.width), self._size, self._step,
            )  # fmt: skip

    def between(self, carried: Carried, key: int) -> Tensor:
        """[1,2,h,w] in feature cells: where the frame's features lie in the key frame."""
        return cells_of(followed([self._fields[step] for step in path_of(carried, key)]), self._places)
