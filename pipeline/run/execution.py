"""The work on a run that has begun: clips streamed through actors, videos joined, everything accounted for."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.errors import ObjectNotFound, StorageError
from pipeline.layout import STATE, Layout, sanitise
from pipeline.plan.discover import Discovered, DiscoveryFailure
from pipeline.records import quarantine
from pipeline.records.commit import VideoCommit, committed_videos, forget_video, sweep, tidy_unfinished
from pipeline.records.session import Session
from pipeline.run import cluster, grouping, stream
from pipeline.run.calibrator import Calibrator
from pipeline.run.exits import EXIT_OK, EXIT_QUARANTINED, raise_if_interrupted
from pipeline.run.joins import Joins
from pipeline.run.metrics import DriverMetrics
from pipeline.run.plans import Kept
from pipeline.run.progress import Display, Tally
from pipeline.run.rows import Receipt, Row
from pipeline.run.summary import Account, StartUp, Summary
from pipeline.run.worker import RunContext, failure_of
from pipeline.storage import Storage, redact, scrub
from pipeline.types import VideoRef

METRICS_EVERY_S = 2.0


@dataclass(slots=True)
class _Video:
    """Receipts of one video so far."""

    count: int
    seen: set[int] = field(default_factory=set)


class Execution:
    """`kept`: plans that were made before the run began. `forgotten`: commits that were deleted to be tried again."""

    def __init__(
        self,
        context: RunContext,
        session: Session,
        placement: cluster.Placement,
        storage: Storage,
        layout: Layout,
        start_up: StartUp | None = None,
        kept: Kept | None = None,
        forgotten: int = 0,
    ) -> None:
        self._context, self._session, self._placement = context, session, placement
        self._storage, self._layout = storage, layout
        self._tally = Tally()
        now = time.time()
        start_up = start_up or StartUp(now, now, now)
        self._account = Account(start_up=start_up)
        self._calibrator = Calibrator(context.task, placement)
        self._metrics = DriverMetrics(context.task.name, context.session)
        self._shown = 0.0
        self._videos: dict[str, _Video] = {}
        self._finished: set[str] = set()
        self._joins = Joins(context)
        self._kept = kept or Kept()
        self._forgotten = forgotten
        self._display: Display | None = None
        self._started = start_up.started

    def execute(self, inputs: Iterable[Discovered]) -> int:
        todo, broken = self._todo(inputs)
        # A session that was lost may have left its accounts unmade.
        idle = not (todo or broken or self._forgotten or self._context.attempts().others())
        display = self._display = Display(self._context.task.name, self._tally)
        self._tally.videos = len(todo) + len(broken)
        self._show_metrics()
        try:
            for row in broken:
                self._refuse(row)
            if todo:
                self._stream(todo)
            while self._joins:
                self._collect(wait=True)
            if not idle:
                self._account.written([self._layout.uri(path) for path in grouping.group_videos(self._context)])
        finally:
            display.close()
        return self._finish(idle)

    def _todo(self, inputs: Iterable[Discovered]) -> tuple[list[VideoRef], list[Row]]:
        """Videos without a commit. A video whose object has changed since its commit is done anew."""
        done = committed_videos(self._storage, self._layout)
        if self._session.resumed:
            tidy_unfinished(self._storage, self._layout, done)
            grouping.go_on(self._context)
        by_source: dict[str, list[str]] = {}
        for video_id in done:
            by_source.setdefault(video_id.rpartition("-")[0], []).append(video_id)
        todo: list[VideoRef] = []
        broken: dict[str, Row] = {}
        for item in inputs:
            if isinstance(item, DiscoveryFailure):
                row = _row_of(item)
                if row.video.video_id in done:
                    self._account.skipped_quarantined += 1
                else:
                    broken.setdefault(row.video.video_id, row)
                continue
            if item.video_id in done:
                self._account.skipped += 1
                continue
            for stale in by_source.get(item.source_id, []):
                forget_video(self._storage, self._layout, stale)
            todo.append(item)
        return todo, list(broken.values())

    def _stream(self, videos: list[VideoRef]) -> None:
        resume = self._session.resumed
        for receipt in stream.receipts(self._context, self._placement, videos, resume=resume, kept=self._kept):
            self._receive(receipt)

    def _receive(self, receipt: Receipt) -> None:
        row = receipt.row
        if receipt.status == "stopped":
            raise StorageError(receipt.message)
        self._account.add(receipt)
        if self._calibrator.add(receipt):
            self._calibrator.store(self._storage, self._layout)
        if row.clip is None:
            self._refuse(row)
            return
        if row.video.video_id in self._finished:
            return  # a receipt delivered twice
        state = self._videos.get(row.video.video_id)
        if state is None:
            state = self._videos[row.video.video_id] = _Video(row.clip.count)
            self._tally.videos_probed += 1
            self._tally.clips += row.clip.count
        state.seen.add(row.clip.index)
        self._tally.clips_done += 1
        if receipt.fresh:
            self._tally.clips_fresh += 1
            self._tally.frames += receipt.rows
        if receipt.status != "ok" and receipt.message:
            self._log(f"clip failed: {scrub(str(row.clip))}: {receipt.message}")
        if len(state.seen) == state.count:
            self._finished.add(row.video.video_id)
            self._join(row)
        self._collect()

    def _refuse(self, row: Row) -> None:
        if row.video.video_id in self._finished:
            return
        self._finished.add(row.video.video_id)
        self._tally.videos_probed += 1
        self._join(row)

    def _join(self, row: Row) -> None:
        self._joins.add(row)
        self._collect()

    def _collect(self, wait: bool = False) -> None:
        """Takes in the joins that have ended."""
        raise_if_interrupted()
        for row, commit in self._joins.ended(wait):
            self._joined(row, commit)
        if self._display is not None:
            self._display.update()
        if time.monotonic() - self._shown >= METRICS_EVERY_S:
            self._show_metrics()

    def _show_metrics(self) -> None:
        tally, account = self._tally, self._account
        self._metrics.show(
            todo=tally.videos - tally.videos_done - tally.videos_quarantined,
            done=tally.videos_done,
            quarantined=tally.videos_quarantined,
            clips_left=tally.clips - tally.clips_done,
            store_retries=account.retries,
            clip_retries=account.clip_retries,
            actors=self._placement.actors,
        )
        self._shown = time.monotonic()

    def _joined(self, row: Row, commit: VideoCommit) -> None:
        self._videos.pop(row.video.video_id, None)
        self._account.videos += 1
        if commit.status == "ok":
            self._tally.videos_done += 1
            self._account.committed += 1
            self._account.finished(
                [self._layout.uri(output.path) for output in commit.outputs if not output.path.startswith(STATE)],
                commit.extra,
            )
            return
        self._tally.videos_quarantined += 1
        self._account.quarantined += 1
        assert commit.failure is not None
        self._log(f"quarantined: {redact(str(row.video))}: {commit.failure.error_type}: {commit.failure.message}")

    def _log(self, text: str) -> None:
        if self._display is not None:
            self._display.log(text)

    def _finish(self, idle: bool) -> int:
        in_quarantine = self._in_quarantine(idle)
        lost = self._tally.videos - self._account.committed - self._account.quarantined
        summary = Summary.of(self._context, self._placement, self._account, self._started, in_quarantine)
        self._calibrator.store(self._storage, self._layout)
        data = summary.to_json()
        self._storage.put(self._layout.session_summary(self._session.id), data)
        self._storage.put(self._layout.summary, data)
        print(summary.text(), flush=True)
        if self._context.task.config.report:
            self._report(idle)
        if lost:
            raise StorageError(
                f"{lost} of {self._tally.videos} videos are neither committed nor quarantined; run the same command "
                "again, and report this if it happens twice"
            )
        if self._session.resumed:  # a worker of the run before, lost with its driver, may have been slow to die
            tidy_unfinished(self._storage, self._layout, self._finished)
        self._context.attempts().clear()
        sweep(self._storage, self._layout)
        return EXIT_QUARANTINED if in_quarantine else EXIT_OK

    def _in_quarantine(self, idle: bool) -> int:
        """Rows of the quarantine table; it is made anew, from all commits, unless nothing has been done."""
        if idle:
            with suppress(ObjectNotFound, pa.ArrowInvalid):
                return int(quarantine.read(self._storage, self._layout).num_rows)
        return quarantine.rebuild(self._storage, self._layout, self._session.id)

    def _report(self, idle: bool) -> None:
        """Pictures of a run that has ended: if they cannot be made, it has ended well all the same."""
        from pipeline import report

        try:
            if idle and self._storage.exists(self._layout.report):
                print(f"report     {redact(self._layout.report)} (of the last run that had something to do)")
                return
            print(f"report     {redact(report.write(self._storage, self._layout, self._finished))}", flush=True)
        except Exception as error:
            print(f"no report was made ({type(error).__name__}: {scrub(str(error))}); jobs/report.py tries again")


def _row_of(failure: DiscoveryFailure) -> Row:
    name = sanitise(f"{failure.uri.rsplit('/', 1)[-1]}/{failure.member}".strip("/"))
    video = VideoRef(failure.uri, failure.version, name, size=-1, member=failure.member)
    return Row("refused", video, refusal=failure_of(failure.error).model_copy(update={"stage": "discover"}))
