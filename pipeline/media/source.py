"""Opens a video wherever it lies, as one seekable binary file: an object, a tar member, or a Parquet cell.

Nothing here reads more than is asked for, and nothing ends early in silence: FFmpeg takes an early end of file for the
end of the video, so a read that falls short of the known size is a StorageError.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO, Protocol, cast

from pipeline.errors import StorageError, UnreadableVideo
from pipeline.ranged import Seekable
from pipeline.types import VideoRef


class Opener(Protocol):
    """The part of `pipeline.storage.Storage` that reading needs."""

    def open(self, uri: str, /) -> BinaryIO:
        """A seekable binary file, with sensible readahead."""
        ...


class Window(Seekable):
    """Bytes [offset, offset + size) of `file`, as a seekable read-only file of its own. Closing it closes `file`."""

    def __init__(self, file: BinaryIO, offset: int, size: int, name: str) -> None:
        if offset < 0 or size < 0:
            raise ValueError(f"{name}: a window of {size} bytes at {offset}")
        super().__init__(name, size)
        self._file, self._offset = file, offset

    def __repr__(self) -> str:
        return f"Window({self.name}, [{self._offset}, {self._offset + self._size}))"

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes; fewer only at the window's end. StorageError when the file ends before the window."""
        left = max(self._size - self._place, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        self._file.seek(self._offset + self._place)
        parts: list[bytes] = []
        missing = wanted
        while missing:
            part = self._file.read(missing)
            if not part:
                raise StorageError(
                    f"{self.name}: ends after {self._place + wanted - missing} of {self._size} bytes; it changed or "
                    "was cut while it was read: run again, so that it is listed anew"
                )
            parts.append(part)
            missing -= len(part)
        self._place += wanted
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_source(video: VideoRef, storage: Opener) -> BinaryIO:
    """A seekable file of exactly the video's bytes; the caller closes it.

    A Parquet cell is read into memory whole (its size is limited when it is listed). StorageError when the store stays
    unwell or the object is shorter than listed; UnreadableVideo when a cell is missing or empty.
    """
    if video.kind == "parquet":
        return _cell(video, storage)
    if video.kind not in ("object", "tar"):
        raise ValueError(f"{video}: unknown kind {video.kind!r}")
    file = storage.open(video.uri)
    if video.kind == "object" and video.size < 0:
        return file
    return cast(BinaryIO, Window(file, video.offset, video.size, str(video)))


def _cell(video: VideoRef, storage: Opener) -> BinaryIO:
    import pyarrow.parquet as pq

    from pipeline.parquet import damage_as

    try:
        row = int(video.member.removeprefix("row-"))
    except ValueError:
        raise UnreadableVideo(f"{video}: {video.member!r} names no row; expected row-<number>") from None

    def damaged(said: str) -> UnreadableVideo:
        return UnreadableVideo(f"{video}: the cell cannot be read ({said}); give a Parquet table with a `bytes` column")

    data = None
    with storage.open(video.uri) as file, damage_as(damaged):
        table = pq.ParquetFile(file)
        place = row
        for group in range(table.metadata.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if place < rows:
                break
            place -= rows
        else:
            raise UnreadableVideo(f"{video}: the table has {table.metadata.num_rows} rows; list the input anew")
        # Row by row, so that memory holds one cell and not its row group.
        for index, batch in enumerate(table.iter_batches(batch_size=1, row_groups=[group], columns=["bytes"])):
            if index == place:
                data = batch.column("bytes")[0].as_buffer()
                break
    if data is None or not data.size:
        raise UnreadableVideo(f"{video}: the cell is empty; remove the row or fill it with a video's bytes")
    return io.BytesIO(data.to_pybytes())
