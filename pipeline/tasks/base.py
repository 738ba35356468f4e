"""What a task is: a model, its clip processor and its writer. Adding one changes nothing underneath.

A `Task` is a small picklable value that travels to every worker; its `Processor` holds the loaded model there, turns
one clip at a time into a local file, and knows nothing of Ray, buckets or commits. `join` makes a video's final
outputs from its committed clips; where videos are many and small, `merge` puts several into one file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
    work: float = 0.0
    """What the model had to do, in a unit of the task's own (FLOPs, pixels made): compared with `bare` only."""
    bare: tuple[float, float] = (0.0, 0.0)
    """(work, seconds) of the pictures that the model made undisturbed: stages.Bare; nothing where none was timed."""
    spent_flops: int = 0
    """Of an adaptive model, whose needs `Task.flops` can only bound; 0 of others."""


@dataclass(frozen=True, slots=True)
class ClipPart:
    """A committed clip, on its way into its video's output."""

    rows: int
    size: int
    """Bytes of its data."""
    extra: dict[str, Any]
    fetch: Callable[[], Path]
    """Downloads the data, checks its digest, and gives the local file, which the caller may delete."""


@dataclass(frozen=True, slots=True)
class VideoOutput:
    """One of a video's final outputs, in a local file."""

    path: Path
    suffix: str
    """Of its name: ".mp4", ".mkv", ".parquet", ".part-00002.parquet", …"""
    rows: int
    extra: dict[str, Any] = field(default_factory=dict)
    result: bool = True
    """False for what only accompanies the results (a preview): its rows are not held against the plan."""
    may_share: bool = False
    """Whether it may be merged into a file with other videos' outputs."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """How outputs of small videos share files."""

    below: int
    """Bytes: larger outputs keep a file of their own."""
    up_to: int
    """Bytes of a shared file, at most."""


class Processor(Protocol):
    model: str
    """Name of the model that is loaded: stored with every result, like its weights' digest."""
    weights_sha256: str

    def process(self, clip: ClipRef, info: VideoInfo, source: BinaryIO, scratch: Path, beat: Heartbeat) -> ClipOutput:
        """One clip, in memory bounded by the configuration."""
        ...


class Task(Protocol):
    name: str
    folder: str
    """Of the output prefix, where finished videos go: "video", "flow", …"""
    data_suffix: str
    """Of a clip's data object, e.g. ".mp4"."""

    @property
    def config(self) -> RunConfig: ...

    @property
    def grouping(self) -> Grouping | None:
        """None: every video has files of its own."""
        ...

    def on(self, device: str) -> Task:
        """The task as it will run on "cpu" or "cuda": whatever the configuration leaves to the device is decided."""
        ...

    def notes(self) -> Sequence[str]:
        """What was decided for the whole run and is not plain from its configuration."""
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

    def output_bytes(self, info: VideoInfo, size: int) -> int:
        """Bytes that the video's output will take, estimated; `size` is the input's, or -1."""
        ...

    def load(self, device: str, threads: int) -> Processor: ...

    def join(
        self, video: VideoRef, info: VideoInfo, parts: Sequence[ClipPart], source: BinaryIO, scratch: Path, whole: bool
    ) -> Iterator[VideoOutput]:
        """The video's final outputs, one at a time, from its clips in order; each local file is taken before the next.

        `whole` is False for a good prefix only, which is a single output.
        """
        ...

    def merge(self, parts: Iterable[tuple[Path, str]], path: Path) -> int:
        """Puts the rows of several videos, each given as (file, video_id), in order into one file; returns its rows.

        Only where `grouping` is set. A part's file is needed until the next part is asked for.
        """
        ...
