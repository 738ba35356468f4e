"""Reading a run's tables of records, of whatever kind: which files, which row groups, which rows.

Only what commits name exists. One frame of a long video costs the footer of its file and its row group: files are
chosen by the commits' frame counts, row groups by the footer's statistics.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputNotFound, ObjectNotFound, RecordDamaged
from pipeline.layout import SCHEMA_VERSION, Layout
from pipeline.parquet import damage_as
from pipeline.records.commit import DataObject, VideoCommit, iter_video_commits, load_video_commit
from pipeline.storage import Storage, absolute, redact

SUFFIX = ".parquet"
Frames = int | Iterable[int] | None


class Numbered(Protocol):
    @property
    def frame_index(self) -> int: ...


R = TypeVar("R", bound=Numbered)


@dataclass(frozen=True)
class RecordKind(Generic[R]):
    """What a kind of record is called, and how one is made of a row."""

    task: str
    """That makes them, as commits call it."""
    records: str
    """What messages call them: "flow records"."""
    job: str
    """The command that makes them: "jobs/flow.py"."""
    schema: str
    """Of the files, by their metadata: "motionmill.flow"."""
    large: tuple[str, ...]
    """Columns that `make` takes from the table itself, and that are not turned into Python values before."""
    make: Callable[[dict[str, Any], pa.Table, int], R]
    """(row without the large columns, the row's table, its place in it) -> record. Raises ValueError or RecordDamaged
    for what does not fit."""
    left_out: frozenset[str] = frozenset()
    """Large columns that are not asked for: their bytes are not fetched, and `make` does not find them."""


def read_records(
    kind: RecordKind[R], output: str, video: str | None, frames: Frames, storage: Storage | None = None
) -> Iterator[R]:
    """The records of a run, by video, in the order of frames.

    output    the run's output prefix: a folder or any fsspec URL
    video     its name below the input, its URI (`…/a.tar#member` for one in a shard), or its video_id; None: all
    frames    frame indices of the video, from 0: one, or several (long stretches best as a range); None: all. They
              come in ascending order, once each
    Raises InputNotFound where there is no run of the task, or no such video, or it failed, and, after those that are
    there, for frames that the video asked for does not have; RecordDamaged for bytes that are not what was written.
    """
    storage = storage or Storage()
    layout = Layout(absolute(output))
    wanted = _Selection(frames)
    with closing(_OpenFile(kind, storage)) as file:
        for commit in _commits(kind, storage, layout, video):
            if not any(data.path.endswith(SUFFIX) for data in commit.outputs):
                raise InputNotFound(f"{commit.name}: the run made no {kind.records}; they come from {kind.job}")
            found = 0
            for record in _of_video(storage, layout, file, commit, wanted):
                found += 1
                yield record
            if video is not None:
                wanted.check(found, commit.name, _frames_of(commit))


def read_record_file(
    kind: RecordKind[R], source: str, video: str | None, frames: Frames, storage: Storage | None = None
) -> Iterator[R]:
    """The records of one Parquet file (a path or fsspec URL), whether or not a commit names it.

    `video` is a video_id, for a file that holds several; `frames` and errors as for `read_records`.
    """
    uri = absolute(str(source))
    wanted = _Selection(frames)
    found = 0
    with closing(_OpenFile(kind, storage or Storage())) as file:
        for record in file.records(uri, wanted, video):
            found += 1
            yield record
        if video is not None and not found and video not in file.videos(uri):
            raise InputNotFound(f"{redact(uri)}: holds no video {video!r}, but {', '.join(sorted(file.videos(uri)))}")
    if video is not None or not found:
        wanted.check(found, redact(uri), None)


class _Selection:
    """Which frames are asked for; ranges stay ranges."""

    def __init__(self, frames: Frames) -> None:
        indices: range | list[int] | None
        if frames is None:
            indices = None
        elif isinstance(frames, range):
            indices = frames if frames.step > 0 else frames[::-1]
        else:
            indices = sorted({frames} if isinstance(frames, int) else set(frames))
        if indices and indices[0] < 0:
            raise InputNotFound(f"frame {indices[0]}: frames are counted from 0")
        self._indices = indices

    def __contains__(self, frame: int) -> bool:
        return self.touches(frame, frame)

    def touches(self, low: int, high: int) -> bool:
        """Whether any frame of low..high, both included, is asked for."""
        if self._indices is None:
            return True
        place = bisect.bisect_left(self._indices, low)
        return place < len(self._indices) and self._indices[place] <= high

    def check(self, found: int, name: str, frames: int | None) -> None:
        """InputNotFound unless as many were found as were asked for."""
        if self._indices is not None and found < len(self._indices):
            has = "" if frames is None else f"; it has frames 0 to {frames - 1}"
            raise InputNotFound(
                f"{name}: {len(self._indices) - found} of the {len(self._indices)} frames asked for "
                f"({self._indices[0]} to {self._indices[-1]}) are not there{has}"
            )


# ---- which files


def _commits(kind: RecordKind[R], storage: Storage, layout: Layout, video: str | None) -> Iterator[VideoCommit]:
    """Good commits, of `video` if given."""
    names: list[str] = []
    found = False
    for commit in _candidates(storage, layout, video):
        if commit.provenance.task != kind.task:
            raise InputNotFound(
                f"{redact(layout.output)}: its run is of the task {commit.provenance.task!r}; {kind.records} are made "
                f"by {kind.job}"
            )
        uris = (commit.uri, f"{commit.uri}#{commit.member}")
        if video not in (None, commit.name, commit.video_id) and not {video, redact(absolute(str(video)))} & {*uris}:
            names.append(commit.name)
            continue
        if commit.failure is not None and video is not None:
            raise InputNotFound(
                f"{commit.name}: has no {kind.records}, because it failed ({commit.failure.stage}: "
                f"{commit.failure.message}); see {redact(layout.quarantine)}"
            )
        found = True
        if commit.failure is None:
            yield commit
    if not found and video is not None:
        some = f"it has {', '.join(sorted(names)[:5])}{', …' if len(names) > 5 else ''}" if names else "it has none"
        raise InputNotFound(f"{redact(layout.output)}: no finished video {redact(video)!r}; {some}")
    if not found and not storage.exists(layout.run):
        raise InputNotFound(f"{redact(layout.output)}: no run's output; give the OUTPUT that {kind.job} was given")


def _candidates(storage: Storage, layout: Layout, video: str | None) -> Iterator[VideoCommit]:
    """The commit itself if `video` is a video_id; else all there are."""
    named = load_video_commit(storage, layout, video) if video and "/" not in video else None
    if named is not None:
        yield named
        return
    yield from iter_video_commits(storage, layout)


def _outputs(commit: VideoCommit, wanted: _Selection) -> Iterator[DataObject]:
    """Files that may hold wanted frames: those of one's own come in the frames' order, and say how many they have."""
    start = 0
    for data in commit.outputs:
        if not data.path.endswith(SUFFIX):
            continue
        if data.shared or wanted.touches(start, start + data.frames - 1):
            yield data
        start += data.frames


def _frames_of(commit: VideoCommit) -> int | None:
    """How many frames its files hold; None where they hold others' too."""
    tables = [data for data in commit.outputs if data.path.endswith(SUFFIX)]
    return None if any(data.shared for data in tables) else sum(data.frames for data in tables)


# ---- what is in them


def _of_video(
    storage: Storage, layout: Layout, file: _OpenFile[R], commit: VideoCommit, wanted: _Selection
) -> Iterator[R]:
    """A video's records. Should its rows move into a shared file meanwhile (groups.py), they are read on from there."""
    last = -1
    while True:
        try:
            for data in _outputs(commit, wanted):
                for record in file.records(layout.uri(data.path), wanted, commit.video_id):
                    if record.frame_index > last:
                        last = record.frame_index
                        yield record
            return
        except ObjectNotFound:
            now = load_video_commit(storage, layout, commit.video_id)
            if now is None or now.outputs == commit.outputs:
                raise
            commit = now


class _OpenFile(Generic[R]):
    """The Parquet file that was asked for last, and its last row group: small videos share both."""

    def __init__(self, kind: RecordKind[R], storage: Storage) -> None:
        self._kind, self._storage = kind, storage
        self._uri, self._place = "", -1
        self._file: BinaryIO | None = None
        self._parquet: pq.ParquetFile | None = None
        self._table: pa.Table | None = None

    def records(self, uri: str, wanted: _Selection, video_id: str | None) -> Iterator[R]:
        parquet = self._opened(uri)
        for group in range(parquet.metadata.num_row_groups):
            with damage_as(self._damaged(uri, f"row group {group}")):
                if not _may_hold(parquet.metadata.row_group(group), wanted, video_id):
                    continue
                table = self._group(uri, group)
                present = [name for name in self._kind.large if name in table.column_names]
                rows = table.drop_columns(present).to_pylist()
            for place, row in enumerate(rows):
                if row["frame_index"] is None:
                    raise RecordDamaged(f"{redact(uri)}: row {place} of row group {group} is of no frame; restore it")
                if row["frame_index"] in wanted and video_id in (None, row["video_id"]):
                    yield self._record(uri, row, table, place)

    def _record(self, uri: str, row: dict[str, Any], table: pa.Table, place: int) -> R:
        try:
            return self._kind.make(row, table, place)
        except (RecordDamaged, ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
            # RuntimeError is pcodec's, OSError that of other codecs; the rest are columns that are not what they were.
            where = f"{redact(uri)}: frame {row['frame_index']} of {row['video_id']}"
            raise RecordDamaged(f"{where}: {error}") from error

    def videos(self, uri: str) -> set[str]:
        with damage_as(self._damaged(uri, "its column video_id")):
            return set(self._opened(uri).read(["video_id"]).column(0).to_pylist())

    def _damaged(self, uri: str, part: str) -> Callable[[str], RecordDamaged]:
        return lambda said: RecordDamaged(f"{redact(uri)}: {part} is damaged ({said}); restore it")

    def _opened(self, uri: str) -> pq.ParquetFile:
        if self._parquet is None or uri != self._uri:
            self.close()
            self._file = self._storage.open(uri, block=1)  # pyarrow asks for whole column chunks, and needs no more
            with damage_as(lambda said: RecordDamaged(f"{redact(uri)}: not a Parquet file ({said}); restore it")):
                self._parquet = pq.ParquetFile(self._file, pre_buffer=True)
                schema = self._parquet.schema_arrow
            self._uri = uri
            self._check_schema(uri, schema)
        return self._parquet

    def _check_schema(self, uri: str, schema: pa.Schema) -> None:
        notes = schema.metadata or {}
        if notes.get(b"schema") != self._kind.schema.encode():
            raise RecordDamaged(
                f"{redact(uri)}: no file of {self._kind.records}; its columns are {', '.join(schema.names[:8])}, …"
            )
        if missing := {"video_id", "frame_index"} - {*schema.names}:
            raise RecordDamaged(f"{redact(uri)}: without {', '.join(sorted(missing))}; restore it")
        if notes.get(b"schema_version") != str(SCHEMA_VERSION).encode():
            raise RecordDamaged(
                f"{redact(uri)}: schema version {notes.get(b'schema_version', b'?').decode()}, this code reads "
                f"{SCHEMA_VERSION}; read it with the code version that wrote it"
            )

    def _group(self, uri: str, group: int) -> pa.Table:
        if self._table is None or self._place != group:
            file = self._opened(uri)
            columns = [name for name in file.schema_arrow.names if name not in self._kind.left_out]
            self._table = file.read_row_group(group, columns if self._kind.left_out else None)
            self._place = group
        return self._table

    def close(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
        if self._file is not None:
            self._file.close()
        self._parquet, self._file, self._table, self._uri = None, None, None, ""


def _may_hold(group: pq.RowGroupMetaData, wanted: _Selection, video_id: str | None) -> bool:
    ranges = {}
    for column in (group.column(place) for place in range(group.num_columns)):
        known = column.path_in_schema in ("video_id", "frame_index") and column.is_stats_set
        if known and column.statistics.has_min_max:
            ranges[column.path_in_schema] = (column.statistics.min, column.statistics.max)
    if video_id is not None and "video_id" in ranges:
        low, high = ranges["video_id"]
        if not low <= video_id <= high:
            return False
    return "frame_index" not in ranges or wanted.touches(*ranges["frame_index"])
