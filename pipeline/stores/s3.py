"""S3, through s3fs."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any, cast

from fsspec.asyn import sync

from pipeline.faults import Changed, ShortRead, status_of
from pipeline.stores.base import ObjectInfo, Unfinished, scheme

PART_SIZE = 16 << 20
"""Bytes of one part of a multipart upload: one try of a request; grows where 10,000 parts would not do."""


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


def part_size(size: int) -> int:
    """Bytes a part of a multipart upload of `size` bytes (at most 10,000 parts)."""
    return max(PART_SIZE, -(-size // 9_000))
