"""Folders for temporary files, one a try; each is locked while its process lives, which tells a killed one's apart."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.stores.local import claimed


def _prefix() -> str:
    """With the machine's name: where machines share a folder, a lock may be seen by one of them only."""
    return f"motionmill-work-{re.sub(r'[^A-Za-z0-9.]', '_', socket.gethostname())}-"


@contextmanager
def folder(parent: str) -> Iterator[Path]:
    """A new folder in `parent` (empty: the system's for temporary files); gone afterwards, with all that is in it."""
    while True:
        path = tempfile.mkdtemp(prefix=_prefix(), dir=parent or None)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # swept in the moment before it was locked
        try:
            if not claimed(descriptor, path):
                continue
            try:
                yield Path(path)
            finally:
                shutil.rmtree(path, ignore_errors=True)
            return
        finally:
            os.close(descriptor)


def sweep(parent: str) -> int:
    """Deletes folders that killed processes of this user left on this machine; returns how many.

    What a living process holds stays, and so does everything on a file system that cannot lock.
    """
    swept = 0
    for path in Path(parent or tempfile.gettempdir()).glob(f"{_prefix()}*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
                swept += 1
        except OSError:
            continue  # held
        finally:
            os.close(descriptor)
    return swept
