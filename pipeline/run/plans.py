"""What a video's headers say of the work on it: read once, in a task of the cluster, and passed on in a small form."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter

from pipeline.media.probe import probe
from pipeline.plan.clips import plan_clips
from pipeline.run.rows import headers_only
from pipeline.run.worker import open_video
from pipeline.storage import Storage
from pipeline.tasks.base import Task
from pipeline.types import ClipRef, VideoInfo, VideoRef

KEPT_BYTES = 32 << 20
"""Of packed plans that a driver keeps: some 60,000 short videos, or a million clips of long ones."""

Packed = bytes
"""A plan on its way: about 500 bytes, and 30 a clip."""


@dataclass(frozen=True, slots=True)
class Plan:
    info: VideoInfo
    """Headers only (`rows.headers_only`)."""
    clips: tuple[ClipRef, ...]
    frames: int
    """Of the source."""
    expected_rows: int

    def packed(self) -> Packed:
        return zlib.compress(_PLAN.dump_json(self))

    @staticmethod
    def unpacked(data: Packed) -> Plan:
        return _PLAN.validate_json(zlib.decompress(data))


_PLAN: TypeAdapter[Plan] = TypeAdapter(Plan)


def read_headers(task: Task, storage: Storage, video: VideoRef) -> VideoInfo:
    """All that the container says, frame by frame. VideoError where the task cannot use it."""
    with open_video(storage, video) as source:
        info = probe(source, video, task.config.input, task.config.decode)
    task.check_video(info)
    return info


def plan_of(task: Task, video: VideoRef, info: VideoInfo) -> Plan:
    clips = plan_clips(video, info, task.config.clip.frames, task.halo())
    return Plan(headers_only(info), tuple(clips), len(info.pts), task.expected_rows(info))


class Kept:
    """Plans that were made before the run began, by video_id. Bounded: what finds no room is planned again."""

    def __init__(self, room: int = KEPT_BYTES) -> None:
        self._plans: dict[str, Packed] = {}
        self._room = room

    def add(self, plans: Mapping[str, Packed]) -> None:
        for video_id, packed in plans.items():
            if len(packed) <= self._room:
                self._plans[video_id] = packed
                self._room -= len(packed)

    def of(self, videos: Iterable[VideoRef]) -> dict[str, Packed]:
        """Those of these videos."""
        return {video.video_id: self._plans[video.video_id] for video in videos if video.video_id in self._plans}

    def __len__(self) -> int:
        return len(self._plans)
