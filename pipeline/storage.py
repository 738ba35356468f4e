"""Objects in any store: opened, read by ranges, listed, put whole or not at all, created exclusively; all retried.

`Storage` travels to Ray workers as its retry configuration alone; connections are made in each process when first used.
Transient failures (5xx, throttling, resets, timeouts, bodies cut short) are tried again with exponential backoff and
jitter, and counted; 403, 404 and 412 are answers, not failures. Every error names the object, with secrets masked.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar, cast

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from pipeline.config import RetryConfig
from pipeline.errors import AlreadyExists, ConfigError, MotionmillError, ObjectNotFound, StorageError
from pipeline.faults import redact, scrub, transient, translated
from pipeline.ranged import READAHEAD, RangedFile
from pipeline.stores import LocalStore, ObjectInfo, S3Store, Store, Unfinished, connect, local_path, part_size, scheme

__all__ = ["ObjectInfo", "Storage", "Unfinished", "absolute", "join", "ordered", "redact", "scrub", "transient"]


FETCHED = 8 << 20
"""Bytes that a download takes at once."""


def absolute(uri: str) -> str:
    """The form that means the same in every process: local paths made absolute, no trailing slash."""
    if scheme(uri) == "file":
        return local_path(uri)
    return uri.rstrip("/") if uri.partition("://")[2].strip("/") else uri


def join(prefix: str, *parts: str) -> str:
    return "/".join([prefix.rstrip("/") or "", *parts])


class Storage:
    """Reads and writes objects by URI: a local path, file://, s3://, memory://, or any other fsspec URL.

    Credentials, endpoint and region come from the usual environment, profile and configuration only.
    """

    def __init__(self, retry: RetryConfig | None = None) -> None:
        self._retry = retry or RetryConfig()
        self._setup()

    def _setup(self) -> None:
        self._stores: dict[str, Store] = {}
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._retries = 0

    def __getstate__(self) -> RetryConfig:
        return self._retry

    def __setstate__(self, retry: RetryConfig) -> None:
        self._retry = retry
        self._setup()

    @property
    def retries(self) -> int:
        """Calls tried again by this object in this process."""
        return self._retries

    # ---- reading

    def open(self, uri: str, /, *, block: int = READAHEAD) -> BinaryIO:
        """A seekable binary file of the object as it is now; a later change of it is a StorageError, never a mixture.

        `block`: bytes fetched after a seek; sequential reads double it up to 4 MiB.
        """
        if scheme(uri) == "file":
            return cast(BinaryIO, self._do(uri, "open", lambda: open(local_path(uri), "rb")))
        info = self.info(uri)

        def read(start: int, end: int) -> bytes:
            return self.read_range(uri, start, end, version=info.version)

        return cast(BinaryIO, io.BufferedReader(RangedFile(read, info, block), min(block, 64 << 10)))

    def read_range(self, uri: str, start: int, end: int, *, version: str | None = None) -> bytes:
        """Bytes [start, end), all of them; of `version` only, if given and if the store can tell."""
        if end <= start:
            return b""
        return self._do(uri, "read", lambda: self._store(uri).read(uri, start, end, version))

    def read_bytes(self, uri: str) -> bytes:
        return self._do(uri, "read", lambda: self._store(uri).read(uri, 0, None, None))

    def read_json(self, uri: str) -> Any:
        data = self.read_bytes(uri)
        try:
            return json.loads(data)
        except ValueError as error:
            raise StorageError(f"{redact(uri)}: not JSON ({error}; {len(data)} bytes); restore or delete it") from None

    def read_many(self, uris: Iterable[str], *, missing_ok: bool = False) -> Iterator[tuple[str, bytes]]:
        """Whole objects, fetched 16 at a time, in the order given; those that are gone are left out if `missing_ok`."""

        def read(uri: str) -> tuple[str, bytes] | None:
            try:
                return uri, self.read_bytes(uri)
            except ObjectNotFound:
                if missing_ok:
                    return None
                raise

        return (found for found in ordered(read, uris) if found is not None)

    def get_file(self, uri: str, local: str | os.PathLike[str]) -> ObjectInfo:
        """Downloads to a local file, which appears complete or not at all."""
        info = self.info(uri)
        target = os.fspath(local)
        temporary = f"{target}.{uuid.uuid4().hex}.part"
        try:
            with open(temporary, "xb") as file:
                for start in range(0, info.size, FETCHED):
                    end = min(start + FETCHED, info.size)
                    file.write(self.read_range(info.uri, start, end, version=info.version))
            os.replace(temporary, target)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)
        return info

    def info(self, uri: str) -> ObjectInfo:
        """Size and version. ObjectNotFound if there is no such object (a folder is none)."""
        return self._do(uri, "look-up", lambda: self._store(uri).info(uri))

    def exists(self, uri: str) -> bool:
        try:
            self.info(uri)
        except ObjectNotFound:
            return False
        return True

    def is_folder(self, uri: str) -> bool:
        """Whether it is a folder, or a prefix with at least one object below it."""
        try:
            return self._do(uri, "look-up", lambda: self._store(uri).is_folder(uri))
        except ObjectNotFound:
            return False

    def list(self, prefix: str, stem: str = "") -> Iterator[ObjectInfo]:
        """Every object below the folder `prefix` (whose path goes on with `stem`), recursively, in byte order of paths.

        Streamed: a page at a time from S3.
        """
        store = self._store(prefix)
        if isinstance(store, LocalStore):
            yield from store.walk(local_path(prefix), stem)
            return
        token: str | None = None
        while True:
            try:
                found, token = self._do(prefix, "list", lambda token=token: store.page(prefix, stem, token))  # type: ignore[misc]
            except ObjectNotFound:
                return
            yield from found
            if token is None:
                return

    # ---- writing

    def put(self, uri: str, data: bytes) -> None:
        """Writes or replaces the whole object atomically."""
        self._do(uri, "write", lambda: self._store(uri).put(uri, data))

    def put_file(self, local: str | os.PathLike[str], uri: str) -> ObjectInfo:
        """Uploads a local file atomically, in parts if it is large, and checks the size that arrived."""
        path, store = os.fspath(local), self._store(uri)
        size = os.stat(path).st_size
        if isinstance(store, LocalStore):
            self._do(uri, "write", lambda: store.put_file(path, uri))
        elif isinstance(store, S3Store) and size > 2 * part_size(size):
            self._put_parts(store, path, size, uri)
        else:
            with open(path, "rb") as file:
                self.put(uri, file.read())
        info = self.info(uri)
        if info.size not in (size, -1):
            raise StorageError(f"{redact(uri)}: holds {info.size} bytes after {size} were written; write it again")
        return info

    def _put_parts(self, store: S3Store, path: str, size: int, uri: str) -> None:
        step = part_size(size)
        upload = self._do(uri, "write", lambda: store.start_upload(uri))

        def put_part(number: int) -> str:
            with open(path, "rb") as file:
                file.seek((number - 1) * step)
                data = file.read(step)
            return self._do(uri, "write", lambda: store.put_part(uri, upload, number, data))

        try:
            etags = list(ordered(put_part, range(1, -(-size // step) + 1), workers=4))
            try:
                self._do(uri, "write", lambda: store.finish_upload(uri, upload, etags))
            except ObjectNotFound:
                # The upload is gone: its completion was carried out and the acknowledgement lost, or it was aborted.
                info = self.info(uri)
                if info.size != size or not info.version.endswith(f"-{len(etags)}"):
                    raise StorageError(f"{redact(uri)}: the upload was lost at its end; run again") from None
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                store.abort_upload(uri, upload)
            raise

    def put_if_absent(self, uri: str, data: bytes) -> None:
        """Creates the object, never replacing one: AlreadyExists.

        After a lost acknowledgement the object that is found may be one's own: see `put_if_absent_or_same`.
        """
        self._do(uri, "create", lambda: self._store(uri).create(uri, data))

    def put_if_absent_or_same(self, uri: str, data: bytes) -> bool:
        """Creates the object; True if it now holds exactly `data`, False if it holds another's bytes.

        `data` must hold something unique to its writer (an attempt id), so that the same bytes mean one's own success.
        """
        try:
            self.put_if_absent(uri, data)
        except AlreadyExists:
            return self.read_bytes(uri) == data
        return True

    def delete(self, uri: str) -> None:
        """Deletes the object; nothing happens if there is none."""
        self.delete_many([uri])

    def delete_many(self, uris: Iterable[str]) -> None:
        """Deletes up to 1000 objects a request; all must be in one store and bucket."""
        batch: list[str] = []

        def flush() -> None:
            if batch:
                self._do(batch[0], "delete", lambda: self._store(batch[0]).delete(batch))
                batch.clear()

        for uri in uris:
            batch.append(uri)
            if len(batch) == 1000:
                flush()
        flush()

    def sweep(self, prefix: str) -> None:
        """Deletes what writers that were killed left half-written below the folder `prefix`.

        Local disks only: elsewhere a put is no object before it is whole.
        """
        store = self._store(prefix)
        if isinstance(store, LocalStore):
            store.sweep(prefix)

    def clock(self, prefix: str) -> float:
        """Seconds since the epoch, by the clock that dates the objects below `prefix`."""
        return self._do(prefix, "look-up", lambda: self._store(prefix).clock(prefix))

    def unfinished(self, prefix: str) -> tuple[Unfinished, ...]:
        """Writes below the folder `prefix` that were begun and not ended, and that no process on this machine is at."""
        return self._do(prefix, "list", lambda: tuple(self._store(prefix).unfinished(prefix)))

    def discard(self, item: Unfinished) -> None:
        """Deletes what such a write has left; nothing happens if it is gone."""
        with contextlib.suppress(ObjectNotFound):
            self._do(item.uri, "delete", lambda: self._store(item.uri).discard(item))

    def check_writable(self, prefix: str) -> None:
        """Proves that the prefix can be written, created in exclusively, read and deleted; or raises a UsageError."""
        if scheme(prefix) in ("s3", "s3a"):
            self.is_folder(prefix)  # a missing bucket: some servers would create it at the first put
        uri = join(prefix, "_motionmill", f"probe-{uuid.uuid4().hex}")
        data = uuid.uuid4().bytes
        if not self.put_if_absent_or_same(uri, data):
            raise StorageError(f"{redact(uri)}: a new object holds other bytes than were written")
        try:
            self.put_if_absent(uri, data)
        except AlreadyExists:
            pass
        else:
            raise ConfigError(
                f"{redact(prefix)}: {scheme(prefix)}:// replaced an object that was to be created only if absent, so "
                "two workers could both commit a clip; write to a local folder or to s3://"
            )
        finally:
            self.delete(uri)

    # ---- the machinery

    def _store(self, uri: str) -> Store:
        protocol = scheme(uri)
        if self._pid != os.getpid():  # forked: sockets and locks of the parent are not ours
            self._setup()
        with self._lock:
            if protocol not in self._stores:
                try:
                    self._stores[protocol] = connect(protocol)
                except (ImportError, ValueError) as error:
                    raise ConfigError(
                        f"{redact(uri)}: no store for {protocol}:// ({scrub(str(error))}); install its fsspec package"
                    ) from None
            return self._stores[protocol]

    def _do(self, uri: str, doing: str, call: Callable[[], T]) -> T:
        try:
            return Retrying(
                stop=stop_after_attempt(self._retry.storage_attempts),
                wait=self._wait,
                retry=retry_if_exception(transient),
                before_sleep=self._count,
                reraise=True,
            )(call)
        except MotionmillError:
            raise
        except Exception as error:
            # Without its chain, which may quote a presigned URL.
            raise translated(error, uri, doing, self._retry.storage_attempts) from None

    def _wait(self, state: RetryCallState) -> float:
        longest = min(0.2 * 2.0 ** (state.attempt_number - 1), self._retry.storage_max_wait_s)
        return random.uniform(longest / 2, longest)

    def _count(self, _state: RetryCallState) -> None:
        with self._lock:
            self._retries += 1


A = TypeVar("A")
T = TypeVar("T")


def ordered(function: Callable[[A], T], items: Iterable[A], workers: int = 16) -> Iterator[T]:
    """`map` over threads, in order, with a bounded number of items under way: for calls that wait on the network."""
    with ThreadPoolExecutor(workers, thread_name_prefix="storage") as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
