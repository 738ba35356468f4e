"""One run, from an input and an output prefix to an exit code: checked, begun, executed (pipeline/run/execution.py)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import ray

from pipeline.layout import Layout
from pipeline.plan.discover import Discovered, discover
from pipeline.records.commit import committed_videos, forget_failures
from pipeline.records.session import holds_run, open_run
from pipeline.run import cluster, limits
from pipeline.run.execution import Execution
from pipeline.run.fingerprint import fingerprint_document
from pipeline.run.metrics import endpoints
from pipeline.run.plans import Kept
from pipeline.run.summary import StartUp
from pipeline.run.worker import RunContext
from pipeline.storage import Storage, absolute, redact
from pipeline.tasks.base import Task
from pipeline.types import VideoRef

SHOWN_NODES = 4
"""Endpoints of metrics that are printed."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for beside the configuration."""

    retry_quarantined: bool = False
    overwrite: bool = False


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
    inputs: Iterable[Discovered] = chain([first], listing)
    storage.check_writable(output)
    task.fingerprint()  # finds missing or damaged weights
    cluster.connect(task.config.resources)
    connected = time.time()
    try:
        placement = cluster.place(task.config.resources)
        task = task.on(placement.device)
        nodes = cluster.check_nodes(task)
        document = fingerprint_document(task)
        estimate: list[str] = []
        kept = Kept()
        if limits.are_set(task.config.limits):
            inputs = list(inputs)  # gone through twice
            done = committed_videos(storage, layout) if holds_run(storage, layout, document) else set()
            videos = [one for one in inputs if isinstance(one, VideoRef) and one.video_id not in done]
            estimate, kept = limits.check(task, storage, layout, videos, placement)
        session = open_run(storage, layout, document, overwrite=options.overwrite)
        forgotten = 0
        if options.retry_quarantined:
            forgotten = forget_failures(storage, layout)
            print(f"retrying {forgotten} quarantined videos and clips", flush=True)
        context = RunContext(task, storage, output, session.id, session.fingerprint)
        print(f"{task.name}: {redact(source)} -> {redact(output)}", flush=True)
        print(f"session {session.id}{' (resuming)' if session.resumed else ''}; {placement} on {len(nodes)} node(s)")
        if not placement.gpus:
            print("no GPU in use: the model runs on the CPU", flush=True)
        for note in (*task.notes(), *estimate):
            print(note, flush=True)
        print(f"metrics: {', '.join(endpoints()[:SHOWN_NODES]) or 'this cluster exports none'}", flush=True)
        start_up = StartUp(started, connected, time.time())
        return Execution(context, session, placement, storage, layout, start_up, kept, forgotten).execute(inputs)
    finally:
        ray.shutdown()
