"""How a job's process ends: its exit code, and one clear message where it failed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray

from pipeline.errors import MotionmillError, UsageError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_QUARANTINED = 0, 1, 2, 3

_INTERRUPTED = "interrupted: nothing is lost; run the same command again to go on"
_GO_ON = "nothing that is committed is lost; run the same command again to go on"


def guarded(job: Callable[[], int], show: Callable[[str], None]) -> int:
    """Runs a job; its errors become one clear message and an exit code."""
    try:
        with _interrupts_remembered(lambda: show(_INTERRUPTED)):
            return job()
    except ray.exceptions.RayTaskError as error:
        show(f"the run failed: {error.cause}\n{_GO_ON}")
        return EXIT_FAILED
    except UsageError as error:
        show(f"error: {error}")
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_FAILED
    except (MotionmillError, ray.exceptions.RayError) as error:
        show(f"the run failed: {error}\n{_GO_ON}")
        return EXIT_FAILED


_interrupted = threading.Event()


def raise_if_interrupted() -> None:
    """Raises KeyboardInterrupt if there was one in this job: Python drops one that comes in a destructor or a callback,
    of which Ray's driver runs many."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


@contextmanager
def _interrupts_remembered(tell: Callable[[], None]) -> Iterator[None]:
    """Tells at once: until the job has cleaned up, Ray's processes, interrupted too, may have taken this one down."""
    before = signal.getsignal(signal.SIGINT)
    # Elsewhere it may be ignored (nohup), or somebody else's.
    ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    told = False

    def remember(_signal: int, _frame: Any) -> None:
        nonlocal told
        _interrupted.set()
        if not told:
            with suppress(RuntimeError):  # in the middle of another line to the same stream: then later
                tell()
                told = True
        raise KeyboardInterrupt

    if ours:
        signal.signal(signal.SIGINT, remember)
    try:
        yield
    except KeyboardInterrupt:
        if not told:
            tell()
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)
            _interrupted.clear()
