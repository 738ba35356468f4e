"""Local disks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.faults import Changed, NoConditionalPut
from pipeline.stores.base import ObjectInfo, Unfinished, local_path


class LocalStore:
    """Files: written to a hidden neighbour, synced, then renamed (or linked, which never replaces).

    A writer that is killed leaves its neighbour behind. It is locked while its writer lives, so that `sweep` can tell.
    """

    def info(self, uri: str) -> ObjectInfo:
        path = local_path(uri)
        status = os.stat(path)
        if os.path.isdir(path):
            raise FileNotFoundError(errno.ENOENT, "is a folder, not a file", path)
        return ObjectInfo(path, status.st_size, f"{status.st_size}-{status.st_mtime_ns}", status.st_mtime)

    def is_folder(self, uri: str) -> bool:
        return os.path.isdir(local_path(uri))

    def read(self, uri: str, start: int, end: int | None, version: str | None) -> bytes:
        with open(local_path(uri), "rb") as file:
            file.seek(start)
            data = file.read(-1 if end is None else end - start)
        if end is not None and len(data) < end - start:
            raise Changed(f"holds {start + len(data)} bytes where {end} were expected")
        return data

    def page(self, uri: str, stem: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        return list(self.walk(local_path(uri), stem)), None

    def walk(self, folder: str, stem: str = "") -> Iterator[ObjectInfo]:
        """Files below `folder` in the byte order of their paths, as S3 lists keys. Links are followed, loops not."""
        for path in _paths(folder, stem):
            if not _is_temporary(path) and os.path.isfile(path):
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    yield self.info(path)

    def sweep(self, uri: str) -> None:
        """Deletes what killed writers left half-written below the folder; what a living one is writing stays."""
        for item in self.unfinished(uri):
            self.discard(item)

    def clock(self, uri: str) -> float:
        folder = local_path(uri)
        try:
            with tempfile.TemporaryFile(dir=folder) as file:  # a file server has a clock of its own
                return os.fstat(file.fileno()).st_mtime
        except OSError:
            return time.time()

    def unfinished(self, uri: str) -> Iterator[Unfinished]:
        for path in _paths(local_path(uri)):
            if not _is_temporary(path):
                continue
            try:
                with open(path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    status = os.fstat(file.fileno())
            except OSError:
                continue  # being written, renamed, swept, or not ours
            yield Unfinished(path, status.st_size, status.st_mtime)

    def discard(self, item: Unfinished) -> None:
        with contextlib.suppress(OSError), open(item.uri, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(item.uri)

    def put(self, uri: str, data: bytes) -> None:
        path = local_path(uri)
        with _temporary(path) as (temporary, file):
            file.write(data)
            _sync(file)
            os.replace(temporary, path)
        _sync_folder(path)

    def put_file(self, source: str, uri: str) -> None:
        path = local_path(uri)
        with _temporary(path) as (temporary, file):
            with open(source, "rb") as reader:
                while chunk := reader.read(4 << 20):
                    file.write(chunk)
            _sync(file)
            os.replace(temporary, path)
        _sync_folder(path)

    def create(self, uri: str, data: bytes) -> None:
        path = local_path(uri)
        with _temporary(path) as (temporary, file):
            file.write(data)
            _sync(file)
            try:
                os.link(temporary, path)  # exclusive, and the content appears with the name
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                    raise NoConditionalPut("this file system has no hard links") from None
                raise
        _sync_folder(path)

    def delete(self, uris: list[str]) -> None:
        for uri in uris:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(local_path(uri))


def _paths(folder: str, stem: str = "", above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Every path below `folder` that is no folder, in byte order."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries if entry.name.startswith(stem)]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, is_dir in sorted(found, key=lambda item: os.fsencode(item[0] + "/" * item[1])):
        path = os.path.join(folder, name)
        if is_dir:
            yield from _paths(path, "", above | {real})
        else:
            yield path


def _is_temporary(path: str) -> bool:
    name = os.path.basename(path)
    return name.startswith(".") and name.endswith(".part")


@contextlib.contextmanager
def _temporary(path: str) -> Iterator[tuple[str, BinaryIO]]:
    """A new hidden neighbour of `path`, open and locked; gone afterwards."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    while True:
        temporary = os.path.join(folder, f".{uuid.uuid4().hex}.part")
        with open(temporary, "xb") as file:
            try:
                if not claimed(file.fileno(), temporary):
                    continue
                yield temporary, file
                return
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)


def claimed(descriptor: int, path: str) -> bool:
    """Locks what was just made at `path`, until `descriptor` is closed; False where a sweep came first."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False  # being swept
    except OSError:
        pass  # a file system without locks, where sweeps delete nothing
    return os.path.exists(path)  # or swept in the moment before it was locked


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: str) -> None:
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
