"""What a task is: a model, its clip processor and its writer. Adding one changes nothing underneath.

A `Task` is a small picklable value that travels to every worker; its `Processor` holds the loaded model there, turns
one clip at a time into a local file, and knows nothing of Ray, buckets or commits. `join` makes a video's final output
from its committed clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pipeline.config import RunConfig
from pipeline.errors import VideoError
from pipeline.types import ClipRef, VideoInfo, VideoRef

Heartbeat = Callable[[str], None]
"""Called with the stage's name after each finished frame: the watchdog's sign of life."""


@dataclass(frozen=True, slots=True)
class ClipOutput:
    """One clip's result in a local file, ready to be uploaded."""

    path: Path | None
    """None when nothing was made (an error before the first frame)."""
    rows: int
    """Frames or records in it."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What the task's `join` and the summary need: plain JSON values."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Busy and waiting time by stage."""
    error: VideoError | None = None
    """Set when only a good prefix could be made."""


@dataclass(frozen=True, slots=True)
class ClipPart:
    """A committed clip, fetched to a local file for joining."""

    path: Path
    rows: int
    extra: dict[str, Any]


@dataclass(frozen=True, slots=True)
class VideoOutput:
    """A video's final output in a local file."""

    path: Path
    suffix: str
    """".mp4", ".mkv", …"""
    rows: int
    extra: dict[str, Any] = field(default_factory=dict)


class Processor(Protocol):
    model: str
    """Name of the model that is loaded: stored with every result, like its weights' digest."""
    weights_sha256: str

    def process(self, clip: ClipRef, info: VideoInfo, source: BinaryIO, scratch: Path, beat: Heartbeat) -> ClipOutput:
        """One clip, in memory bounded by the configuration."""
        ...


class Task(Protocol):
    name: str
    data_suffix: str
    """Of a clip's data object, e.g. ".mp4"."""

    @property
    def config(self) -> RunConfig: ...

    def on(self, device: str) -> Task:
        """The task as it will run on "cpu" or "cuda": whatever the configuration leaves to the device is decided."""
        ...

    def halo(self) -> tuple[int, int]:
        """Frames that a clip must see before and after its own."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Everything beside the configuration that can change an output byte (weights' digests, …)."""
        ...

    def check_node(self) -> None:
        """Raises UsageError where this machine cannot do the task (an encoder is missing, …)."""
        ...

    def check_video(self, info: VideoInfo) -> None:
        """Raises VideoError for a video that the task must refuse, before any clip of it is processed."""
        ...

    def expected_rows(self, info: VideoInfo) -> int:
        """Rows (output frames, records) that the whole video will have."""
        ...

    def flops(self, info: VideoInfo) -> int:
        """Floating-point operations (two a multiply-accumulate) that the model will need for the video at most."""
        ...

    def load(self, device: str, threads: int) -> Processor: ...

    def join(
        self, video: VideoRef, info: VideoInfo, parts: Sequence[ClipPart], source: BinaryIO, scratch: Path, whole: bool
    ) -> VideoOutput:
        """The video's final output from its clips in order; `whole` is False for a good prefix only."""
        ...
