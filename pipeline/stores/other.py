"""Every other store that fsspec opens."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, cast

import fsspec

from pipeline.faults import NoConditionalPut, ShortRead
from pipeline.stores.base import ObjectInfo, Unfinished


class FsspecStore:
    """memory://, gs://, az://, http(s)://, hf://, …: as fsspec's own implementations have it."""

    def __init__(self, protocol: str) -> None:
        self._fs: Any = fsspec.filesystem(protocol, skip_instance_cache=protocol != "memory")
        self._protocol = protocol
        self._creating = threading.Lock()

    def _uri(self, path: str) -> str:
        return path if "://" in path else f"{self._protocol}://{path.lstrip('/')}"

    def _info(self, details: dict[str, Any]) -> ObjectInfo:
        keys = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "mtime", "updated", "created")
        mark = next((str(details[key]).strip('"') for key in keys if details.get(key)), "")
        size = -1 if details.get("size") is None else int(details["size"])
        dates = ("LastModified", "last_modified", "updated", "mtime", "created")
        dated = next((details[key] for key in dates if isinstance(details.get(key), (datetime, int, float))), None)
        modified = dated.timestamp() if isinstance(dated, datetime) else dated
        return ObjectInfo(self._uri(details["name"]), size, mark or str(size), modified)

    def info(self, uri: str) -> ObjectInfo:
        details = self._fs.info(uri)
        if details.get("type") == "directory":
            raise FileNotFoundError(errno.ENOENT, "is a folder, not an object")
        found = self._info(details)
        return ObjectInfo(uri, found.size, found.version, found.modified)

    def is_folder(self, uri: str) -> bool:
        try:
            return bool(self._fs.isdir(uri))
        except NotImplementedError:
            return False

    def read(self, uri: str, start: int, end: int | None, version: str | None) -> bytes:
        whole = not start and end is None
        data = cast(bytes, self._fs.cat_file(uri) if whole else self._fs.cat_file(uri, start=start, end=end))
        if end is not None and len(data) > end - start:
            data = data[start:end]  # a server that ignores ranges sends everything
        if end is not None and len(data) < end - start:
            raise ShortRead(f"{len(data)} of {end - start} bytes arrived")
        return data

    def page(self, uri: str, stem: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        self._fs.invalidate_cache()
        found = [self._info(item) for item in self._fs.find(uri, detail=True).values()]
        start = f"{uri.rstrip('/')}/{stem}"
        return sorted((i for i in found if i.uri.startswith(start)), key=lambda i: i.uri.encode()), None

    def put(self, uri: str, data: bytes) -> None:
        self._make_folder(uri)
        self._fs.pipe_file(uri, data)

    def create(self, uri: str, data: bytes) -> None:
        self._make_folder(uri)
        try:
            with self._creating:  # the memory store checks and writes in two steps
                self._fs.pipe_file(uri, data, mode="create")
        except (ValueError, TypeError, NotImplementedError) as error:
            raise NoConditionalPut(str(error)) from None

    def _make_folder(self, uri: str) -> None:
        if self._protocol in ("memory", "sftp", "ssh", "smb", "hdfs", "ftp"):
            self._fs.makedirs(uri.rpartition("/")[0], exist_ok=True)

    def delete(self, uris: list[str]) -> None:
        for uri in uris:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(uri)

    def clock(self, uri: str) -> float:
        return time.time()

    def unfinished(self, uri: str) -> Iterator[Unfinished]:
        yield from ()

    def discard(self, item: Unfinished) -> None:
        raise NotImplementedError
