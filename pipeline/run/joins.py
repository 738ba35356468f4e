"""Joining of videos whose clips are all committed: a few at a time, in tasks of the cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import ray

from pipeline.records.commit import VideoCommit
from pipeline.run import cluster
from pipeline.run.finalise import finalise
from pipeline.run.rows import Row
from pipeline.run.worker import RunContext


class Joins:
    """At most `resources.finalisers` under way; the others wait their turn."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._waiting: deque[Row] = deque()
        self._running: dict[Any, Row] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def add(self, row: Row) -> None:
        """Any row of the video."""
        self._waiting.append(row)

    def ended(self, wait: bool = False) -> Iterator[tuple[Row, VideoCommit]]:
        """Starts joins while there is room, and gives those that have ended; with `wait`, at least one of them."""
        while self._waiting and len(self._running) < self._context.task.config.resources.finalisers:
            row = self._waiting.popleft()
            self._running[_finalise.remote(self._context, row)] = row
        if not self._running:
            return
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=None if wait else 0)
        for reference in ready:
            yield self._running.pop(reference), ray.get(reference)


@ray.remote(num_cpus=cluster.LIGHT_CPUS, scheduling_strategy="SPREAD", max_retries=-1)  # the ledger of attempts counts
def _finalise(context: RunContext, row: Row) -> VideoCommit:
    return finalise(context, row)
