"""What a store's error means: worth another try, or which of ours it is; and what must never be printed of it."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit, urlunsplit

from pipeline.errors import (
    AccessDenied,
    AlreadyExists,
    BucketNotFound,
    ConfigError,
    MotionmillError,
    ObjectNotFound,
    StorageError,
)


class ShortRead(OSError):
    """A body ended before its declared length: a cut connection, worth another try."""


class Changed(OSError):
    """The object is no longer the version that was opened."""


class NoConditionalPut(OSError):
    """The store cannot create an object exclusively."""


_TRANSIENT_CODES = {
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout", "InternalError",
    "ServiceUnavailable", "OperationAborted", "ConditionalRequestConflict", "BadDigest", "IncompleteBody",
    "XAmzContentSHA256Mismatch", "RequestTimeoutException",
}  # fmt: skip
_TRANSIENT_TYPES = {
    # botocore, aiohttp, fsspec, http.client and requests, by name: none of them need be installed
    "HTTPClientError", "ResponseParserError", "ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError",
    "FSTimeoutError", "IncompleteRead", "ShortRead", "ProtocolError", "ChunkedEncodingError",
    "AioAwsChunkedWrapperError", "IncompleteReadError", "ResponseStreamingError", "ChecksumMismatch",
    "FlexibleChecksumError", "ConnectionError", "EndpointConnectionError",
}  # fmt: skip
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
_BAD_SETTINGS = {"ProfileNotFound", "ConfigParseError", "ParamValidationError", "InvalidRegionError", "NoRegionError"}


_SECRETS = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET", "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)  # fmt: skip
"""Environment variables whose values are never printed."""


def redact(uri: str) -> str:
    """The URI without what may be secret: `user:password@`, and every query value (presigned URLs)."""
    if "://" not in uri:
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri.partition("://")[0] + "://***"
    place = parts.netloc.rpartition("@")
    netloc = f"***@{place[2]}" if place[1] else parts.netloc
    if parts.scheme not in ("http", "https") and not place[1]:
        return uri  # an object's key may hold a "?"
    query = re.sub(r"=[^&]*", "=***", parts.query) if "=" in parts.query else "***" if parts.query else ""
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))


def scrub(text: str) -> str:
    """Text with every URL redacted, and the credentials of this process's environment masked."""
    text = re.sub(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+", lambda match: redact(match[0]), text)
    for name in _SECRETS:
        if len(secret := os.environ.get(name, "")) >= 4:
            text = text.replace(secret, "***")
    return text


def status_of(error: BaseException) -> int:
    """The HTTP status that an error or its cause carries, 0 if none."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        status = getattr(seen, "status", None) or getattr(seen, "code", None)
        if isinstance(status, int):
            return status
        seen = seen.__cause__
    return 0


def code_of(error: BaseException) -> str:
    """The store's own error code ("SlowDown", "NoSuchBucket", …) that an error or its cause carries."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        seen = seen.__cause__
    return ""


def transient(error: BaseException) -> bool:
    """Whether the same call may well succeed when tried again."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, (ConnectionError, TimeoutError)):
            return True
        if any(kind.__name__ in _TRANSIENT_TYPES for kind in type(chain).__mro__):
            return True
        chain = chain.__cause__
    status = status_of(error)
    return code_of(error) in _TRANSIENT_CODES or status in (408, 425, 429) or (status >= 500 and status != 501)


def _no_folder(error: Exception) -> bool:
    """Whether no folder can be made for a local file: a file lies in its way, or the file system takes none."""
    return isinstance(error, (NotADirectoryError, FileNotFoundError))


def translated(error: Exception, uri: str, doing: str, tries: int) -> MotionmillError:
    """The error to raise for `uri`: what was tried, what was found, what to do."""
    what = f"{redact(uri)}: {doing} failed"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = scrub(str(error)).strip() or type(error).__name__
    account = uri.partition("://")[2].partition("/")[0].rpartition("@")[0]
    if account:  # botocore takes it for a part of the bucket's name, and quotes that
        said = said.replace(f"{account}@", "***@")
    status, code = status_of(error), code_of(error)
    if code == "NoSuchBucket":
        bucket = uri.partition("://")[2].partition("/")[0]
        return BucketNotFound(f"{what}: bucket {bucket!r} does not exist; create it or correct the URI")
    if kinds & _NO_CREDENTIALS:
        return AccessDenied(
            f"{what}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE "
            "(FSSPEC_S3_ANON=true reads a public bucket)"
        )
    if kinds & _BAD_SETTINGS:
        return ConfigError(f"{what}: {said}; correct the URI or the AWS settings of the environment")
    if isinstance(error, NoConditionalPut):
        return ConfigError(
            f"{what}: {said}, so no object can be created exclusively; write to a local disk or to s3://"
        )
    if isinstance(error, Changed):
        return StorageError(f"{redact(uri)}: changed while it was read: {said}; run again when nothing writes to it")
    if isinstance(error, FileExistsError) or status == 412 or (status == 409 and doing == "create"):
        return AlreadyExists(f"{redact(uri)}: exists already")
    local = "://" not in uri or uri.lower().startswith("file://")
    if local and (getattr(error, "errno", 0) == 30 or (doing in ("create", "write") and _no_folder(error))):  # EROFS
        return AccessDenied(f"{what}: {said}; choose another place")
    if isinstance(error, PermissionError) or status in (401, 403):
        return AccessDenied(f"{what}: access denied ({said}); check the credentials and the rights on it")
    if isinstance(error, FileNotFoundError) or status == 404:
        return ObjectNotFound(f"{redact(uri)}: not found; check the URI")
    after = f" after {tries} tries" if transient(error) else ""
    return StorageError(f"{what}{after}: {type(error).__name__}: {said}")
