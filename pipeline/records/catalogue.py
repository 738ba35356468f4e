"""A copy of many video commits in one object, so that a night's run need not read those of all nights before.

It is a shortcut, and nothing rests on it: the listing of the commits says which there are, and a copy counts only where
its MD5 is the etag that the listing gives. A commit that is new, was replaced, or whose copy is damaged is read for
itself, and one that is gone is not found here either. So a catalogue may be old, missing or cut short, and a run may be
killed at any moment. Stores whose versions are no MD5 (local disks, S3 with KMS) get none: all commits are read.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ObjectNotFound, StorageError
from pipeline.layout import SCHEMA_VERSION, Layout
from pipeline.storage import ObjectInfo, Storage, ordered

WORTH = 1000
"""Commits that are not in it from which it is made anew; where there are fewer in all, it is not looked for."""
ROWS = 2000
"""Of a row group: what reading takes at once."""
BLOCK = 1 << 20
_UNREADABLE = (StorageError, OSError, ValueError, KeyError, pa.ArrowException)
SCHEMA = pa.schema(
    [pa.field("name", pa.string(), nullable=False), pa.field("commit", pa.binary(), nullable=False)],
    metadata={"schema": "motionmill.catalogue", "schema_version": str(SCHEMA_VERSION)},
)


def video_commits(
    storage: Storage, layout: Layout, *, missing_ok: bool = False, renew: bool = False
) -> Iterator[tuple[str, bytes]]:
    """(URI, bytes) of every video commit, by URI. `renew`: makes the catalogue anew at the end, if it is worth it.

    `missing_ok`: those that are deleted meanwhile are left out; else ObjectNotFound.
    """
    listing = storage.list(layout.video_commits)
    first = list(islice(listing, WORTH))
    if len(first) < WORTH:
        yield from storage.read_many((info.uri for info in first), missing_ok=missing_ok)
        return
    found = ordered(partial(_whole, storage, missing_ok), _matched(chain(first, listing), _copies(storage, layout)))
    copy = _Copy() if renew else None
    for info, data, known in found:
        if data is not None:
            if copy is not None:
                copy.add(info, data, known)
            yield info.uri, data
    if copy is not None:
        copy.publish(storage, layout)


def _whole(
    storage: Storage, missing_ok: bool, pair: tuple[ObjectInfo, bytes | None]
) -> tuple[ObjectInfo, bytes | None, bool]:
    """(commit, its bytes; None if it is gone, whether the catalogue had them)."""
    info, data = pair
    if data is not None:
        return info, data, True
    try:
        return info, storage.read_bytes(info.uri), False
    except ObjectNotFound:
        if missing_ok:
            return info, None, False
        raise


def _matched(
    listing: Iterable[ObjectInfo], copies: Iterator[tuple[str, bytes]]
) -> Iterator[tuple[ObjectInfo, bytes | None]]:
    """Each listed commit with its copy, if there is one that is still true; both come in order of their names."""
    name, data = next(copies, ("", b""))
    for info in listing:
        wanted = _name(info)
        while name and name < wanted:
            name, data = next(copies, ("", b""))
        yield info, data if name == wanted and _is(info, data) else None


def _copies(storage: Storage, layout: Layout) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the catalogue's copies. It ends where the catalogue cannot be read."""
    with suppress(*_UNREADABLE), storage.open(layout.catalogue, block=BLOCK) as file:
        for batch in pq.ParquetFile(file).iter_batches(ROWS, columns=SCHEMA.names):
            columns = batch.to_pydict()
            yield from zip(columns["name"], columns["commit"], strict=True)


class _Copy:
    """A new catalogue, compressed in memory: some 250 bytes a video."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._writer = pq.ParquetWriter(self._file, SCHEMA, compression="zstd")
        self._names: list[str] = []
        self._commits: list[bytes] = []
        self._fresh = 0

    def add(self, info: ObjectInfo, data: bytes, known: bool) -> None:
        if not (known or _is(info, data)):
            return
        self._fresh += not known
        self._names.append(_name(info))
        self._commits.append(data)
        if len(self._names) >= ROWS:
            self._flush()

    def publish(self, storage: Storage, layout: Layout) -> None:
        """Puts it in the place of the old one, if it has enough that the old one lacks."""
        if self._fresh < WORTH:
            return
        self._flush()
        self._writer.close()
        with suppress(StorageError):
            storage.put(layout.catalogue, self._file.getvalue())

    def _flush(self) -> None:
        if self._names:
            self._writer.write_table(pa.table({"name": self._names, "commit": self._commits}, schema=SCHEMA))
            self._names, self._commits = [], []


def _name(info: ObjectInfo) -> str:
    return info.uri.rpartition("/")[2]


def _is(info: ObjectInfo, data: bytes) -> bool:
    """Whether these are the bytes of the listed version."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == info.version
