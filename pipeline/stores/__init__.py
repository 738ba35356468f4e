"""The three kinds of store behind `pipeline.storage`: local disk, S3, and whatever else fsspec opens.

Each does one try of one operation and raises what its library raises; `Storage` retries, translates and names the
object. All three promise the same: a put is seen whole or not at all, `create` never replaces, a read that falls short
of the asked range is a `ShortRead`.
"""

from __future__ import annotations

from pipeline.stores.base import ObjectInfo, Store, Unfinished, local_path, scheme
from pipeline.stores.local import LocalStore
from pipeline.stores.other import FsspecStore
from pipeline.stores.s3 import S3Store, part_size

__all__ = [
    "FsspecStore",
    "LocalStore",
    "ObjectInfo",
    "S3Store",
    "Store",
    "Unfinished",
    "connect",
    "local_path",
    "part_size",
    "scheme",
]


def connect(protocol: str) -> Store:
    """A store for the scheme. ImportError or ValueError where fsspec has none."""
    if protocol == "file":
        return LocalStore()
    if protocol in ("s3", "s3a"):
        return S3Store()
    return FsspecStore(protocol)
