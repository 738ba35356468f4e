"""The three kinds of store behind `pipeline.storage`: local disk, S3, and whatever else fsspec opens.

Each does one try of one operation and raises what its library raises; `Storage` retries, translates and names the
object. All three promise the same: a put is seen whole or not at all, `create` never replaces, a read that falls short
of the asked range is a `ShortRead`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, Protocol, cast

import fsspec
from fsspec.asyn import sync

from pipeline.faults import Changed, NoConditionalPut, ShortRead, status_of

PART_SIZE = 16 << 20
"""Bytes of one part of a multipart upload: one try of a request; grows where 10,000 parts would not do."""


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
                with contextlib.suppress(OSError):  # a file system without locks, where `sweep` deletes nothing
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.exists(temporary):
                    continue  # swept in the moment before it was locked
                yield temporary, file
                return
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)


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


class S3Store:
    """S3 through s3fs, whose own retries are off: they miss 503s, and ours are counted and configured."""

    def __init__(self) -> None:
        import s3fs

        # Credentials, endpoint and region come from botocore (AWS_*, profiles) and fsspec's configuration.
        self._fs: Any = s3fs.S3FileSystem(
            skip_instance_cache=True,
            use_listings_cache=False,
            config_kwargs={
                "retries": {"total_max_attempts": 1, "mode": "standard"},
                "connect_timeout": 5,
                "read_timeout": 60,
                "max_pool_connections": 32,
            },
        )
        self._fs.retries = 1

    def _split(self, uri: str) -> tuple[str, str]:
        bucket, _, key = uri.partition("://")[2].partition("/")
        return bucket, key

    def _call(self, method: str, uri: str, **arguments: Any) -> dict[str, Any]:
        bucket, key = self._split(uri)
        return cast(dict[str, Any], self._fs.call_s3(method, Bucket=bucket, Key=key, **arguments))

    def info(self, uri: str) -> ObjectInfo:
        if not self._split(uri)[1]:
            raise FileNotFoundError(errno.ENOENT, "names a bucket, not an object")
        out = self._call("head_object", uri)
        return ObjectInfo(uri, out["ContentLength"], out["ETag"].strip('"'), out["LastModified"].timestamp())

    def is_folder(self, uri: str) -> bool:
        bucket, key = self._split(uri.rstrip("/"))
        out = self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key}/" if key else "", MaxKeys=1)
        return bool(out.get("Contents"))

    def read(self, uri: str, start: int, end: int | None, version: str | None) -> bytes:
        bucket, key = self._split(uri)
        arguments: dict[str, Any] = {"Bucket": bucket, "Key": key}
        if start or end is not None:
            arguments["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        if version is not None:
            arguments["IfMatch"] = f'"{version}"'

        async def get() -> tuple[int, bytes]:
            response = await self._fs._call_s3("get_object", **arguments)
            body = response["Body"]
            try:
                return response["ContentLength"], await body.read()
            finally:
                body.close()

        try:
            declared, data = sync(self._fs.loop, get)
        except OSError as error:
            if version is not None and status_of(error) == 412:
                raise Changed(f"is no longer version {version}") from None
            raise
        wanted = declared if end is None else end - start
        if len(data) != wanted:
            raise ShortRead(f"{len(data)} of {wanted} bytes arrived")
        return cast(bytes, data)

    def page(self, uri: str, stem: str, token: str | None) -> tuple[list[ObjectInfo], str | None]:
        bucket, key = self._split(uri.rstrip("/"))
        arguments: dict[str, Any] = {"ContinuationToken": token} if token else {}
        prefix = (f"{key}/" if key else "") + stem
        out = self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **arguments)
        found = [
            ObjectInfo(
                f"{scheme(uri)}://{bucket}/{item['Key']}",
                item["Size"],
                item["ETag"].strip('"'),
                item["LastModified"].timestamp(),
            )
            for item in out.get("Contents", [])
            if not item["Key"].endswith("/")  # a folder's marker
        ]
        return found, out.get("NextContinuationToken") if out.get("IsTruncated") else None

    def put(self, uri: str, data: bytes) -> None:
        self._call("put_object", uri, Body=data)

    def create(self, uri: str, data: bytes) -> None:
        self._call("put_object", uri, Body=data, IfNoneMatch="*")

    def delete(self, uris: list[str]) -> None:
        bucket = self._split(uris[0])[0]
        keys = [{"Key": self._split(uri)[1]} for uri in uris]
        out = self._fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        for failed in out.get("Errors", []):
            if failed.get("Code") not in ("NoSuchKey", None):
                kind = PermissionError if failed["Code"] == "AccessDenied" else ShortRead
                raise kind(f"{failed.get('Key')}: {failed['Code']}")

    # A multipart upload, one request a call, so that one lost request costs one part and not the file.

    def start_upload(self, uri: str) -> str:
        return cast(str, self._call("create_multipart_upload", uri)["UploadId"])

    def put_part(self, uri: str, upload: str, number: int, data: bytes) -> str:
        return cast(str, self._call("upload_part", uri, UploadId=upload, PartNumber=number, Body=data)["ETag"])

    def finish_upload(self, uri: str, upload: str, etags: list[str]) -> None:
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        self._call("complete_multipart_upload", uri, UploadId=upload, MultipartUpload={"Parts": parts})

    def abort_upload(self, uri: str, upload: str) -> None:
        self._call("abort_multipart_upload", uri, UploadId=upload)

    def clock(self, uri: str) -> float:
        bucket, key = self._split(uri.rstrip("/"))
        out = self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
        return parsedate_to_datetime(out["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()

    def unfinished(self, uri: str) -> Iterator[Unfinished]:
        bucket, key = self._split(uri.rstrip("/"))
        marks: dict[str, Any] = {}
        while True:
            out = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/" if key else "", **marks)
            for item in out.get("Uploads") or ():
                place = f"{scheme(uri)}://{bucket}/{item['Key']}"
                size = self._uploaded(place, item["UploadId"])
                yield Unfinished(place, size, item["Initiated"].timestamp(), item["UploadId"])
            if not out.get("IsTruncated"):
                return
            marks = {"KeyMarker": out["NextKeyMarker"], "UploadIdMarker": out["NextUploadIdMarker"]}

    def _uploaded(self, uri: str, upload: str) -> int:
        """Bytes of the parts that have arrived: those of the first 1000."""
        try:
            return sum(part["Size"] for part in self._call("list_parts", uri, UploadId=upload).get("Parts") or ())
        except OSError as error:
            if status_of(error) != 404 and not isinstance(error, FileNotFoundError):
                raise
            return 0  # ended meanwhile

    def discard(self, item: Unfinished) -> None:
        self.abort_upload(item.uri, item.upload)


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


def connect(protocol: str) -> Store:
    """A store for the scheme. ImportError or ValueError where fsspec has none."""
    if protocol == "file":
        return LocalStore()
    if protocol in ("s3", "s3a"):
        return S3Store()
    return FsspecStore(protocol)


def part_size(size: int) -> int:
    """Bytes a part of a multipart upload of `size` bytes (at most 10,000 parts)."""
    return max(PART_SIZE, -(-size // 9_000))
