"""What is done to a run, and how the run may end then."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.support import until

if TYPE_CHECKING:
    from tests.chaos.lab import Scene

EXHAUSTED_BYTES = 1 << 30
"""Resident memory from which a worker is ended, as the kernel or Ray's memory monitor would."""


@dataclass(frozen=True)
class Fault:
    """`strike` happens when some clips are committed; `codes` are the exit codes that the run may end with."""

    does: str
    strike: Callable[[Scene], None] | None = None
    codes: tuple[int, ...] = (0,)
    every: Mapping[str, int] = field(default_factory=dict)
    """Faults between the job and the store: every how many requests (tests/s3.py)."""
    poison: str = ""
    """Name of a video that ruins its worker, and must end in quarantine."""
    scratch: bool = False
    """Temporary files go to a disk that has no room."""
    sets: tuple[str, ...] = ()


def _kill_worker(scene: Scene) -> None:
    os.kill(until(scene.lab.cluster.actors, "actors", scene.job)[0], signal.SIGKILL)


def _kill_raylet(scene: Scene) -> None:
    os.kill(scene.lab.cluster.busy_raylet(), signal.SIGKILL)


def _preempt(scene: Scene) -> None:
    os.kill(scene.lab.cluster.busy_raylet(), signal.SIGTERM)


def _kill_driver(scene: Scene) -> None:
    os.kill(scene.job.process.pid, signal.SIGKILL)


def _kill_gcs(scene: Scene) -> None:
    os.kill(scene.lab.cluster.gcs(), signal.SIGKILL)


def _kill_store(scene: Scene) -> None:
    scene.lab.server.kill()
    time.sleep(2)
    scene.lab.server.start()


def _end_the_exhausted(scene: Scene) -> None:
    """Ends workers that hold more than they may, as long as the job runs."""

    def watch() -> None:
        while scene.job.process.poll() is None:
            for pid in scene.lab.cluster.actors():
                if _resident(pid) > EXHAUSTED_BYTES:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)

    threading.Thread(target=watch, daemon=True).start()


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


PATIENT = ("retry.storage_attempts=30", "retry.storage_max_wait_s=2")
POISONED = ("retry.attempts=2",)

FAULTS: dict[str, Fault] = {
    "worker": Fault("kill -9 of an actor", _kill_worker),
    "raylet": Fault("kill -9 of a raylet that has actors", _kill_raylet),
    "preemption": Fault("SIGTERM to a raylet that has actors: its node goes", _preempt),
    "driver": Fault("kill -9 of the driver; run again", _kill_driver, (-9,)),
    "gcs": Fault("kill -9 of the GCS; run again on another cluster", _kill_gcs, (0, 1, -6, -11)),
    "store": Fault("kill -9 of the S3 server; it is back after two seconds", _kill_store, sets=PATIENT),
    "delay": Fault("0.1 s more for every second request", every={"delay": 2}),
    "503": Fault("503 for every fifth request", every={"503": 5}, sets=PATIENT),
    "resets": Fault("the connection reset at every fifth request", every={"reset": 5}, sets=PATIENT),
    "truncated": Fault("half of the body for every fifth read", every={"truncate": 5}, sets=PATIENT),
    "lost-acks": Fault("every fifth write carried out and not acknowledged", every={"lost_ack": 5}, sets=PATIENT),
    "full-disk": Fault("no room for temporary files; run again with room", codes=(1,), scratch=True),
    "segfault": Fault("a clip that segfaults its worker", poison="segfault", codes=(3,), sets=POISONED),
    "hang": Fault(
        "a clip that hangs its worker", poison="hang", codes=(3,), sets=(*POISONED, "retry.hang_s=10")
    ),
    "memory": Fault(
        "a clip that takes memory until its worker is ended", _end_the_exhausted, (3,), poison="memory", sets=POISONED
    ),
}  # fmt: skip
