"""Finds the videos that an input names: files, folders, globs, prefixes, lists, tar shards and Parquet tables.

Streamed, in an order that depends on the input alone. What is named but cannot be used becomes a `DiscoveryFailure`,
which the caller puts into quarantine; an input that names nothing at all is an InputNotFound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fsspec.utils import glob_translate

from pipeline.config import InputConfig
from pipeline.errors import (
    InputNotFound,
    MotionmillError,
    ObjectNotFound,
    StorageError,
    UnreadableVideo,
    UnsupportedVideo,
)
from pipeline.layout import OWN_PREFIXES, sanitise
from pipeline.plan.shards import COMPRESSED_TAR, ParquetTable, read_tar
from pipeline.storage import ObjectInfo, Storage, absolute, ordered, redact
from pipeline.stores import scheme
from pipeline.types import VideoRef


@dataclass(frozen=True, slots=True)
class DiscoveryFailure:
    """Something that the input names and that is no usable video."""

    uri: str
    member: str
    """Member of a shard, row of a table, line of a list; empty for a whole object."""
    error: MotionmillError
    version: str = ""

    def __str__(self) -> str:
        return f"{redact(self.uri)}{'#' if self.member else ''}{self.member}: {self.error}"


Discovered = VideoRef | DiscoveryFailure


def discover(input: str, config: InputConfig, storage: Storage, exclude: str = "") -> Iterator[Discovered]:
    """The videos that `input` names. `exclude`: the run's output prefix, whose files are no input.

    Names are relative to the folder, prefix, glob's fixed part or list, and unique; a video named twice comes once.
    Raises InputNotFound when there is nothing; AccessDenied and BucketNotFound from the store.
    """
    finder = _Finder(config, storage, absolute(exclude) if exclude else "")
    seen: dict[int, int | None] = {}
    anything = False
    for found in finder.expand(absolute(input)):
        anything = True
        if isinstance(found, VideoRef):
            # Hashes, not strings: about a hundred bytes a video, however long its name.
            source = hash((found.uri, found.member))
            first = seen.setdefault(hash(found.name), None)
            if first == source:
                continue
            if first is not None:
                yield DiscoveryFailure(found.uri, found.member, _same_name(found), found.version)
                continue
            seen[hash(found.name)] = source
        yield found
    if not anything:
        raise InputNotFound(
            f"{redact(input)}: no videos here (looked for {', '.join(config.extensions)}, .tar and .parquet); "
            "correct the path, or add suffixes to input.extensions"
        )


def _same_name(video: VideoRef) -> UnsupportedVideo:
    return UnsupportedVideo(
        f"{redact(str(video))}: another video of this input has the name {video.name!r}, and both outputs would meet; "
        "rename one, or run them into different outputs",
        stage="discover",
    )


class _Finder:
    def __init__(self, config: InputConfig, storage: Storage, exclude: str) -> None:
        self._config, self._storage, self._exclude = config, storage, exclude

    # ---- what the user wrote

    def expand(self, place: str) -> Iterator[Discovered]:
        folder, _, name = place.rpartition("/")
        info = self._info(place)
        if info is not None:
            if name.lower().endswith(".txt"):
                yield from self._list_file(info)
                return
            if name.lower().endswith(COMPRESSED_TAR):
                raise InputNotFound(_compressed(place))
            yield from self._object(info, folder, named=True)
        elif self._storage.is_folder(place):
            yield from self._folder(place, place)
        elif re.search(r"[*?\[]", place) and scheme(place) not in ("http", "https"):
            yield from self._glob(place)
        else:
            raise InputNotFound(f"{redact(place)}: not found; give a file, folder, glob, prefix, list, shard or table")

    def _info(self, uri: str) -> ObjectInfo | None:
        try:
            return self._storage.info(uri)
        except ObjectNotFound:
            return None

    def _folder(self, folder: str, base: str) -> Iterator[Discovered]:
        for info in self._storage.list(folder):
            if not self._excluded(info.uri, folder):
                yield from self._object(info, base)

    def _glob(self, pattern: str) -> Iterator[Discovered]:
        fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
        base, _, stem = fixed.rpartition("/")
        # The store lists by "folder, then a stem"; the pattern decides.
        matches = re.compile(glob_translate(pattern)).match
        for info in self._storage.list(base or "/", stem):
            if self._excluded(info.uri, base):
                continue
            if matches(info.uri):
                yield from self._object(info, base)
                continue
            # "day*/" or "day*" may name folders: then everything below them.
            parents = info.uri[len(base) + 1 :].split("/")[:-1]
            paths = (f"{base}/{'/'.join(parents[: depth + 1])}" for depth in range(len(parents)))
            if any(matches(path) for path in paths):
                yield from self._object(info, base)

    def _excluded(self, uri: str, base: str) -> bool:
        if not self._exclude:
            return False
        if self._exclude.rstrip("/") != base.rstrip("/"):
            return uri.startswith(self._exclude.rstrip("/") + "/")
        return uri[len(base.rstrip("/")) + 1 :].startswith(tuple(f"{prefix}/" for prefix in OWN_PREFIXES))

    # ---- objects

    def _object(self, info: ObjectInfo, base: str, named: bool = False) -> Iterator[Discovered]:
        """The videos of one object. One that was `named` counts as a video whatever its suffix."""
        lower = info.uri.lower()
        relative = info.uri[len(base) + 1 :] if info.uri.startswith(f"{base}/") else _outside(info.uri)
        try:
            info.uri.encode()
        except UnicodeEncodeError:
            shown = info.uri.encode("utf-8", "backslashreplace").decode()
            yield DiscoveryFailure(shown, "", UnreadableVideo(f"{shown}: its name is not UTF-8; rename it"))
            return
        if lower.endswith(COMPRESSED_TAR):
            yield DiscoveryFailure(
                info.uri, "", UnsupportedVideo(_compressed(info.uri), stage="discover"), info.version
            )
        elif lower.endswith(".tar"):
            yield from self._tar(info, relative)
        elif lower.endswith((".parquet", ".pq")):
            yield from self._parquet(info, relative, named)
        elif named or lower.endswith(self._config.extensions):
            yield VideoRef(uri=info.uri, version=info.version, name=sanitise(relative), size=info.size)

    def _tar(self, info: ObjectInfo, relative: str) -> Iterator[Discovered]:
        for member in read_tar(self._storage, info, self._config.extensions):
            if member.problem is not None:
                yield DiscoveryFailure(info.uri, member.path, member.problem, info.version)
            else:
                yield VideoRef(
                    uri=info.uri,
                    version=info.version,
                    name=sanitise(f"{relative}/{member.path.removeprefix('./')}"),
                    size=member.size,
                    kind="tar",
                    member=member.path,
                    offset=member.offset,
                )

    def _parquet(self, info: ObjectInfo, relative: str, named: bool) -> Iterator[Discovered]:
        try:
            table = ParquetTable(self._storage, info)
        except UnreadableVideo as error:
            yield DiscoveryFailure(info.uri, "", error, info.version)
            return
        problems: list[UnreadableVideo] = []
        if table.kind == "uri":
            folder = info.uri.rpartition("/")[0]
            rows = ((info.uri, f"row-{number}", cell) for number, cell in _until_damage(table.cells("uri"), problems))
            yield from self._entries(rows, folder)
        elif table.kind == "bytes":
            names = table.cells("name") if table.has_name else ((number, None) for number in range(table.rows))
            for number, name in _until_damage(names, problems):
                path = f"{relative}/row-{number:08d}" + (f"-{name}" if name else "")
                yield VideoRef(info.uri, info.version, sanitise(path), -1, kind="parquet", member=f"row-{number}")
        elif named:
            unusable = UnreadableVideo(
                f"{redact(info.uri)}: has neither a `uri` nor a `bytes` column (found {', '.join(table.columns)}); "
                "rename the column that holds the videos"
            )
            yield DiscoveryFailure(info.uri, "", unusable, info.version)
        yield from (DiscoveryFailure(info.uri, "", problem, info.version) for problem in problems)

    # ---- lists

    def _list_file(self, info: ObjectInfo) -> Iterator[Discovered]:
        try:
            text = self._storage.read_bytes(info.uri).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputNotFound(f"{redact(info.uri)}: not a list in UTF-8 ({error}); one URI or path a line") from None
        lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
        rows = ((info.uri, f"line-{number}", line) for number, line in lines if line and not line.startswith("#"))
        yield from self._entries(rows, info.uri.rpartition("/")[0])

    def _entries(self, rows: Iterable[tuple[str, str, str | None]], folder: str) -> Iterator[Discovered]:
        """The videos that entries (of `source`, at `place`) name, relative to `folder`: looked up concurrently."""
        for (source, place, entry), found in ordered(lambda row: (row, self._resolve(row[2], folder)), rows):
            if isinstance(found, MotionmillError):
                yield DiscoveryFailure(source, f"{place} ({redact(entry)})" if entry else place, found)
            elif isinstance(found, ObjectInfo):
                yield from self._object(found, folder, named=True)
            else:
                some = False
                for some_found in self._folder(found, folder):
                    some = True
                    yield some_found
                if not some:
                    empty = UnreadableVideo(f"{redact(found)}: no videos in this folder; correct the entry")
                    yield DiscoveryFailure(source, f"{place} ({redact(entry or '')})", empty)

    def _resolve(self, entry: str | None, folder: str) -> ObjectInfo | str | MotionmillError:
        """The object or the folder that an entry names, or what is wrong with it."""
        if not entry or not entry.strip():
            return UnreadableVideo("the cell is null or empty; give a URI", stage="discover")
        kind, relative = scheme(entry), "://" not in entry and not entry.startswith("/")
        if not relative and kind not in (scheme(folder), *self._config.schemes):
            return UnreadableVideo(
                f"{redact(entry)}: {kind}:// is not among input.schemes ({', '.join(self._config.schemes)}); add it if "
                "whoever wrote the list may make workers read from there",
                stage="discover",
            )
        if kind == "file" and scheme(folder) != "file":
            if entry.startswith("/") or entry.lower().startswith("file:"):
                return UnreadableVideo(f"{entry}: a local path in a list that lies in {redact(folder)}; give a URI")
            place = f"{folder}/{entry.rstrip('/')}"
        elif relative:
            place = absolute(f"{folder}/{entry}")
        else:
            place = absolute(entry)
        try:
            info = self._info(place)
            if info is not None:
                if place.lower().endswith(".txt"):
                    return UnreadableVideo(f"{redact(place)}: a list within a list; name its videos here instead")
                return info
            if self._storage.is_folder(place):
                return place
        except (StorageError, MotionmillError) as error:
            return UnreadableVideo(str(error), stage="discover")
        return UnreadableVideo(f"{redact(place)}: not found; correct or remove the entry", stage="discover")


def _until_damage(
    cells: Iterable[tuple[int, str | None]], problems: list[UnreadableVideo]
) -> Iterator[tuple[int, str | None]]:
    """The cells before the one at which a table is damaged; what is wrong goes to `problems`."""
    try:
        yield from cells
    except UnreadableVideo as error:
        problems.append(error)


def _outside(uri: str) -> str:
    """A name for an object that lies outside the list's folder: scheme, bucket or host, and path."""
    if scheme(uri) == "file":
        return f"file/{uri.lstrip('/')}"
    head, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    if head in ("http", "https"):
        host, path = host.partition("?")[0], path.partition("?")[0]
    return f"{head}/{host.rpartition('@')[2]}{slash}{path}"


def _compressed(uri: str) -> str:
    return f"{redact(uri)}: a compressed tar cannot be read by ranges; unpack it to a plain .tar (gunzip, unxz, unzstd)"
