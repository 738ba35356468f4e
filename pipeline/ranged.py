"""An object as a seekable file, over ranged reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from pipeline.faults import redact
from pipeline.stores import ObjectInfo

READAHEAD = 256 << 10
"""Bytes of the first read after a seek: a clip's packets and little else (RAY.md, PyAV: range reads)."""
READAHEAD_MAX = 4 << 20
"""Bytes that sequential reading doubles up to, so that latency does not bound a long read."""

RangedReader = Callable[[int, int], bytes]
"""(start, end) → all of these bytes."""


class Seekable(io.RawIOBase):
    """A read-only file of a known size: where reading goes on. What is read there, and how, is the subclass's."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.name = name
        """For messages: without secrets."""
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence] + offset
        if place < 0:
            raise OSError(f"{self.name}: seek to {place}, before its first byte")
        self._place = place
        return place


class RangedFile(Seekable):
    """One version of an object as a seekable file: fetched in blocks that double while reading goes on in sequence."""

    def __init__(self, read: RangedReader, info: ObjectInfo, block: int) -> None:
        super().__init__(redact(info.uri), info.size)
        self._read, self._first, self._block = read, block, block
        self._start, self._data = 0, b""
        self._old: tuple[int, bytes] = (0, b"")  # interleaved audio and video jump back and forth

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._place)
        if wanted <= 0:
            return 0
        if not self._start <= self._place < self._start + len(self._data):
            old_start, old = self._old
            if old_start <= self._place < old_start + len(old):
                self._old, self._start, self._data = (self._start, self._data), old_start, old
            else:
                self._fetch(wanted)
        at = self._place - self._start
        piece = self._data[at : at + wanted]
        buffer[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)

    def _fetch(self, wanted: int) -> None:
        sequential = self._data and self._place == self._start + len(self._data)
        self._block = min(self._block * 2, READAHEAD_MAX) if sequential else self._first
        end = min(self._place + max(wanted, self._block), self._size)
        data = self._read(self._place, end)
        self._old, self._start, self._data = (self._start, self._data), self._place, data
