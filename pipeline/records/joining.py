"""Rows of records into Parquet files, and clips' files into videos' files, in the memory of about two row groups.

A file's bytes follow from its rows and settings alone. Where row groups and files are cut follows from the rows' sizes,
not from the clips that they came in, so that the same frames make the same files however the work was divided.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RecordDamaged

_DISTINCT = ("frame_index", "pts", "previous_pts", "next_pts", "key_pts")
"""Columns for which a dictionary saves nothing."""


@dataclass(frozen=True, slots=True)
class TableKind:
    """What files of one kind of record have in common."""

    schema: str
    """By their metadata: "motionmill.recognition"."""
    payload: tuple[str, ...]
    """Large columns: no dictionaries, no statistics."""
    payload_bytes: Callable[[pa.Table], int]
    """Of a table of one row; the same wherever the row comes from (Table.nbytes depends on how it was sliced)."""
    encodings: Callable[[pa.Schema], dict[str, Any]] = lambda _: {"compression": "zstd"}
    """Parquet's compression and encodings of the columns, as its writer takes them."""


@dataclass(frozen=True, slots=True)
class Grouped:
    """Where row groups end: with the row that would go past either."""

    rows: int = 64
    bytes: int = 8 << 20
    """What reading one frame fetches at most, about."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.bytes < 1:
            raise ValueError(f"row_group_rows={self.rows}, row_group_bytes={self.bytes}: both at least 1")


@dataclass(frozen=True, slots=True)
class TableFile:
    """A finished local file."""

    path: Path
    rows: int
    bytes: int


class GroupedFile:
    """A Parquet file whose row groups are cut by the rows' own sizes."""

    def __init__(self, path: Path, schema: pa.Schema, kind: TableKind, groups: Grouped) -> None:
        self._path, self._kind, self._groups = path, kind, groups
        self._waiting: list[pa.Table] = []
        self._waiting_bytes, self._rows = 0, 0
        self.bytes = 0
        """Of the payload so far, before Parquet's compression."""
        small = [name for name in schema.names if name not in kind.payload]
        self._writer = pq.ParquetWriter(
            path,
            schema,
            use_dictionary=[name for name in small if name not in _DISTINCT],
            write_statistics=small,
            **kind.encodings(schema),
        )

    def full_with(self, row: pa.Table) -> bool:
        """Whether this row begins a new row group."""
        past = self._waiting_bytes + self._kind.payload_bytes(row) > self._groups.bytes
        return bool(self._waiting) and (past or len(self._waiting) >= self._groups.rows)

    def add(self, row: pa.Table) -> None:
        if self.full_with(row):
            self._flush()
        self._waiting.append(row)
        size = self._kind.payload_bytes(row)
        self._waiting_bytes += size
        self.bytes += size

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=len(self._waiting))
            self._rows += len(self._waiting)
            self._waiting, self._waiting_bytes = [], 0

    def close(self) -> TableFile:
        self._flush()
        self._writer.close()
        return TableFile(self._path, self._rows, os.path.getsize(self._path))

    def abandon(self) -> None:
        self._waiting = []
        with contextlib.suppress(Exception):  # what went wrong before is the error to tell
            self._writer.close()


def concatenate(
    parts: Iterable[Path], out: Path, kind: TableKind, groups: Grouped, file_bytes: int | None = None
) -> Iterator[TableFile]:
    """The rows of `parts`, in order, in new files, yielded as they are finished; payloads are copied as they are.

    Each part is read to its end before the next is asked for, and may be gone then. The first file is `out`, which
    holds everything where `file_bytes` is None; else a file ends with the row group that reaches it, and
    `<stem>-00001` follows, and so on; a last one of less than a quarter of that is taken into the one before. A file
    that was yielded may be moved or deleted. Shots are counted anew along each video: one more at each row without a
    predecessor.
    Raises RecordDamaged for a part of another kind, or whose columns or metadata differ from the first's; ValueError
    without any part.
    """
    held: TableFile | None = None
    for file in _files(parts, out, kind, groups, file_bytes):
        if held is not None:
            if file_bytes and file.bytes < file_bytes // 4:  # only the last can be
                yield _merged(held, file, kind, groups)
                return
            yield held
        held = file
    if held is None:
        raise ValueError(f"{out}: no parts to join")
    yield held


def _files(
    parts: Iterable[Path], out: Path, kind: TableKind, groups: Grouped, file_bytes: int | None
) -> Iterator[TableFile]:
    number, schema, shots = 0, None, _Shots()
    target: GroupedFile | None = None
    try:
        for part in parts:
            with _opened(part) as source:
                schema = _same_schema(schema, source.schema_arrow, part, kind)
                target = target or GroupedFile(out, schema, kind, groups)
                for group in range(source.metadata.num_row_groups):
                    table = shots.counted(source.read_row_group(group))
                    for row in (table.slice(place, 1) for place in range(table.num_rows)):
                        if file_bytes and target.full_with(row) and target.bytes >= file_bytes:
                            yield target.close()
                            number += 1
                            target = GroupedFile(out.with_stem(f"{out.stem}-{number:05d}"), schema, kind, groups)
                        target.add(row)
        if target is not None:
            done, target = target, None
            yield done.close()
    finally:
        if target is not None:
            target.abandon()


def _merged(first: TableFile, last: TableFile, kind: TableKind, groups: Grouped) -> TableFile:
    path = first.path.with_stem(f"{first.path.stem}-merged")
    (both,) = _files([first.path, last.path], path, kind, groups, None)
    last.path.unlink()
    os.replace(path, first.path)
    return TableFile(first.path, both.rows, both.bytes)


@contextlib.contextmanager
def _opened(part: Path) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(part)
    except pa.ArrowException as error:
        raise RecordDamaged(f"{part}: not a Parquet file ({error}); make the clip again") from error
    with file:
        yield file


def _same_schema(first: pa.Schema | None, found: pa.Schema, part: Path, kind: TableKind) -> pa.Schema:
    if (found.metadata or {}).get(b"schema") != kind.schema.encode():
        raise RecordDamaged(f"{part}: no file of {kind.schema}; its metadata are {found.metadata}")
    if first is not None and not first.equals(found, check_metadata=True):
        notes = sorted({*first.metadata.items()} ^ {*found.metadata.items()})
        raise RecordDamaged(
            f"{part}: its columns or metadata differ from the first part's: {notes}; join like with like"
        )
    return found


class _Shots:
    """Clips are made on their own and count their shots from 0; a video's go on from clip to clip."""

    def __init__(self) -> None:
        self._video, self._shot = "", -1

    def counted(self, table: pa.Table) -> pa.Table:
        numbers = []
        columns = (table.column("video_id").to_pylist(), table.column("previous_pts").to_pylist())
        for video, previous in zip(*columns, strict=True):
            if video != self._video:
                self._video, self._shot = video, -1
            if previous is None or self._shot < 0:
                self._shot += 1
            numbers.append(self._shot)
        place = table.schema.get_field_index("shot")
        return table.set_column(place, table.schema.field(place), pa.array(numbers, pa.int32()))
