"""A worker without a sign of life is ended, with a note of where it hung."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.run import watchdog
from pipeline.run.watchdog import EXIT_CODE, Watchdog

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    head = "import sys, time, ctypes\nfrom pipeline.run import watchdog\nfrom pipeline.run.watchdog import Watchdog\n"
    command = [sys.executable, "-c", head + code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_hang_ends_the_process_with_its_code_after_leaving_a_note(tmp_path: Path) -> None:
    note = tmp_path / "note"
    done = run(
        """
dog = Watchdog(0.5)
with dog.guard(lambda reason: open(sys.argv[1], "w").write(reason)):
    dog.beat("model")
    time.sleep(50)
""",
        str(note),
    )
    assert done.returncode == EXIT_CODE == 70
    assert "after stage 'model'" in note.read_text()
    assert "retry.hang_s=0.5" in note.read_text()
    assert "hung" in done.stderr


def test_the_process_ends_even_when_leaving_the_note_fails() -> None:
    done = run(
        """
def fail(reason): raise OSError("the store is gone")
with Watchdog(0.3).guard(fail):
    time.sleep(50)
"""
    )
    assert done.returncode == EXIT_CODE


@pytest.mark.parametrize(
    "hang",
    [
        "ctypes.PyDLL(None).sleep(50)",  # holds the interpreter's lock: no Python thread can run
        "time.sleep(50)",  # and here the note itself hangs
    ],
)
def test_a_hang_that_stops_the_watching_thread_is_ended_too(hang: str) -> None:
    started = time.monotonic()
    done = run(f"watchdog._BACKSTOP_S = 1.0\nwith Watchdog(0.5).guard(lambda reason: time.sleep(50)):\n    {hang}\n")
    assert done.returncode not in (0, None)
    assert "Timeout" in done.stderr, "with every thread's trace"
    assert time.monotonic() - started < 40


def test_work_that_shows_life_is_left_alone_however_long_it_takes() -> None:
    done = run(
        """
watchdog._BACKSTOP_S = 0.5
dog = Watchdog(1.0)
with dog.guard(lambda reason: None):
    for _ in range(30):
        time.sleep(0.1)
        dog.beat("model")
print("finished")
"""
    )
    assert done.stdout.strip() == "finished", done.stderr
    assert done.returncode == 0


def test_after_the_work_nothing_waits_to_end_the_process() -> None:
    done = run(
        """
watchdog._BACKSTOP_S = 0.2
dog = Watchdog(0.4)
for failing in (False, True):
    try:
        with dog.guard(lambda reason: None):
            if failing: raise ValueError
    except ValueError:
        pass
dog._armed = 0.0
dog.beat("a straggler")
time.sleep(1.5)
print("finished")
"""
    )
    assert done.stdout.strip() == "finished", done.stderr


def test_an_error_of_the_work_passes_through() -> None:
    def work() -> None:
        with Watchdog(60).guard(lambda reason: None):
            raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        work()


def test_the_backstop_leaves_the_watching_thread_time_to_write_its_note() -> None:
    assert watchdog._BACKSTOP_S >= 10
