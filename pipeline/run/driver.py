"""One run, from an input and an output prefix to an exit code: plan, stream clips through actors, join, account."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from pipeline.errors import MotionmillError, StorageError, UsageError
from pipeline.layout import STATE, Layout, sanitise
from pipeline.plan.discover import DiscoveryFailure, discover
from pipeline.records import quarantine
from pipeline.records.commit import (
    Session,
    VideoCommit,
    forget_failures,
    forget_video,
    open_run,
    sweep,
    tidy_unfinished,
)
from pipeline.run import allocator, cluster, grouping, limits
from pipeline.run.calibrator import Calibrator
from pipeline.run.datasource import VideoSource
from pipeline.run.finalise import finalise
from pipeline.run.fingerprint import fingerprint_document
from pipeline.run.metrics import DriverMetrics, endpoints
from pipeline.run.progress import Display, Tally
from pipeline.run.rows import Receipt, Row, receipt_from
from pipeline.run.summary import Account, StartUp, Summary
from pipeline.run.worker import ClipWorker, RunContext, failure_of
from pipeline.storage import Storage, absolute, redact, scrub
from pipeline.tasks.base import Task
from pipeline.types import VideoRef

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_QUARANTINED = 0, 1, 2, 3
METRICS_EVERY_S = 2.0
SHOWN_NODES = 4
"""Endpoints of metrics that are printed."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for beside the configuration."""

    retry_quarantined: bool = False
    overwrite: bool = False


@dataclass(slots=True)
class _Video:
    """Receipts of one video so far."""

    count: int
    seen: set[int] = field(default_factory=set)


def run(task: Task, source: str, output: str, options: Options) -> int:
    """Runs `task` over `source` into `output`; returns the exit code (DESIGN.md: 0, 3, 2, 1). Prints as it goes.

    Everything that can be known to be wrong is found before any work: the input, rights on the output, the cluster's
    resources, encoders on every node, another run in the same prefix.
    """
    started = time.time()
    source, output = absolute(source), absolute(output)
    storage = Storage(task.config.retry)
    layout = Layout(output)
    listing = discover(source, task.config.input, storage, exclude=output)
    first = next(listing)  # raises InputNotFound before anything is started
    storage.check_writable(output)
    task.fingerprint()  # finds missing or damaged weights
    cluster.connect(task.config.resources)
    connected = time.time()
    try:
        placement = cluster.place(task.config.resources)
        task = task.on(placement.device)
        nodes = cluster.check_nodes(task)
        estimate = limits.check(task, storage, layout, source, output, placement)
        session = open_run(storage, layout, fingerprint_document(task), overwrite=options.overwrite)
        if options.retry_quarantined:
            print(f"retrying {forget_failures(storage, layout)} quarantined videos and clips", flush=True)
        context = RunContext(task, storage, output, session.id, session.fingerprint)
        print(f"{task.name}: {redact(source)} -> {redact(output)}", flush=True)
        print(f"session {session.id}{' (resuming)' if session.resumed else ''}; {placement} on {len(nodes)} node(s)")
        if not placement.gpus:
            print("no GPU in use: the model runs on the CPU", flush=True)
        for note in (*task.notes(), *estimate):
            print(note, flush=True)
        print(f"metrics: {', '.join(endpoints()[:SHOWN_NODES]) or 'this cluster exports none'}", flush=True)
        start_up = StartUp(started, connected, time.time())
        return _Run(context, session, placement, storage, layout, start_up).execute(_chain(first, listing))
    finally:
        ray.shutdown()


def _chain(first: VideoRef | DiscoveryFailure, rest: Iterator[VideoRef | DiscoveryFailure]) -> Iterator[Any]:
    yield first
    yield from rest


class _Run:
    def __init__(
        self,
        context: RunContext,
        session: Session,
        placement: cluster.Placement,
        storage: Storage,
        layout: Layout,
        start_up: StartUp | None = None,
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
        self._joining: dict[Any, Row] = {}
        self._waiting: list[Row] = []
        self._display: Display | None = None
        self._started = start_up.started

    def execute(self, listing: Iterator[VideoRef | DiscoveryFailure]) -> int:
        todo, broken = self._todo(listing)
        display = self._display = Display(self._context.task.name, self._tally)
        self._tally.videos = len(todo) + len(broken)
        self._show_metrics()
        try:
            for row in broken:
                self._refuse(row)
            if todo:
                self._stream(todo)
            self._drain()
            self._account.written([self._layout.uri(path) for path in grouping.group_videos(self._context)])
        finally:
            display.close()
        return self._finish()

    def _todo(self, listing: Iterator[VideoRef | DiscoveryFailure]) -> tuple[list[VideoRef], list[Row]]:
        """Videos without a commit. A video whose object has changed since its commit is done anew."""
        done = {
            info.uri.rsplit("/", 1)[1].removesuffix(".json") for info in self._storage.list(self._layout.video_commits)
        }
        if self._session.resumed:
            tidy_unfinished(self._storage, self._layout, done)
            grouping.go_on(self._context)
        by_source: dict[str, list[str]] = {}
        for video_id in done:
            by_source.setdefault(video_id.rpartition("-")[0], []).append(video_id)
        todo, broken = [], []
        for item in listing:
            if isinstance(item, DiscoveryFailure):
                row = _row_of(item)
                if row.video.video_id in done:
                    self._account.skipped_quarantined += 1
                else:
                    broken.append(row)
                continue
            if item.video_id in done:
                self._account.skipped += 1
                continue
            for stale in by_source.get(item.source_id, []):
                forget_video(self._storage, self._layout, stale)
            todo.append(item)
        return todo, broken

    def _stream(self, videos: list[VideoRef]) -> None:
        placement, context = self._placement, self._context
        data = DataContext.get_current()
        data.enable_progress_bars = False
        data.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=r"ray\.data")  # that an actor may be idle when clips are few
        # One row a block: a retry, or a lost worker, costs one clip. (repartition() would do the same with tasks that
        # reserve a whole CPU, which a small machine does not have beside its actor.)
        data.target_max_block_size = 1
        dataset = ray.data.read_datasource(
            VideoSource(context, videos, resume=self._session.resumed),
            num_cpus=cluster.LIGHT_CPUS,
            concurrency=min(len(videos), _probers()),
            # The ledger of attempts, not Ray, decides when a video that kills its prober is given up.
            max_retries=-1,
        ).map_batches(
            ClipWorker,
            fn_constructor_args=(context, placement.device, placement.threads),
            batch_size=1,
            batch_format="pyarrow",
            # One clip each at a time: the actor that starts first would otherwise take two where others wait.
            compute=ActorPoolStrategy(size=placement.actors, max_tasks_in_flight_per_actor=1),
            num_cpus=placement.cpus,
            num_gpus=placement.gpus or None,
            runtime_env={"env_vars": allocator.ENVIRONMENT},
            # Ray restarts actors and repeats their tasks without end by default; the ledger counts here too.
        )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for item in batch["item"]:
                self._receive(receipt_from(item.as_py()))

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
        self._collect(block=False)

    def _refuse(self, row: Row) -> None:
        self._tally.videos_probed += 1
        self._join(row)

    def _join(self, row: Row) -> None:
        self._waiting.append(row)
        self._collect(block=False)

    def _collect(self, block: bool) -> None:
        """Starts joins while there is room, and takes in those that have ended."""
        while self._waiting and len(self._joining) < self._context.task.config.resources.finalisers:
            row = self._waiting.pop(0)
            self._joining[_finalise.remote(self._context, row)] = row
        if self._joining:
            ready, _ = ray.wait(list(self._joining), num_returns=1, timeout=None if block else 0)
            for reference in ready:
                self._joined(self._joining.pop(reference), ray.get(reference))
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

    def _drain(self) -> None:
        while self._waiting or self._joining:
            self._collect(block=True)

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

    def _finish(self) -> int:
        in_quarantine = quarantine.rebuild(self._storage, self._layout, self._session.id)
        lost = self._tally.videos - self._account.committed - self._account.quarantined
        summary = Summary.of(self._context, self._placement, self._account, self._started, in_quarantine)
        self._calibrator.store(self._storage, self._layout)
        data = summary.to_json()
        self._storage.put(self._layout.session_summary(self._session.id), data)
        self._storage.put(self._layout.summary, data)
        print(summary.text(), flush=True)
        if self._context.task.config.report:
            self._report()
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

    def _report(self) -> None:
        """Pictures of a run that has ended: if they cannot be made, it has ended well all the same."""
        from pipeline import report

        try:
            print(f"report     {redact(report.write(self._storage, self._layout))}", flush=True)
        except Exception as error:
            print(f"no report was made ({type(error).__name__}: {scrub(str(error))}); jobs/report.py tries again")


def _probers() -> int:
    """Probes at a time: one a CPU. They reserve little, but each is a process."""
    return max(2, int(ray.cluster_resources().get("CPU", 0)))


def _row_of(failure: DiscoveryFailure) -> Row:
    name = sanitise(f"{failure.uri.rsplit('/', 1)[-1]}/{failure.member}".strip("/"))
    video = VideoRef(failure.uri, failure.version, name, size=-1, member=failure.member)
    return Row("refused", video, refusal=failure_of(failure.error).model_copy(update={"stage": "discover"}))


@ray.remote(num_cpus=cluster.LIGHT_CPUS, scheduling_strategy="SPREAD", max_retries=-1)  # the ledger of attempts counts
def _finalise(context: RunContext, row: Row) -> VideoCommit:
    return finalise(context, row)


_GO_ON = "nothing that is committed is lost; run the same command again to go on"


def guarded(job: Callable[[], int], show: Callable[[str], None]) -> int:
    """Runs a job; its errors become one clear message and an exit code."""
    try:
        return job()
    except ray.exceptions.RayTaskError as error:
        show(f"the run failed: {error.cause}\n{_GO_ON}")
        return EXIT_FAILED
    except UsageError as error:
        show(f"error: {error}")
        return EXIT_USAGE
    except KeyboardInterrupt:
        show("interrupted: nothing is lost; run the same command again to go on")
        return EXIT_FAILED
    except (MotionmillError, ray.exceptions.RayError) as error:
        show(f"the run failed: {error}\n{_GO_ON}")
        return EXIT_FAILED
