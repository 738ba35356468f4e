"""Ends a worker that makes no progress: Ray Data has no time-out of its own.

The watching thread names the stage that hung, then ends the process. Where a native call holds the interpreter's lock
and no Python thread can run, faulthandler's C thread ends it a little later.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_CODE = 70
_BACKSTOP_S = 30.0


class Watchdog:
    """Guards one piece of work at a time. `limit_s`: seconds without a sign of life."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._stage = ""
        self._last = 0.0
        self._armed = 0.0
        self._guarding = False

    def beat(self, stage: str) -> None:
        """A sign of life."""
        self._stage = stage
        self._last = time.monotonic()
        if self._guarding and self._last - self._armed > 1:
            self._arm()

    @contextmanager
    def guard(self, on_hang: Callable[[str], None]) -> Iterator[None]:
        """Ends the process when `beat` is not called for `limit_s`; `on_hang(reason)` may leave a note first."""
        done = threading.Event()
        self.beat("start")
        self._arm()
        self._guarding = True
        thread = threading.Thread(target=self._watch, args=(done, on_hang), name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._guarding = False
            done.set()
            faulthandler.cancel_dump_traceback_later()
            thread.join()

    def _arm(self) -> None:
        self._armed = time.monotonic()
        # Ray replaces sys.stderr in workers; file descriptor 2 is always real.
        faulthandler.dump_traceback_later(self._limit_s + _BACKSTOP_S, exit=True, file=2)

    def _watch(self, done: threading.Event, on_hang: Callable[[str], None]) -> None:
        while not done.wait(min(1.0, self._limit_s / 4)):
            idle = time.monotonic() - self._last
            if idle > self._limit_s:
                reason = (
                    f"hung: no progress for {idle:.0f} s after stage '{self._stage}' (retry.hang_s={self._limit_s:g})"
                )
                print(f"motionmill: worker {os.getpid()} {reason}; ending it", file=sys.stderr, flush=True)
                try:
                    on_hang(reason)
                finally:
                    os._exit(EXIT_CODE)
