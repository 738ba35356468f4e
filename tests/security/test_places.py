"""Shards, lists, tables, names and commits lead nowhere but where they may."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import InputConfig, RetryConfig
from pipeline.errors import MotionmillError, RecordDamaged, StorageError
from pipeline.layout import Layout, sanitise, within
from pipeline.media.source import open_source
from pipeline.plan.discover import DiscoveryFailure, discover
from pipeline.records.commit import forget_failures, load_video_commits
from pipeline.records.recognition_export import file_name
from pipeline.storage import Storage
from pipeline.types import VideoRef

STORAGE = Storage(RetryConfig(storage_attempts=1))
HOSTILE = (
    "../../escape.mp4", "/etc/escape.mp4", "a/../../../escape.mp4", "..\\..\\escape.mp4", "./../escape.mp4",
    "a//b.mp4", "new\nline.mp4", "\u202egnp.mp4", "C:\\escape.mp4", "x" * 300 + ".mp4", "~/escape.mp4", "a/./b.mp4",
)  # fmt: skip


def found(source: str, **config: object) -> tuple[list[VideoRef], list[str]]:
    items = list(discover(source, InputConfig(**config), STORAGE))  # type: ignore[arg-type]
    failures = [str(item) for item in items if isinstance(item, DiscoveryFailure)]
    return [item for item in items if isinstance(item, VideoRef)], failures


def is_below(path: str, root: str = "/out") -> bool:
    return os.path.normpath(path).startswith(f"{root}/")


# ---- shards


def header(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "", pax: dict[str, str] | None = None
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname, made.pax_headers = kind, size, link, dict(pax or {})
    return made


def shard(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> str:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def test_members_with_hostile_names_are_read_in_place_and_named_below_the_output(tmp_path: Path) -> None:
    members = [(header(name, size=4), f"{index:04d}".encode()) for index, name in enumerate(HOSTILE)]
    videos, failures = found(shard(tmp_path / "s.tar", *members))
    assert not failures
    assert len(videos) == len(HOSTILE)
    for index, video in enumerate(videos):
        for folder, suffix in (("video", ".mp4"), ("flow", ".parquet")):
            assert is_below(f"/out/{Layout('/out').final(video.name, suffix, folder)}", f"/out/{folder}")
        with open_source(video, STORAGE) as file:
            assert file.read() == f"{index:04d}".encode()
    assert os.listdir(tmp_path) == ["s.tar"], "nothing was extracted"


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_links_devices_pipes_and_folders_are_no_videos(tmp_path: Path, kind: bytes) -> None:
    path = shard(tmp_path / "s.tar", (header("l.mp4", kind, link="/etc/passwd"), b""), (header("a.mp4", size=2), b"ok"))
    videos, failures = found(path)
    assert [video.member for video in videos] == ["a.mp4"]
    assert not failures


def test_pax_records_give_no_bytes_from_outside_the_shard(tmp_path: Path) -> None:
    (tmp_path / "beside.mp4").write_bytes(b"a secret beside the shard")
    cases = {
        "a path in a pax record": {"path": "../../beside.mp4"},
        "a link in a pax record": {"linkpath": "/etc/passwd"},
        "a size in a pax record": {"size": "99999999"},
        "a size below nothing": {"size": "-600"},
        "a size that leads back to its own header": {"size": "-512"},
        "a size that leads back to its own records": {"size": "-1536"},
        "a sparse map": {"GNU.sparse.map": "0,1,99999,1", "GNU.sparse.size": "100000"},
        "a sparse name": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "../e.mp4"},
    }
    for what, records in cases.items():
        path = shard(tmp_path / "s.tar", (header("a.mp4", size=3, pax=records), b"abc"))
        size = os.path.getsize(path)
        videos, failures = found(path)
        assert len(videos) + len(failures) >= 1, what
        for video in videos:
            assert 0 <= video.offset <= video.offset + video.size <= size, what
            assert is_below(f"/out/{Layout('/out').final(video.name)}"), what
            with open_source(video, STORAGE) as file:
                assert b"secret" not in file.read(), what


# ---- lists and tables


def test_lists_and_tables_name_only_what_the_schemes_allow(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    entries = [
        "a.mp4", "http://169.254.169.254/latest/meta-data/x.mp4", "https://inside.example/x.mp4", "ftp://host/x.mp4",
        "sftp://host/x.mp4", "HTTP://host/x.mp4", "github://a:b@c/x.mp4", "reference://x.mp4", "dask://x.mp4",
    ]  # fmt: skip
    (tmp_path / "list.txt").write_text("\n".join(entries))
    pq.write_table(pa.table({"uri": entries}), tmp_path / "table.parquet")
    for source in ("list.txt", "table.parquet"):
        videos, failures = found(str(tmp_path / source))
        assert [video.name for video in videos] == ["a.mp4"]
        assert len(failures) == len(entries) - 1
        assert all("is not among input.schemes" in failure for failure in failures)


@pytest.mark.parametrize(
    "entry", ["simplecache::file:///etc/passwd", "filecache::http://host/x.mp4", "zip://a::file:///b"]
)
def test_chains_of_file_systems_are_not_followed(tmp_path: Path, entry: str) -> None:
    (tmp_path / "list.txt").write_text(entry)
    videos, failures = found(str(tmp_path / "list.txt"))
    assert not videos
    assert len(failures) == 1


@pytest.mark.parametrize("entry", ["/etc/passwd", "file:///etc/passwd", "FILE:///etc/passwd", "../../../../etc/passwd"])
def test_a_list_in_a_bucket_names_no_file_of_the_workers(entry: str) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/lists/l.txt", entry.encode())
    store.pipe("/bucket/lists/t.parquet", _table(entry))
    for name in ("l.txt", "t.parquet"):
        videos, failures = found(f"memory://bucket/lists/{name}")
        assert not videos
        assert len(failures) == 1


def _table(entry: str) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table({"uri": [entry]}), target)
    return target.getvalue()


def test_a_list_s_own_store_and_schemes_that_are_added_are_allowed(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe({"/own/l.txt": b"a.mp4\nmemory://own/b.mp4", "/own/a.mp4": b"x", "/own/b.mp4": b"x"})
    videos, failures = found("memory://own/l.txt", schemes=("s3",))
    assert [video.name for video in videos] == ["a.mp4", "b.mp4"]
    assert not failures
    (tmp_path / "l.txt").write_text("http://127.0.0.1:9/x.mp4")
    _, failures = found(str(tmp_path / "l.txt"), schemes=("http",))
    assert "is not among input.schemes" not in failures[0]


# ---- names and commits


@given(st.text(min_size=1, max_size=60))
def test_no_name_leads_out_of_the_output_or_an_export(name: str) -> None:
    safe = sanitise(name)
    assert within(safe)
    assert is_below(f"/out/{safe}")
    assert is_below(f"/out/{Layout('/out').final(safe)}")
    assert is_below(f"/out/{Layout('/out').good_prefix(safe)}")


@pytest.mark.parametrize("video_id", ["../../x", "/etc/x", "a/b", ".."])
def test_an_export_takes_no_path_for_a_video_s_id(video_id: str) -> None:
    @dataclasses.dataclass
    class Record:
        video_id: str
        frame_index: int = 0

    with pytest.raises(RecordDamaged, match="no video's id"):
        file_name(Record(video_id))  # type: ignore[arg-type]


def _commit(**changes: object) -> bytes:
    whole = {
        "video_id": "v-1", "uri": "in/a.mp4", "version": "1", "name": "a.mp4", "status": "error", "attempt": "1",
        "fingerprint": "f",
        "provenance": {"task": "interpolate", "model": "blend", "configuration": "c", "code_version": "1"},
        "failure": {"stage": "decode", "error_type": "CorruptVideo", "message": "m"},
    }  # fmt: skip
    return json.dumps(whole | changes).encode()


@pytest.mark.parametrize("path", ["../../precious.txt", "/precious.txt", "video/../../precious.txt", "a//b", "..\\x"])
def test_a_forged_commit_deletes_nothing_outside_the_prefix(tmp_path: Path, path: str) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("keep")
    output = tmp_path / "runs" / "out"
    layout = Layout(str(output))
    prefix = {"path": path, "size": 4, "sha256": "0" * 64, "frames": 1}
    failure = {"stage": "decode", "error_type": "CorruptVideo", "message": "m", "prefix": prefix}
    for number, forged in enumerate((_commit(failure=failure), _commit(video_id=path), _commit(name=path))):
        place = Path(layout.video_commit(f"v-{number}"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(forged)
        with pytest.raises(StorageError, match="not a commit"):
            load_video_commits(STORAGE, layout)
        with pytest.raises(MotionmillError):
            forget_failures(STORAGE, layout)
        place.unlink()
    assert precious.read_text() == "keep"
