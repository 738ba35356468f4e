from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import InputConfig, RetryConfig
from pipeline.errors import BucketNotFound, InputNotFound
from pipeline.plan.discover import DiscoveryFailure, discover
from pipeline.storage import Storage
from pipeline.types import VideoRef
from tests.conftest import S3Env

QUICK = RetryConfig(storage_max_wait_s=0.3)
STORAGE = Storage(QUICK)
CONFIG = InputConfig()


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "in")
    elif request.param == "memory":
        yield f"memory://in-{tmp_path.name}"
    else:
        yield request.getfixturevalue("s3_env").uri + "/in"


def fill(place: str, *names: str) -> None:
    for name in names:
        STORAGE.put(f"{place}/{name}", name.encode())


def found(input: str, exclude: str = "", config: InputConfig = CONFIG) -> tuple[list[str], list[str]]:
    """Names of the videos, and messages of the failures."""
    items = list(discover(input, config, STORAGE, exclude))
    videos = [item for item in items if isinstance(item, VideoRef)]
    return [video.name for video in videos], [str(item.error) for item in items if isinstance(item, DiscoveryFailure)]


def shard(*members: tuple[str, bytes], end: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
        last = tar.offset
    return buffer.getvalue() if end else buffer.getvalue()[:last]


def table(**columns: list[object]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=2)
    return buffer.getvalue()


def test_a_folder_gives_its_videos_in_order_and_nothing_else(place: str) -> None:
    fill(place, "b.mkv", "a.mp4", "d/c.MOV", "e.webm", "notes.txt", "cover.jpg", "empty/x.json")
    STORAGE.put(f"{place}/zero.mp4", b"")
    assert found(place) == (["a.mp4", "b.mkv", "d/c.MOV", "e.webm", "zero.mp4"], [])
    assert found(f"{place}/d") == (["c.MOV"], [])


def test_a_file_is_taken_at_its_word_whatever_its_suffix(place: str) -> None:
    fill(place, "video.bin")
    (video,) = discover(f"{place}/video.bin", CONFIG, STORAGE)
    assert isinstance(video, VideoRef)
    assert (video.name, video.size, video.uri) == ("video.bin", 9, f"{place}/video.bin")
    assert video.version


def test_globs_select_files_and_folders(place: str) -> None:
    fill(place, "day1/a.mp4", "day1/b.mp4", "day2/a.mp4", "night/a.mp4", "day1/x/a.mp4")
    assert found(f"{place}/day*/a.mp4")[0] == ["day1/a.mp4", "day2/a.mp4"]
    assert found(f"{place}/**/a.mp4")[0] == ["day1/a.mp4", "day1/x/a.mp4", "day2/a.mp4", "night/a.mp4"]
    assert found(f"{place}/day[2-9]")[0] == ["day2/a.mp4"]
    assert found(f"{place}/day1/?.mp4")[0] == ["a.mp4", "b.mp4"]


def test_a_name_with_brackets_is_found_as_it_is(place: str) -> None:
    fill(place, "clip [1080p].mp4")
    assert found(f"{place}/clip [1080p].mp4")[0] == ["clip [1080p].mp4"]


@pytest.mark.parametrize("what", ["", "none.mp4", "none*.mp4", "folder of text"])
def test_nothing_is_an_error_with_a_remedy(place: str, what: str) -> None:
    fill(place, "folder of text/readme.md")
    with pytest.raises(InputNotFound, match=r"give a file|correct the path"):
        found(f"{place}/{what}".rstrip("/"))


def test_a_missing_bucket_is_named(s3_env: S3Env) -> None:
    with pytest.raises(BucketNotFound, match="no-such-bucket"):
        found("s3://no-such-bucket/in")


def test_the_output_within_the_input_is_no_input(place: str) -> None:
    fill(place, "a.mp4", "out/video/a.mp4", "video/b.mp4", "_motionmill/segments/v/0.mp4", "output.mp4")
    assert found(place, exclude=f"{place}/out")[0] == [
        "_motionmill/segments/v/0.mp4",
        "a.mp4",
        "output.mp4",
        "video/b.mp4",
    ]
    assert found(place, exclude=place)[0] == ["a.mp4", "out/video/a.mp4", "output.mp4"]


def test_a_list_names_anything_and_a_bad_line_stops_nothing(place: str) -> None:
    fill(place, "a.mp4", "d/b.mp4", "d/c.mkv", "x.data", "deep/notes.md")
    STORAGE.put(f"{place}/s.tar", shard(("m.mp4", b"12")))
    lines = [
        "# comment",
        "",
        "x.data",
        f"{place}/a.mp4",
        "gone.mp4",
        "d",
        "s.tar",
        "ftp://h/x.mp4",
        "a.mp4",
        "deep",
        "l.txt",
    ]
    STORAGE.put(f"{place}/l.txt", "\n".join(lines).encode())
    names, failures = found(f"{place}/l.txt")
    assert names == ["x.data", "a.mp4", "d/b.mp4", "d/c.mkv", "s.tar/m.mp4"]
    assert len(failures) == 4
    assert "gone.mp4: not found; correct or remove the entry" in failures[0]
    assert "ftp:// is not among input.schemes" in failures[1]
    assert "no videos in this folder" in failures[2]
    assert "a list within a list" in failures[3]


def test_videos_outside_the_lists_folder_have_distinct_names(tmp_path: Path) -> None:
    fill(str(tmp_path / "one"), "a.mp4")
    fill("memory://elsewhere", "one/a.mp4")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/l.txt").write_text("../one/a.mp4\nmemory://elsewhere/one/a.mp4\nmemory://elsewhere/one/a.mp4\n")
    names, failures = found(str(tmp_path / "lists/l.txt"))
    assert names == [f"file{tmp_path}/one/a.mp4", "memory/elsewhere/one/a.mp4"]
    assert not failures


def test_a_shard_gives_the_byte_range_of_each_video(place: str) -> None:
    long = "n" * 150 + "/" + "ü" * 60 + ".mp4"
    content = {"0.mp4": b"first", "0.json": b"{}", "d/1.webm": b"second" * 999, long: b"third", "../up.mkv": b"fourth"}
    STORAGE.put(f"{place}/s-000.tar", shard(*content.items()))
    videos = [item for item in discover(place, CONFIG, STORAGE) if isinstance(item, VideoRef)]
    assert [video.member for video in videos] == ["0.mp4", "d/1.webm", long, "../up.mkv"]
    assert videos[1].name == "s-000.tar/d/1.webm"
    assert ".." not in videos[3].name.split("/")
    for video in videos:
        data = STORAGE.read_range(video.uri, video.offset, video.offset + video.size)
        assert data == content[video.member]
    assert len({video.video_id for video in videos}) == 4


def test_the_headers_of_a_shard_are_read_and_not_its_videos(s3_env: S3Env) -> None:
    storage = Storage()
    storage.put(f"{s3_env.uri}/s.tar", shard(*((f"{n}.mp4", bytes(3_000_000)) for n in range(5))))
    read: list[int] = []

    class Counting(Storage):
        def read_range(self, uri: str, start: int, end: int, *, version: str | None = None) -> bytes:
            read.append(end - start)
            return super().read_range(uri, start, end, version=version)

    assert len(list(discover(f"{s3_env.uri}/s.tar", CONFIG, Counting()))) == 5
    assert sum(read) < 500_000


def test_links_and_devices_in_a_shard_are_no_videos(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for kind, name in ((tarfile.SYMTYPE, "l.mp4"), (tarfile.LNKTYPE, "h.mp4"), (tarfile.CHRTYPE, "c.mp4")):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            tar.addfile(header)
    with pytest.raises(InputNotFound):
        found(str(tmp_path))


def test_a_shard_cut_short_gives_what_is_whole_and_a_failure(tmp_path: Path) -> None:
    whole = shard(("a.mp4", bytes(2000)), ("b.mp4", bytes(2000)))
    cases = {
        "within a member": (whole[:3500], ["s.tar/a.mp4"], "cut short"),
        "within a header": (whole[: 2560 + 100], ["s.tar/a.mp4"], "no end mark"),
        "between members": (shard(("a.mp4", bytes(2000)), end=False), ["s.tar/a.mp4"], "no end mark"),
        "damaged header": (whole[:2560] + b"\xff" * 512 + whole[3072:], ["s.tar/a.mp4"], "no member and no end mark"),
        "not a tar": (b"text" * 1000, [], "not a readable tar"),
        "empty": (b"", [], "not a readable tar"),
        "compressed": (b"\x1f\x8b\x08\x00" + bytes(600), [], "compressed with gzip.*unpack it"),
    }
    for name, (data, videos, message) in cases.items():
        (tmp_path / "s.tar").write_bytes(data)
        names, failures = found(str(tmp_path))
        assert (name, names) == (name, videos)
        assert len(failures) == 1, name
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(failures[0])


def test_a_compressed_shard_is_refused_with_the_remedy(tmp_path: Path) -> None:
    fill(str(tmp_path), "a.mp4", "s.tar.gz")
    names, failures = found(str(tmp_path))
    assert names == ["a.mp4"]
    assert "unpack it to a plain .tar" in failures[0]
    with pytest.raises(InputNotFound, match=r"unpack it to a plain \.tar"):
        found(str(tmp_path / "s.tar.gz"))


def test_a_table_of_uris_is_followed_and_its_bad_cells_reported(place: str) -> None:
    fill(place, "a.mp4", "d/b.mp4")
    STORAGE.put(f"{place}/t.parquet", table(uri=["a.mp4", None, f"{place}/d/b.mp4", "", "gone.mp4"], x=[1, 2, 3, 4, 5]))
    names, failures = found(f"{place}/t.parquet")
    assert names == ["a.mp4", "d/b.mp4"]
    assert len(failures) == 3
    assert "null or empty" in failures[0]
    failed = [item for item in discover(f"{place}/t.parquet", CONFIG, STORAGE) if isinstance(item, DiscoveryFailure)]
    assert [item.member for item in failed] == ["row-1", "row-3", "row-4 (gone.mp4)"]


def test_a_table_of_bytes_gives_a_video_a_row_without_reading_one(s3_env: S3Env) -> None:
    cells = [os.urandom(400_000) for _ in range(6)]
    names = ["x.mp4", None, "x.mp4", "../y.mkv", "z", "w.mp4"]
    storage = Storage()
    storage.put(f"{s3_env.uri}/t.parquet", table(name=names, bytes=cells))
    read: list[int] = []

    class Counting(Storage):
        def read_range(self, uri: str, start: int, end: int, *, version: str | None = None) -> bytes:
            read.append(end - start)
            return super().read_range(uri, start, end, version=version)

    videos = [item for item in discover(f"{s3_env.uri}/t.parquet", CONFIG, Counting()) if isinstance(item, VideoRef)]
    assert [(video.kind, video.member) for video in videos] == [("parquet", f"row-{n}") for n in range(6)]
    assert [video.name for video in videos][:2] == ["t.parquet/row-00000000-x.mp4", "t.parquet/row-00000001"]
    assert len({video.name for video in videos}) == 6


def test_a_table_that_holds_no_videos_is_reported_when_named_and_passed_over_in_a_folder(tmp_path: Path) -> None:
    fill(str(tmp_path), "a.mp4")
    (tmp_path / "meta.parquet").write_bytes(table(caption=["x"]))
    assert found(str(tmp_path)) == (["a.mp4"], [])
    assert "neither a `uri` nor a `bytes` column (found caption)" in found(str(tmp_path / "meta.parquet"))[1][0]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no PAR1")
    assert "not a readable Parquet file" in found(str(tmp_path))[1][0]


def test_the_same_input_is_found_in_the_same_order_and_identity(place: str) -> None:
    fill(place, *(f"{n % 3}/{n}.mp4" for n in range(20)))
    assert list(discover(place, CONFIG, STORAGE)) == list(discover(place, CONFIG, Storage()))


def test_a_link_that_leads_in_a_circle_ends(tmp_path: Path) -> None:
    fill(str(tmp_path), "d/a.mp4")
    (tmp_path / "d/again").symlink_to(tmp_path)
    assert found(str(tmp_path))[0] == ["d/a.mp4"]
