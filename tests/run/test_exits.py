"""How a job's process ends."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from pipeline.run import exits


def test_an_interrupt_that_somebody_swallowed_still_ends_the_job() -> None:
    shown: list[str] = []
    after = []

    def job() -> int:
        with suppress(KeyboardInterrupt):  # as in a destructor
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        assert len(shown) == 1, "at once, not when all is cleaned up"
        exits.raise_if_interrupted()
        after.append("work that should not be done")
        return exits.EXIT_OK

    handler = signal.getsignal(signal.SIGINT)
    assert exits.guarded(job, shown.append) == exits.EXIT_FAILED
    assert after == []
    assert len(shown) == 1
    assert "run the same command again" in shown[0]
    assert signal.getsignal(signal.SIGINT) is handler
    assert exits.guarded(lambda: exits.raise_if_interrupted() or 0, shown.append) == exits.EXIT_OK, "it is forgotten"


def test_an_ignored_interrupt_stays_ignored() -> None:
    """As under nohup."""

    def job() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        exits.raise_if_interrupted()
        return exits.EXIT_OK

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert exits.guarded(job, print) == exits.EXIT_OK
    finally:
        signal.signal(signal.SIGINT, before)
