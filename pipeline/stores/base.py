"""What a store of objects can do, and what it says of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: where, how many bytes, and which version (an etag, or "size-mtime" where a store has none)."""

    uri: str
    size: int
    version: str
    modified: float | None = field(default=None, compare=False)
    """Seconds since the epoch, by the store's clock; None where it does not say."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A write that was begun and not ended: a half-written file, or a multipart upload."""

    uri: str
    """What it was to become; on local disks, the half-written file itself."""
    size: int
    began: float
    upload: str = ""
    """S3's id of it."""


class Store(Protocol):
    def info(self, uri: str) -> ObjectInfo: ...
    def is_folder(self, uri: str) -> bool: ...
    def read(self, uri: str, start: int, end: int | None, version: str | None) -> bytes: ...
    def page(self, uri: str, stem: str, token: str | None) -> tuple[list[ObjectInfo], str | None]: ...
    def put(self, uri: str, data: bytes) -> None: ...
    def create(self, uri: str, data: bytes) -> None: ...
    def delete(self, uris: list[str]) -> None: ...

    def clock(self, uri: str) -> float:
        """Seconds since the epoch, by the clock that dates the objects."""
        ...

    def unfinished(self, uri: str) -> Iterator[Unfinished]:
        """Writes below a folder that no living process is known to be at."""
        ...

    def discard(self, item: Unfinished) -> None: ...


def scheme(uri: str) -> str:
    """ "s3" of "s3://…"; "file" for a path."""
    head, separator, _ = uri.partition("://")
    return head.lower() if separator and head.replace("+", "").replace("-", "").replace(".", "").isalnum() else "file"


def local_path(uri: str) -> str:
    """The absolute path that a path or a file:// URL names."""
    return os.path.abspath(uri[7:] if uri[:7].lower() == "file://" else uri)
