"""What an error during a try means: the video's own fault, a defect, or a machine on which no video would succeed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pipeline.config import InterpolateConfig, load
from pipeline.errors import EncodeError, StorageError
from pipeline.run.watchdog import Watchdog
from pipeline.run.worker import RunContext, attempt
from pipeline.storage import Storage
from pipeline.tasks.interpolate import InterpolateTask


def _context(folder: Path) -> RunContext:
    config = load(InterpolateConfig, None, ["model=blend", f"resources.scratch={folder / 'scratch'}"])
    return RunContext(InterpolateTask(config), Storage(config.retry), str(folder / "out"), "session", "fingerprint")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_stops_the_run_and_puts_nothing_into_quarantine(tmp_path: Path, number: int) -> None:
    tries: list[int] = []

    def work(try_: int) -> None:
        tries.append(try_)
        try:
            raise OSError(number, "No space left on device", "/x/segment.mp4")
        except OSError as error:
            raise ValueError("the table cannot be written") from error

    with pytest.raises(StorageError, match=r"no room for temporary files in .*scratch.*resources\.scratch"):
        attempt(_context(tmp_path), Watchdog(60), "video", "clip", work)
    assert tries == [1]


def test_other_errors_are_tried_again_and_then_recorded(tmp_path: Path) -> None:
    tries: list[int] = []

    def work(try_: int) -> None:
        tries.append(try_)
        raise OSError(errno.EIO, "Input/output error")

    result, failure = attempt(_context(tmp_path), Watchdog(60), "video", "clip", work)
    assert result is None
    assert failure is not None
    assert (failure.error_type, failure.attempts, tries) == ("OSError", 3, [1, 2, 3])


def test_a_video_s_own_fault_is_final_at_once(tmp_path: Path) -> None:
    def work(_: int) -> None:
        raise EncodeError("a value that is not finite")

    result, failure = attempt(_context(tmp_path), Watchdog(60), "video", "clip", work)
    assert result is None
    assert failure is not None
    assert (failure.error_type, failure.stage, failure.attempts) == ("EncodeError", "encode", 1)
