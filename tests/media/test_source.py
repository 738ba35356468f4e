"""pipeline/media/source.py: every place a video can lie gives the same bytes, and nothing ends early in silence."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import DecodeConfig, InputConfig
from pipeline.errors import StorageError, UnreadableVideo
from pipeline.media.probe import probe
from pipeline.media.source import Window, open_source
from pipeline.types import VideoRef
from tests.media_factory import as_video, make_video


class Local:
    def open(self, uri: str, /) -> BinaryIO:
        return Path(uri).open("rb")


class Short(io.BytesIO):
    """A store whose object ends early, as a dropped connection looks to some clients."""

    def __init__(self, data: bytes, end: int) -> None:
        super().__init__(data[:end])


def test_a_window_reads_and_seeks_as_a_file_of_just_those_bytes() -> None:
    data = bytes(range(200))
    window = Window(io.BytesIO(data), 50, 100, "w")
    assert window.read(3) == data[50:53]
    assert window.seek(-10, io.SEEK_END) == 90
    assert window.read() == data[140:150]
    assert window.read(5) == b""
    assert window.seek(5) == 5
    assert window.seek(5, io.SEEK_CUR) == 10
    buffer = bytearray(4)
    assert window.readinto(buffer) == 4
    assert bytes(buffer) == data[60:64]
    with pytest.raises(OSError, match="before its first byte"):
        window.seek(-1)


def test_a_window_puts_short_reads_together() -> None:
    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 1, 7))

    data = np.random.default_rng(0).bytes(500)
    assert Window(Dribble(data), 10, 400, "w").read() == data[10:410]


def test_a_file_that_ends_before_its_known_size_is_a_storage_error_not_the_end_of_the_video() -> None:
    window = Window(Short(bytes(1000), 300), 0, 1000, "s3://bucket/a.mp4")
    assert len(window.read(300)) == 300
    with pytest.raises(StorageError, match=r"s3://bucket/a\.mp4: ends after 300 of 1000 bytes"):
        window.read(10)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi"])
def test_probing_raises_the_storage_error_that_a_demuxer_takes_for_the_end(container: str) -> None:
    codec = "mpeg4" if container == "avi" else "libx264"
    data = make_video(codec, container, frames=40, gop=10)
    video, _ = as_video(data)
    short = Window(Short(data, len(data) // 2), 0, len(data), str(video))
    with pytest.raises(StorageError, match="ends after"):
        probe(short, video, InputConfig(), DecodeConfig())  # type: ignore[arg-type]


def test_a_tar_member_is_read_in_place(tmp_path: Path) -> None:
    data = make_video(frames=6)
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as tar:
        for name, content in (("a.json", b"{}"), ("a.mp4", data), ("b.json", b"{}")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    with tarfile.open(shard) as tar:
        offset = tar.getmember("a.mp4").offset_data
    video = VideoRef(str(shard), "1", "a.mp4", len(data), kind="tar", member="a.mp4", offset=offset)
    with open_source(video, Local()) as file:
        assert file.read() == data
        assert len(probe(file, video, InputConfig(), DecodeConfig()).pts) == 6


def test_a_parquet_cell_is_found_across_row_groups(tmp_path: Path) -> None:
    cells = [bytes([index]) * (index + 1) for index in range(7)]
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"uri": ["x"] * 7, "bytes": pa.array(cells, pa.binary())}), path, row_group_size=3)
    for row in (0, 2, 3, 6):
        video = VideoRef(str(path), "1", f"{row}.mp4", row + 1, kind="parquet", member=f"row-{row}")
        with open_source(video, Local()) as file:
            assert file.read() == cells[row]
            assert file.seekable()


@pytest.mark.parametrize(
    ("cell", "member", "message"),
    [
        (b"", "row-0", "the cell is empty"),
        (None, "row-0", "the cell is empty"),
        (b"x", "row-5", "the table has 1 rows"),
        (b"x", "five", "names no row"),
    ],
)
def test_a_missing_or_empty_parquet_cell_is_unreadable(
    tmp_path: Path, cell: bytes | None, member: str, message: str
) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"bytes": pa.array([cell], pa.binary())}), path)
    with pytest.raises(UnreadableVideo, match=message):
        open_source(VideoRef(str(path), "1", "v", 1, kind="parquet", member=member), Local())


def test_a_parquet_table_without_bytes_says_which_column_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"uri": ["a"]}), path)
    with pytest.raises(UnreadableVideo, match="`bytes` column"):
        open_source(VideoRef(str(path), "1", "v", 1, kind="parquet", member="row-0"), Local())


def test_closing_the_source_closes_the_file_below_and_probing_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(make_video(frames=3))
    video = VideoRef(str(path), "1", "a.mp4", path.stat().st_size)
    below = path.open("rb")
    file = Window(below, 0, video.size, str(video))
    probe(file, video, InputConfig(), DecodeConfig())  # type: ignore[arg-type]
    assert not below.closed
    with av.open(file) as container:
        assert len(list(container.decode(video=0))) == 3
    file.close()
    assert below.closed
