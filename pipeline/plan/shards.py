"""What tar shards and Parquet tables hold, from their headers: no payload is read, nothing is extracted."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UnreadableVideo, UnsupportedVideo, VideoError
from pipeline.parquet import damage_as
from pipeline.storage import ObjectInfo, Storage, redact

COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_HEADER_BLOCK = 16 << 10
"""Bytes fetched at each member: its headers, with long names and pax records."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """A video in a shard: its bytes are [offset, offset + size) of the shard. Or what is wrong with it."""

    path: str
    offset: int = 0
    size: int = 0
    problem: VideoError | None = None


def read_tar(storage: Storage, info: ObjectInfo, extensions: tuple[str, ...]) -> Iterator[TarMember]:
    """The members of a shard that are videos by suffix, in the shard's order; links and devices are none.

    A shard that is damaged or cut short gives the members before that point, then a problem.
    """
    shard = redact(info.uri)
    with storage.open(info.uri, block=_HEADER_BLOCK) as file:
        head = file.read(8)
        file.seek(0)
        for magic, name in _MAGIC.items():
            if head.startswith(magic):
                text = f"{shard}: compressed with {name}, which cannot be read by ranges; unpack it to a plain .tar"
                yield TarMember("", problem=UnsupportedVideo(text, stage="discover"))
                return
        seen: set[str] = set()
        try:
            with tarfile.open(fileobj=file, mode="r:", errorlevel=2) as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # or tarfile remembers every header
                    path = member.name
                    if member.size < 0:  # reading on would come back to where it was
                        text = f"{shard}#{path}: says that it has {member.size} bytes; copy or pack the shard again"
                        yield TarMember(path, problem=UnreadableVideo(text, stage="discover"))
                        return
                    if not member.isreg() or not path.lower().endswith(extensions):
                        continue
                    what = f"{shard}#{path}"
                    if member.issparse():
                        text = f"{what}: stored sparse, so its bytes are not in one piece; pack it without --sparse"
                        yield TarMember(path, problem=UnsupportedVideo(text, stage="discover"))
                    elif member.offset_data + member.size > info.size:
                        end = member.offset_data + member.size
                        text = f"{what}: ends at byte {end} of a shard of {info.size}, cut short; copy the shard again"
                        yield TarMember(path, problem=UnreadableVideo(text, stage="discover"))
                        return
                    elif path in seen:
                        text = f"{what}: a second member of this name; rename one"
                        yield TarMember(f"{path}@{member.offset}", problem=UnsupportedVideo(text, stage="discover"))
                    else:
                        seen.add(path)
                        yield TarMember(path, member.offset_data, member.size)
                # tarfile takes damage and a missing end alike for the end; only zeros are one.
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    text = f"{shard}: no member and no end mark at byte {tar.offset} of {info.size}, so members may be"
                    problem = UnreadableVideo(f"{text} missing; copy or pack the shard again", stage="discover")
                    yield TarMember("", problem=problem)
        except (tarfile.TarError, EOFError, ValueError) as error:
            text = f"{shard}: not a readable tar ({error or type(error).__name__}); copy or pack the shard again"
            yield TarMember("", problem=UnreadableVideo(text, stage="discover"))


class ParquetTable:
    """A table of videos: by reference (`uri`) or within (`bytes`). UnreadableVideo if it is no Parquet file."""

    def __init__(self, storage: Storage, info: ObjectInfo) -> None:
        self._storage, self._info = storage, info
        with damage_as(self._damaged), storage.open(info.uri) as file:
            footer = pq.ParquetFile(file)
            schema, self.rows = footer.schema_arrow, footer.metadata.num_rows
        self.columns: list[str] = schema.names
        self.kind = ""
        """"uri", "bytes", or "" when it has neither."""
        if "uri" in self.columns and _text(schema.field("uri").type):
            self.kind = "uri"
        elif "bytes" in self.columns and _binary(schema.field("bytes").type):
            self.kind = "bytes"
        self.has_name = "name" in self.columns and _text(schema.field("name").type)

    def cells(self, column: str) -> Iterator[tuple[int, str | None]]:
        """(row number, text) of a text column, a few thousand rows at a time; no other column is read.

        UnreadableVideo where the table is damaged, after the rows before that.
        """
        number = 0
        with self._storage.open(self._info.uri) as file:
            with damage_as(self._damaged):
                batches = pq.ParquetFile(file).iter_batches(batch_size=4096, columns=[column])
            while True:
                with damage_as(self._damaged):
                    batch = next(batches, None)
                    if batch is None:
                        return
                    cells = batch.column(0).to_pylist()
                for cell in cells:
                    yield number, cell
                    number += 1

    def _damaged(self, said: str) -> UnreadableVideo:
        text = f"{redact(self._info.uri)}: not a readable Parquet file ({said}); write it again"
        return UnreadableVideo(text, stage="discover")


def _text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))
