"""The catalogue saves reading, and is believed only where a commit's own etag bears it out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ObjectNotFound
from pipeline.layout import Layout
from pipeline.records import catalogue, quarantine
from pipeline.records.commit import VideoCommit, commit_video, iter_video_commits, new_attempt
from pipeline.storage import Storage
from tests.conftest import S3Env
from tests.records.commits import QUICK, video

COUNT, WORTH = 23, 10
STORAGE = Storage(QUICK)


class Counting(Storage):
    """Counts reads of commits and of the catalogue."""

    def __init__(self) -> None:
        super().__init__(QUICK)
        self.reads: Counter[str] = Counter()

    def read_bytes(self, uri: str) -> bytes:
        self.reads["commits"] += "/videos/" in uri
        return super().read_bytes(uri)

    def read_range(self, uri: str, start: int, end: int, *, version: str | None = None) -> bytes:
        self.reads["catalogue"] += uri.endswith("videos.parquet")
        return super().read_range(uri, start, end, version=version)

    def taken(self, layout: Layout) -> tuple[list[str], int]:
        """(attempts of all commits, in order; how many were read for themselves)."""
        self.reads.clear()
        found = [commit.attempt for commit in iter_video_commits(self, layout)]
        return found, self.reads["commits"]


@pytest.fixture
def layout(s3_env: S3Env, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A bucket with COUNT videos, every seventh in quarantine, and their catalogue in row groups of four."""
    monkeypatch.setattr(catalogue, "WORTH", WORTH)
    monkeypatch.setattr(catalogue, "ROWS", 4)
    layout = Layout(s3_env.uri + "/out")
    for number in range(COUNT):
        _commit(layout, number)
    assert quarantine.rebuild(STORAGE, layout, "first") == 4
    return layout


def _commit(layout: Layout, number: int, status: str = "") -> VideoCommit:
    made = video(status or ("error" if number % 7 == 0 else "ok"))
    made = made.model_copy(update={"video_id": f"v{number:03d}", "name": f"{number}.mp4"})
    commit_video(STORAGE, layout, made)
    return made


def _true(layout: Layout) -> list[str]:
    """Attempts, by reading every commit."""
    uris = [info.uri for info in STORAGE.list(layout.video_commits)]
    return [VideoCommit.model_validate_json(data).attempt for _, data in STORAGE.read_many(uris)]


def test_what_the_catalogue_has_is_not_read_again(layout: Layout) -> None:
    storage = Counting()
    assert storage.taken(layout) == (_true(layout), 0)
    assert storage.reads["catalogue"] > 0
    storage.reads.clear()
    assert quarantine.rebuild(storage, layout, "second") == 4
    assert storage.reads["commits"] == 0


def test_new_replaced_and_deleted_commits_are_seen_at_once(layout: Layout) -> None:
    storage = Counting()
    storage.delete_many([layout.video_commit("v000"), layout.video_commit("v009"), layout.video_commit("v022")])
    replaced = video().model_copy(update={"video_id": "v010", "attempt": new_attempt()})
    storage.put(layout.video_commit("v010"), replaced.to_json())
    for number in (100, 105):
        _commit(layout, number)
    found, read = storage.taken(layout)
    assert found == _true(layout)
    assert len(found) == COUNT - 3 + 2
    assert read == 3
    assert quarantine.rebuild(storage, layout, "second") == 4  # 7, 14, 21; 0 is gone; 105 is new
    names = quarantine.read(storage, layout).column("video_id").to_pylist()
    assert names == ["v007", "v014", "v021", "v105"]


def test_it_is_made_anew_once_it_lacks_enough(layout: Layout) -> None:
    storage = Counting()
    before = storage.info(layout.catalogue).version
    for number in range(200, 200 + WORTH - 1):
        _commit(layout, number)
    quarantine.rebuild(storage, layout, "second")
    assert storage.info(layout.catalogue).version == before
    assert storage.taken(layout)[1] == WORTH - 1
    _commit(layout, 300)
    storage.delete(layout.video_commit("v001"))
    quarantine.rebuild(storage, layout, "third")
    assert storage.info(layout.catalogue).version != before
    assert storage.taken(layout) == (_true(layout), 0)


@pytest.mark.parametrize("harm", ["cut", "garbled", "empty", "other columns", "unsorted", "lies", "gone"])
def test_a_catalogue_that_is_damaged_or_lies_costs_reads_and_nothing_else(layout: Layout, harm: str) -> None:
    storage = Counting()
    data = storage.read_bytes(layout.catalogue)
    table = pq.read_table(pa.BufferReader(data))
    if harm == "cut":
        storage.put(layout.catalogue, data[: len(data) // 2])
    elif harm == "garbled":
        storage.put(layout.catalogue, data[:200] + bytes(byte ^ 0x55 for byte in data[200:900]) + data[900:])
    elif harm == "empty":
        storage.put(layout.catalogue, b"")
    elif harm == "other columns":
        _put(storage, layout, pa.table({"a": [1]}))
    elif harm == "unsorted":
        _put(storage, layout, table.take(list(range(COUNT))[::-1]))
    elif harm == "lies":
        commits = table.column("commit").to_pylist()
        commits[7] = commits[7].replace(b'"error"', b'"ok"').replace(b"no moov", b"nothing")
        _put(storage, layout, table.set_column(1, "commit", pa.array(commits, pa.binary())))
    else:
        storage.delete(layout.catalogue)
    found, read = storage.taken(layout)
    assert found == _true(layout)
    assert read == 1 if harm == "lies" else read > 0
    assert quarantine.rebuild(storage, layout, "second") == 4


def _put(storage: Storage, layout: Layout, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.put(layout.catalogue, sink.getvalue().to_pybytes())


def test_a_commit_that_goes_while_they_are_read_is_left_out_or_named(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Counting()
    storage.delete(layout.catalogue)
    listed = list(storage.list(layout.video_commits))
    storage.delete(layout.video_commit("v003"))
    monkeypatch.setattr(storage, "list", lambda *_: iter(listed))
    assert len(list(iter_video_commits(storage, layout, missing_ok=True))) == COUNT - 1
    with pytest.raises(ObjectNotFound, match="v003"):
        list(iter_video_commits(storage, layout))


def test_few_commits_and_local_disks_get_none(s3_env: S3Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "WORTH", WORTH)
    few, local = Layout(s3_env.uri + "/few"), Layout(str(tmp_path))
    for layout, count in ((few, WORTH - 1), (local, WORTH + 5)):
        for number in range(count):
            _commit(layout, number, "ok")
        storage = Counting()
        assert quarantine.rebuild(storage, layout, "s") == 0
        assert storage.taken(layout) == (_true(layout), count)
        assert not storage.exists(layout.catalogue)
        assert storage.reads["catalogue"] == 0
