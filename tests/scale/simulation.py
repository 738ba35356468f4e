"""A run without machines: the real planner, workers, commits, joins and driver; only Ray, PyAV and the model are fake.

The store answers as S3 does, with pages of 1000 keys, and counts what it is asked. What is asked is told apart by who
asks: the driver's own loop, or what runs elsewhere (probing, clips, joins).
"""

from __future__ import annotations

import bisect
import contextlib
import gc
import hashlib
import io
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import storage as storage_module
from pipeline.config import InterpolateConfig
from pipeline.errors import AlreadyExists
from pipeline.layout import Layout
from pipeline.plan.discover import discover
from pipeline.records.commit import DataObject, commit_clip
from pipeline.records.session import open_run
from pipeline.run import datasource, execution, finalise, joins, plans, worker
from pipeline.run.cluster import Placement
from pipeline.run.rows import Receipt, Row, Times, receipt_from, to_table
from pipeline.run.worker import ClipWorker, RunContext
from pipeline.storage import Storage
from pipeline.stores import ObjectInfo, Unfinished
from pipeline.tasks.base import ClipOutput, ClipPart, VideoOutput
from pipeline.types import ClipRef, KeyPacket, VideoInfo, VideoRef

CLIPS, FRAMES = 20, 24
"""Of a video; of a clip."""
PAGE = 1000
OUTPUT = "sim://bucket/out"


class CountingStore:
    """Objects in one file on disk, keys in memory."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[int, int, str]] = {}
        """Place and bytes in the file, etag."""
        self._keys: list[str] = []
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 closed with the process
        self._lock = threading.Lock()
        self.requests: Counter[str] = Counter()
        self.listed: Counter[str] = Counter()
        """Keys returned, by what was listed below the output: "commit", "commit/*", …"""
        self.driver = Counter[str]()
        self.driving = False

    def _count(self, kind: str) -> None:
        self.requests[kind] += 1
        if self.driving:
            self.driver[kind] += 1

    def info(self, uri: str) -> ObjectInfo:
        self._count("head")
        with self._lock:
            if uri not in self._objects:
                raise FileNotFoundError(uri)
            return ObjectInfo(uri, *self._objects[uri][1:], 0.0)

    def is_folder(self, uri: str) -> bool:
        return bool(self.page(uri, "", None)[0])

    def read(self, uri: str, start: int, end: int | None, version: str | None) -> bytes:
        self._count("get")
        with self._lock:
            if uri not in self._objects:
                raise FileNotFoundError(uri)
            place, size, _ = self._objects[uri]
            self._file.seek(place)
            return self._file.read(size)[start:end]

    def page(self, uri: str, stem: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        self._count("list")
        prefix = f"{uri.rstrip('/')}/{stem}"
        with self._lock:
            place = bisect.bisect_right(self._keys, token) if token else bisect.bisect_left(self._keys, prefix)
            found = []
            while place < len(self._keys) and self._keys[place].startswith(prefix) and len(found) < PAGE:
                found.append(ObjectInfo(self._keys[place], *self._objects[self._keys[place]][1:], 0.0))
                place += 1
            more = place < len(self._keys) and self._keys[place].startswith(prefix)
        self.listed[_where(uri)] += len(found)
        return found, found[-1].uri if more else None

    def put(self, uri: str, data: bytes) -> None:
        self._count("put")
        with self._lock:
            self._put(uri, data)

    def _put(self, uri: str, data: bytes) -> None:
        if uri not in self._objects:
            bisect.insort(self._keys, uri)
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self._objects[uri] = (self._file.seek(0, io.SEEK_END), len(data), etag)
        self._file.write(data)

    def create(self, uri: str, data: bytes) -> None:
        self._count("put")
        with self._lock:
            if uri in self._objects:
                raise AlreadyExists(uri)
            self._put(uri, data)

    def delete(self, uris: list[str]) -> None:
        self._count("delete")
        with self._lock:
            for uri in uris:
                if self._objects.pop(uri, None) is not None:
                    del self._keys[bisect.bisect_left(self._keys, uri)]

    def clock(self, uri: str) -> float:
        return 0.0

    def unfinished(self, uri: str) -> Iterator[Unfinished]:
        yield from ()

    def discard(self, item: Unfinished) -> None: ...

    def __len__(self) -> int:
        return len(self._keys)


def _where(uri: str) -> str:
    path = uri.removeprefix(f"{OUTPUT}/").removeprefix("_motionmill/").rstrip("/")
    first, _, rest = path.partition("/")
    return f"{first}/*" if rest else first


class SimTask:
    """Clips of a few bytes, joined into a video of a few."""

    name, folder, data_suffix, grouping = "interpolate", "video", ".mp4", None

    def __init__(self, report: bool) -> None:
        self.config = InterpolateConfig.model_validate({"clip": {"frames": FRAMES}, "report": report})

    def check_video(self, info: VideoInfo) -> None: ...

    def halo(self) -> tuple[int, int]:
        return 0, 1

    def expected_rows(self, info: VideoInfo) -> int:
        return len(info.pts)

    def load(self, device: str, threads: int) -> SimTask:
        return self

    model, weights_sha256 = "sim", ""

    def process(self, clip: ClipRef, info: VideoInfo, source: Any, scratch: Path, beat: Callable[[str], None]) -> Any:
        path = scratch / "clip.mp4"
        path.write_bytes(clip.clip_id.encode())
        return ClipOutput(path, clip.frames, {"kinds": {"source": clip.frames}}, {"total": 0.01, "model": 0.01})

    def join(
        self, video: VideoRef, info: VideoInfo, parts: list[ClipPart], source: Any, scratch: Path, whole: bool
    ) -> Iterator[VideoOutput]:
        path = scratch / "video.mp4"
        path.write_bytes(b"video")
        yield VideoOutput(path, ".mp4", sum(part.rows for part in parts))


class _Quiet:
    """Stands for what only Ray, or a person, would look at."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None

    @contextlib.contextmanager
    def guard(self, on_hang: Any) -> Iterator[None]:
        yield


@dataclass
class Measured:
    """What a simulated run cost."""

    clips: int
    store: CountingStore
    driver_s: list[float] = field(default_factory=list)
    """Processor seconds of the driver's loop for each receipt."""
    before_s: float = 0.0
    """From the listing of the input to the first clip."""
    after_s: float = 0.0
    rss: int = 0
    """Bytes by which the process has grown, the store's keys included."""
    code: int = -1

    @property
    def per_clip(self) -> dict[str, float]:
        """Requests of the whole run for each clip, by kind."""
        return {kind: count / self.clips for kind, count in sorted(self.store.requests.items())}

    def __str__(self) -> str:
        loop = sum(self.driver_s)
        total = (loop + self.before_s + self.after_s) / self.clips
        asked = ", ".join(f"{count:.2f} {kind}" for kind, count in self.per_clip.items())
        return (
            f"{self.clips} clips: driver {1000 * total:.2f} ms a clip (loop {1000 * loop / self.clips:.2f}, begin "
            f"{self.before_s:.1f} s, end {self.after_s:.1f} s), grown by {self.rss / 1e6:.0f} MB; requests a clip: "
            f"{asked}; keys listed a clip: {sum(self.store.listed.values()) / self.clips:.2f}"
        )


class LightWorker(ClipWorker):
    """Commits a clip as the real one does, without its files, digests and clocks, which a driver does not see."""

    def _clip(self, row: Row) -> Receipt:
        context, clip = self._context, row.clip
        assert clip is not None
        number = context.attempts().begin(clip.video.video_id, clip.clip_id)
        path = context.layout.clip_data(clip.video.video_id, clip.clip_id, f"{context.session}-{number}")
        context.storage.put(context.layout.uri(path), b"clip")
        data = DataObject(path=path, size=4, sha256="0" * 64, frames=clip.frames)
        commit_clip(
            context.storage, context.layout, self._commit(clip, ClipOutput(None, clip.frames), number, data, None)
        )
        seconds, times = {"total": 0.01, "model": 0.01}, Times(self._name, self._born, self._ready, time.time(), 0.01)
        return Receipt(row, "ok", clip.frames, seconds, {"source": clip.frames}, bytes=4, tries=number, times=times)


def simulate(
    clips: int,
    patch: pytest.MonkeyPatch,
    store: CountingStore | None = None,
    actor: type[ClipWorker] = LightWorker,
    report: bool = False,
) -> Measured:
    """Runs `clips` clips in videos of CLIPS; with a `store` that has seen a run, it goes on with that one."""
    fresh, store = store is None, store or CountingStore()
    real = storage_module.connect
    patch.setattr(storage_module, "connect", lambda protocol: store if protocol == "sim" else real(protocol))
    found = Measured(clips, store)
    _without_ray_and_pyav(patch, found)
    task: Any = SimTask(report)
    storage = Storage(task.config.retry)
    if fresh:
        for number in range(clips // CLIPS):
            add_input(store, number)
    store.requests.clear()
    store.listed.clear()
    gc.collect()
    rss = _rss()

    layout = Layout(OUTPUT)
    session = open_run(storage, layout, {"task": task.name})
    context = RunContext(task, storage, OUTPUT, session.id, session.fingerprint)
    placement = Placement(actors=8, gpus=0, threads=1, cpus=0.5)
    run = _SimRun(context, session, placement, storage, layout)
    run.found, run.actor = found, actor
    found.before_s = -time.thread_time()
    found.code = run.execute(discover("sim://bucket/in", task.config.input, storage, exclude=OUTPUT))
    found.after_s += time.thread_time()
    gc.collect()
    found.rss = _rss() - rss
    return found


def add_input(store: CountingStore, number: int) -> None:
    store.put(f"sim://bucket/in/{number:06d}.mp4", b"video")


class _SimRun(execution.Execution):
    found: Measured
    actor: type[ClipWorker]

    def _stream(self, videos: list[VideoRef]) -> None:
        found, store = self.found, self.found.store
        found.before_s += time.thread_time()
        actor = self.actor(self._context, "cpu", 1)
        for video in videos:
            for row in datasource.plan_video(self._context, video, self._session.resumed):
                message = actor(to_table(row))["item"][0].as_py()
                began = time.thread_time()
                store.driving = True
                self._receive(receipt_from(message))
                store.driving = False
                found.driver_s.append(time.thread_time() - began - _Joins.spent)
                _Joins.spent = 0.0
        found.after_s = -time.thread_time()


class _Joins:
    """Stands for `_finalise`: joins at once, in this process, and says how long that took."""

    spent = 0.0
    store: CountingStore

    @classmethod
    def remote(cls, context: RunContext, row: Any) -> Any:
        began, driving = time.thread_time(), cls.store.driving
        cls.store.driving = False
        commit = finalise.finalise(context, row)
        cls.store.driving = driving
        cls.spent += time.thread_time() - began
        return _Reference(commit)


def _without_ray_and_pyav(patch: pytest.MonkeyPatch, found: Measured) -> None:
    _Joins.store, _Joins.spent = found.store, 0.0
    made_up = SimpleNamespace(
        wait=lambda waiting, num_returns, timeout: (waiting[:1], waiting[1:]), get=lambda one: one.commit
    )
    patch.setattr(joins, "ray", made_up)
    patch.setattr(joins, "_finalise", _Joins)
    for module, names in (
        (execution, ("DriverMetrics", "Calibrator")),
        (worker, ("ActorMetrics", "Watchdog")),
        (datasource, ("Watchdog",)),
        (finalise, ("Watchdog",)),
    ):
        for name in names:
            patch.setattr(module, name, _Quiet)
    info = _info()
    patch.setattr(plans, "probe", lambda *_: info)
    for module in (plans, worker, finalise):
        patch.setattr(module, "open_video", lambda *_: io.BytesIO())


class _Reference:
    def __init__(self, commit: Any) -> None:
        self.commit = commit


def _info() -> VideoInfo:
    count = CLIPS * FRAMES
    return VideoInfo(
        container="mov", stream_index=0, codec="h264", width=64, height=48, pix_fmt="yuv420p",
        time_base=Fraction(1, 12800), pts=tuple(512 * n for n in range(count)), last_duration=512,
        keys=tuple(KeyPacket(n, 512 * n, 512 * n) for n in range(0, count, FRAMES)), packets=count,
    )  # fmt: skip


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
