"""Temporary folders: gone after use, and after a kill by the next process; never a living one's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.run import scratch

_HOLD = """
import sys
from pipeline.run import scratch
with scratch.folder(sys.argv[1]) as folder:
    (folder / "clip.mp4").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    sys.stdin.read()
"""


def _holder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_killed_process_s_folder_is_swept_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    process, path = _holder(tmp_path)
    try:
        with scratch.folder(str(tmp_path)) as mine:
            assert path.parent == mine.parent == tmp_path
            assert scratch.sweep(str(tmp_path)) == 0
            assert path.is_dir()
            assert mine.is_dir()
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            assert path.is_dir(), "killed: nobody was left to delete it"
            assert scratch.sweep(str(tmp_path)) == 1
            assert not path.exists()
            assert mine.is_dir()
        assert not mine.exists()
    finally:
        process.kill()
        process.wait(30)
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def test_links_other_machines_folders_and_other_names_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "precious").mkdir()
    monkeypatch.setattr("socket.gethostname", lambda: "other")
    with scratch.folder(str(tmp_path)) as theirs:
        kept = theirs.with_name(theirs.name + "-killed")
        kept.mkdir()
    monkeypatch.undo()
    with scratch.folder(str(tmp_path)) as mine:
        (tmp_path / f"{mine.name}x").symlink_to(tmp_path / "precious")
        (tmp_path / f"{mine.name}y").write_bytes(b"a file")
    (tmp_path / "motionmill-abcdefgh").mkdir()
    assert scratch.sweep(str(tmp_path)) == 0
    assert kept.is_dir()
    assert (tmp_path / "precious").is_dir()
    assert len(os.listdir(tmp_path)) == 5


def test_a_folder_that_is_swept_before_it_is_locked_is_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = scratch.tempfile.mkdtemp, []

    def swept(*arguments: str, **options: str) -> str:
        made.append(real(*arguments, **options))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", swept)
    with scratch.folder(str(tmp_path)) as mine:
        assert mine.is_dir()
        assert str(mine) == made[1]


def test_an_error_within_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), scratch.folder(str(tmp_path)):
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []
