"""The actor that processes clips: it holds the model, and turns a clip reference into a committed object.

Everything that goes wrong with one clip ends in its commit, with a reason; what goes wrong with the store, or with the
worker itself, is retried and in the end stops the run, which can be resumed.
"""

from __future__ import annotations

import errno
import hashlib
import resource
import socket
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import pyarrow as pa

from pipeline import __version__
from pipeline.config import fingerprint_keys
from pipeline.errors import (
    AccessDenied,
    InputNotFound,
    ObjectNotFound,
    StorageError,
    UnreadableVideo,
    UsageError,
    VideoError,
    WorkerLost,
)
from pipeline.layout import Layout
from pipeline.media.source import open_source
from pipeline.records.commit import ClipCommit, DataObject, Failure, Provenance, commit_clip, identity
from pipeline.records.session import Attempts, fingerprint
from pipeline.run import allocator, scratch
from pipeline.run.metrics import ActorMetrics
from pipeline.run.rows import Receipt, Row, Times, row_from, to_table
from pipeline.run.watchdog import Watchdog
from pipeline.storage import Storage, scrub
from pipeline.tasks.base import ClipOutput, Heartbeat, Processor, Task
from pipeline.types import ClipRef, VideoRef

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@dataclass(frozen=True)
class RunContext:
    """What every worker of a run shares; picklable."""

    task: Task
    storage: Storage
    output: str
    session: str
    fingerprint: str
    """Digest of the run's fingerprint document."""

    @property
    def layout(self) -> Layout:
        return Layout(self.output)

    def provenance(self, model: str, weights_sha256: str) -> Provenance:
        return Provenance(
            task=self.task.name,
            model=model,
            weights_sha256=weights_sha256,
            configuration=fingerprint(fingerprint_keys(self.task.config)),
            code_version=__version__,
        )

    def attempts(self) -> Attempts:
        return Attempts(self.storage, self.layout, self.session, self.task.config.retry.attempts)


class ClipWorker:
    """Ray Data calls it with a table of one row, and gets a receipt back."""

    def __init__(self, context: RunContext, device: str, threads: int) -> None:
        self._name, self._born = uuid.uuid4().hex[:12], time.time()
        self._context = context
        scratch.sweep(context.task.config.resources.scratch)  # of workers that were killed on this machine
        self._processor: Processor = context.task.load(device, threads)
        self._watchdog = Watchdog(context.task.config.retry.hang_s)
        self._metrics = ActorMetrics(context.task.name, context.session)
        self._ready = time.time()

    def __call__(self, table: pa.Table) -> pa.Table:
        row = row_from(table["item"][0].as_py())
        if row.kind == "clip":
            try:
                receipt = self._clip(row)
            except (StorageError, UsageError) as error:
                receipt = Receipt(row, "stopped", message=scrub(str(error)))
        elif row.kind == "committed":
            receipt = Receipt(row, "ok", fresh=False)
        elif row.kind == "failed":
            receipt = Receipt(row, "error", fresh=False)
        else:
            assert row.refusal is not None
            status = "stopped" if row.kind == "stopped" else "refused"
            receipt = Receipt(row, status, message=f"{row.refusal.error_type}: {row.refusal.message}")
        return to_table(receipt)

    def _clip(self, row: Row) -> Receipt:
        context, clip = self._context, row.clip
        assert clip is not None
        retries_before = context.storage.retries
        began, pace = time.time(), Pace(self._watchdog.beat)

        def work(number: int) -> tuple[ClipOutput, DataObject | None, int]:
            try:
                with scratch.folder(context.task.config.resources.scratch) as folder:
                    output = self._process(row, clip, folder, pace)
                    return output, self._upload(clip, output, number), number
            finally:
                allocator.give_back()

        result, failure = attempt(context, self._watchdog, clip.video.video_id, clip.clip_id, work)
        output, data, number = result or (ClipOutput(None, 0), None, 0)
        if output.error is not None:
            failure = failure_of(output.error, number)
        commit = self._commit(clip, output, number, data, failure)
        winner, mine = commit_clip(context.storage, context.layout, commit)
        if not mine and data is not None:
            context.storage.delete(context.layout.uri(data.path))
        receipt = Receipt(
            row,
            winner.status,
            rows=winner.data.frames if winner.data else 0,
            seconds=output.seconds,
            counts=dict(winner.extra.get("kinds", {})),
            message=f"{winner.failure.error_type}: {winner.failure.message}" if winner.failure else "",
            bytes=data.size if data else 0,
            fresh=mine,
            retries=context.storage.retries - retries_before,
            peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            tries=failure.attempts if failure else number,
            times=Times(
                self._name, self._born, self._ready, began, *pace.ended(), output.work, output.bare, output.spent_flops
            ),
        )
        self._metrics.clip(receipt)
        return receipt

    def _process(self, row: Row, clip: ClipRef, folder: Path, beat: Heartbeat) -> ClipOutput:
        assert row.info is not None
        with open_video(self._context.storage, clip.video) as source:
            return self._processor.process(clip, row.info, source, folder, beat)

    def _upload(self, clip: ClipRef, output: ClipOutput, number: int) -> DataObject | None:
        if output.path is None:
            return None
        context = self._context
        path = context.layout.clip_data(
            clip.video.video_id, clip.clip_id, f"{context.session}-{number}", context.task.data_suffix
        )
        return upload(context, output.path, path, output.rows)

    def _commit(
        self, clip: ClipRef, output: ClipOutput, number: int, data: DataObject | None, failure: Failure | None
    ) -> ClipCommit:
        context = self._context
        if failure is not None and data is not None:
            failure, data = failure.model_copy(update={"prefix": data}), None
        return ClipCommit(
            **identity(clip.video),
            status="error" if failure else "ok",
            attempt=f"{context.session}-{number}",
            fingerprint=context.fingerprint,
            provenance=context.provenance(self._processor.model, self._processor.weights_sha256),
            failure=failure,
            extra=output.extra,
            clip_id=clip.clip_id,
            clip_index=clip.index,
            clip_count=clip.count,
            start_pts=clip.start_pts,
            end_pts=clip.end_pts,
            time_base=str(clip.time_base),
            data=data,
        )


class Pace:
    """Passes a clip's signs of life on, and remembers when the first and the last of them came."""

    def __init__(self, beat: Heartbeat) -> None:
        self._beat = beat
        self._began = time.perf_counter()
        self._first: float | None = None
        self._last_made: float | None = None

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self._first = now if self._first is None else self._first
        if stage == "model":
            self._last_made = now
        self._beat(stage)

    def ended(self) -> tuple[float, float, float]:
        """Seconds: of the whole clip, until the first sign, and since the model made its last frame."""
        now = time.perf_counter()
        first = now if self._first is None else self._first
        last = now if self._last_made is None else self._last_made
        return round(now - self._began, 4), round(first - self._began, 4), round(now - last, 4)


T = TypeVar("T")


def attempt(
    context: RunContext,
    watchdog: Watchdog,
    video_id: str,
    name: str,
    work: Callable[[int], T],
    stage: str | None = None,
) -> tuple[T | None, Failure | None]:
    """Runs `work(number of the try)` under the retry budget of `name`: (its result, None) or (None, why it failed).

    Tries that took their process down count, those of earlier processes too. A VideoError is final at once; an error
    that nobody foresaw (a defect, memory that ran out) is tried again here. Errors of the store are raised. `stage`
    says where, for errors that do not know themselves.
    """
    attempts = context.attempts()
    while True:
        try:
            number = attempts.begin(video_id, name)
        except WorkerLost as lost:
            return None, failure_of(lost, context.task.config.retry.attempts, stage)
        try:
            with watchdog.guard(partial(attempts.note_cause, video_id, name, number)):
                return work(number), None
        except VideoError as error:
            return None, failure_of(error, number)
        except (StorageError, UsageError):
            raise
        except Exception as error:
            if (full := _no_room(error, context.task.config.resources.scratch)) is not None:
                raise full from error
            attempts.note_cause(video_id, name, number, f"{type(error).__name__}: {error}")
            if number >= context.task.config.retry.attempts:
                return None, failure_of(error, number, stage)


def _no_room(error: Exception, scratch: str) -> StorageError | None:
    """What to raise for an error of the machine's disk, which is no video's fault: it would put them all in quarantine.

    Encoders and writers of tables pass the system's error on, in exceptions of their own.
    """
    found: BaseException | None = error
    while found is not None:
        if getattr(found, "errno", None) in _DISK_ERRORS:
            folder = scratch or tempfile.gettempdir()
            return StorageError(
                f"{socket.gethostname()}: no room for temporary files in {folder} ({scrub(str(found))}); free some, or "
                "name another folder in resources.scratch"
            )
        found = found.__cause__ or found.__context__
    return None


def open_video(storage: Storage, video: VideoRef) -> BinaryIO:
    """Opens a video; one that is gone, or may not be read, is that video's own fault (UnreadableVideo)."""
    try:
        return open_source(video, storage)
    except (ObjectNotFound, InputNotFound, AccessDenied) as error:
        raise UnreadableVideo(str(error), stage="read") from error


def upload(context: RunContext, local: Path, path: str, frames: int) -> DataObject:
    """Puts a local file at `path` of the output prefix, with its digest."""
    with open(local, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = context.storage.put_file(local, context.layout.uri(path)).size
    return DataObject(path=path, size=size, sha256=digest, frames=frames)


def failure_of(error: Exception, attempts: int = 1, stage: str | None = None) -> Failure:
    """The record of an error: for a VideoError with how far it got, and its stage unless another is given."""
    known, pts = (error.stage, error.pts) if isinstance(error, VideoError) else ("model", None)
    trace = scrub("".join(traceback.format_exception(error)))[-8000:]
    return Failure(
        stage=stage or known,
        error_type=type(error).__name__,
        message=scrub(str(error)),
        pts=pts,
        attempts=attempts,
        traceback=trace,
    )
