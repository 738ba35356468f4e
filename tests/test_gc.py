"""Garbage collection over made prefixes: what goes, what must stay, and what happens while a run is at work."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import gc
from pipeline import collect
from pipeline.config import RetryConfig
from pipeline.errors import AccessDenied, ConfigError, InputNotFound, StorageError
from pipeline.layout import Layout
from pipeline.records.commit import ClipCommit, DataObject, Failure, Provenance, VideoCommit, commit_clip, commit_video
from pipeline.records.groups import Group, GroupMember
from pipeline.records.session import Attempts, open_run
from pipeline.storage import Storage
from tests.conftest import S3Env
from tests.e2e.support import FAST, LIMIT_S, Output, frames_of, start, until, write
from tests.media_factory import make_video

DAY = 86_400.0
STORAGE = Storage(RetryConfig(storage_max_wait_s=0.3))
DEAD, LIVE = "20261119T010203-0a1b2c3d", "20261121T040506-4e5f6a7b"
BY = {
    "fingerprint": "f",
    "provenance": Provenance(task="interpolate", model="blend", configuration="c", code_version="0"),
    "uri": "s3://in/a.mp4", "version": "etag", "name": "a.mp4", "attempt": "t",
}  # fmt: skip


def _data(path: str) -> DataObject:
    return DataObject(path=path, size=1, sha256="00", frames=1)


def _clip(video: str, clip: str, data: str, *, bad: bool = False) -> ClipCommit:
    failure = Failure(stage="decode", error_type="CorruptVideo", message="", prefix=_data(data)) if bad else None
    return ClipCommit(
        **BY, video_id=video, status="error" if bad else "ok", failure=failure, clip_id=clip, clip_index=0,
        clip_count=1, start_pts=0, end_pts=1, time_base="1/24", data=None if bad else _data(data),
    )  # fmt: skip


def _video(video: str, *outputs: str, prefix: str = "") -> VideoCommit:
    failure = Failure(stage="decode", error_type="CorruptVideo", message="", prefix=_data(prefix)) if prefix else None
    return VideoCommit(
        **BY, video_id=video, status="error" if prefix else "ok", failure=failure,
        outputs=tuple(_data(path) for path in outputs),
    )  # fmt: skip


class _Prefix:
    """A run's prefix on a local disk, whose files are as old as they are said to be."""

    def __init__(self, root: Path) -> None:
        self.root, self.layout = root, Layout(str(root))
        self.put("_motionmill/run.json", 3.0, json.dumps({"fingerprint": "f", "keys": {}}))

    def put(self, path: str, days: float, text: str = "x") -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        then = time.time() - days * DAY
        os.utime(file, (then, then))

    def commit(self, commit: ClipCommit | VideoCommit, days: float = 2.0) -> None:
        layout = self.layout
        uri = (
            layout.clip_commit(commit.video_id, commit.clip_id)
            if isinstance(commit, ClipCommit)
            else layout.video_commit(commit.video_id)
        )
        self.put(uri.removeprefix(layout.uri("")), days, commit.to_json().decode())

    @property
    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}

    def collect(self, older_than_s: float = DAY) -> set[str]:
        """Collects; returns the paths that went, which are those that were announced."""
        before = self.files
        found = collect.survey(STORAGE, self.layout, older_than_s)
        assert self.files == before, "a survey changes nothing"
        removed = collect.remove(STORAGE, self.layout, found, older_than_s)
        gone = before - self.files
        assert gone == {one.path for one in removed} == {one.path for one in found.garbage}
        return gone


@pytest.fixture
def prefix(tmp_path: Path) -> _Prefix:
    return _Prefix(tmp_path / "out")


def test_orphans_older_than_a_day_go_and_all_else_stays(prefix: _Prefix) -> None:
    prefix.put(f"_motionmill/segments/v/000000-0-9-{DEAD}-1.mp4", 1.1)
    prefix.put(f"_motionmill/segments/v/000000-0-9-{DEAD}-2.mp4", 0.9)
    prefix.put(f"_motionmill/segments/v/000001-9-18-{DEAD}-1.mp4", 30)
    prefix.put(f"_motionmill/segments/v/000002-18-20-{DEAD}-1.mp4", 30)
    prefix.commit(_clip("v", "000001-9-18", f"_motionmill/segments/v/000001-9-18-{DEAD}-1.mp4"))
    prefix.commit(_clip("v", "000002-18-20", f"_motionmill/segments/v/000002-18-20-{DEAD}-1.mp4", bad=True))
    prefix.put("video/done.mp4", 30)
    prefix.put("video/done.mp4.decisions.parquet", 30)
    prefix.put("video/lost.mp4", 30)
    prefix.commit(_video("done", "video/done.mp4", "video/done.mp4.decisions.parquet"))
    prefix.put("_motionmill/quarantine/video/bad.mp4", 30)
    prefix.put("_motionmill/quarantine/video/bad_before.mp4", 30)
    prefix.put("_motionmill/quarantine/quarantine.parquet", 30)
    prefix.commit(_video("bad", prefix="_motionmill/quarantine/video/bad.mp4"))
    prefix.put("_motionmill/ungrouped/u.parquet", 30)
    prefix.put(f"_motionmill/attempts/{DEAD}/v/000000-0-9/0001.json", 1.5)
    prefix.put("_motionmill/probe-1234", 1.5)
    prefix.put(f"flow/.{'0' * 32}.part", 1.5)
    for path in ("summary.json", f"runs/{DEAD}.json", "report.html", "calibration.json", "something/new.json"):
        prefix.put(f"_motionmill/{path}", 30)
    prefix.put("mine.mp4", 30)
    assert prefix.collect() == {
        f"_motionmill/segments/v/000000-0-9-{DEAD}-1.mp4",
        "video/lost.mp4",
        "_motionmill/quarantine/video/bad_before.mp4",
        "_motionmill/ungrouped/u.parquet",
        f"_motionmill/attempts/{DEAD}/v/000000-0-9/0001.json",
        "_motionmill/probe-1234",
        f"flow/.{'0' * 32}.part",
    }
    assert prefix.collect() == set()


def test_what_a_group_is_made_of_and_into_stays_until_it_is_done(prefix: _Prefix) -> None:
    member = GroupMember(video_id="v", rows=1, source=_data("_motionmill/ungrouped/v.parquet"))
    group = Group(number=0, path="flow/group-000000.parquet", members=(member,), session=DEAD)
    prefix.put("_motionmill/groups/000000.json", 9, group.to_json().decode())
    prefix.put("_motionmill/ungrouped/v.parquet", 9)
    prefix.put("flow/group-000000.parquet", 9)
    assert prefix.collect() == set()
    done = group.model_copy(update={"done": True, "members": ()})
    prefix.put("_motionmill/groups/000000.json", 9, done.to_json().decode())
    prefix.commit(_video("v", "flow/group-000000.parquet"))
    assert prefix.collect() == {"_motionmill/ungrouped/v.parquet"}


def test_nothing_that_a_session_at_work_could_name_goes(prefix: _Prefix) -> None:
    """It began three days ago, and left a mark an hour ago: its clips' data and any output may still be named."""
    prefix.put(f"_motionmill/attempts/{LIVE}/begun.json", 3)
    prefix.put(f"_motionmill/attempts/{LIVE}/v/000000-0-9/0001.json", 2.9)
    prefix.put(f"_motionmill/attempts/{LIVE}/v/000001-9-18/0001.json", 1 / 24)
    prefix.put(f"_motionmill/segments/v/000000-0-9-{LIVE}-1.mp4", 2.9)
    prefix.put(f"_motionmill/segments/v/000000-0-9-{DEAD}-1.mp4", 2.9)
    prefix.put("video/v.mp4", 2.9)
    assert prefix.collect() == {f"_motionmill/segments/v/000000-0-9-{DEAD}-1.mp4"}
    # However young the garbage that is asked for: an hour without a mark is what makes a session dead.
    prefix.put(f"_motionmill/attempts/{LIVE}/v/000001-9-18/0001.json", 0.9 / 24)
    assert prefix.collect(0.0) == set()
    prefix.put(f"_motionmill/attempts/{LIVE}/v/000001-9-18/0001.json", 1.1)
    assert prefix.collect() == {
        f"_motionmill/segments/v/000000-0-9-{LIVE}-1.mp4",
        "video/v.mp4",
        f"_motionmill/attempts/{LIVE}/begun.json",
        f"_motionmill/attempts/{LIVE}/v/000000-0-9/0001.json",
        f"_motionmill/attempts/{LIVE}/v/000001-9-18/0001.json",
    }


def test_a_session_or_a_new_object_between_the_look_and_the_deletion_saves_it(prefix: _Prefix) -> None:
    for name in ("a", "b"):
        prefix.put(f"video/{name}.mp4", 2)
    found = collect.survey(STORAGE, prefix.layout)
    assert {one.path for one in found.garbage} == {"video/a.mp4", "video/b.mp4"}
    prefix.put("video/a.mp4", 0, "another run's")
    assert [one.path for one in collect.remove(STORAGE, prefix.layout, found)] == ["video/b.mp4"]
    prefix.put("video/b.mp4", 2)
    found = collect.survey(STORAGE, prefix.layout)
    prefix.put(f"_motionmill/attempts/{LIVE}/begun.json", 0)
    assert collect.remove(STORAGE, prefix.layout, found) == []
    assert "video/b.mp4" in prefix.files


def test_a_session_is_seen_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    session = open_run(STORAGE, layout, {"a": 1})
    assert collect.survey(STORAGE, layout).at_work == {session.id}
    again = open_run(STORAGE, layout, {"a": 1})
    assert again.resumed
    assert collect.survey(STORAGE, layout).at_work == {session.id, again.id}
    for one in (session, again):  # their ids sort by the second
        Attempts(STORAGE, layout, one.id, 3).clear()
    assert collect.survey(STORAGE, layout).at_work == frozenset()


def test_a_commit_that_cannot_be_read_stops_everything(prefix: _Prefix) -> None:
    prefix.put("video/lost.mp4", 9)
    prefix.put("_motionmill/videos/v.json", 9, '{"schema_version": 2}')
    with pytest.raises(StorageError, match=r"videos/v\.json: not a commit"):
        collect.survey(STORAGE, prefix.layout)


def test_only_a_runs_prefix_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    with pytest.raises(InputNotFound, match="no run's output"):
        collect.survey(STORAGE, Layout(str(tmp_path)))


@pytest.mark.parametrize(("text", "seconds"), [("1d", 86400), ("12h", 43200), ("1.5m", 90), ("90s", 90), ("0s", 0)])
def test_ages_have_units(text: str, seconds: float) -> None:
    assert collect.age(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "d", "-1d", "1w", "1 d", "nan"])
def test_other_ages_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="1d"):
        collect.age(text)


SESSIONS = ("20261110T000000-00000000", "20261111T000000-11111111", "20261112T000000-22222222")
DAYS = st.sampled_from([0.01, 0.5, 0.9, 1.1, 3.0])
OBJECTS = st.one_of(
    st.tuples(st.just("segment"), st.integers(0, 3), st.sampled_from(SESSIONS)),
    st.tuples(st.sampled_from(["video", "flow", "good", "ungrouped"]), st.integers(0, 3), st.just("")),
)


def _place(kind: str, number: int, session: str) -> str:
    return {
        "segment": f"_motionmill/segments/v{number}/000000-0-9-{session}-1.mp4",
        "video": f"video/v{number}.mp4",
        "flow": f"flow/v{number}.mp4.parquet",
        "good": f"_motionmill/quarantine/video/v{number}.mp4",
        "ungrouped": f"_motionmill/ungrouped/v{number}.parquet",
    }[kind]


@given(
    objects=st.dictionaries(OBJECTS, st.tuples(DAYS, st.booleans()), max_size=14),
    marks=st.lists(st.tuples(st.sampled_from(SESSIONS), st.integers(0, 3), DAYS), max_size=6),
)
def test_exactly_what_is_old_unnamed_and_out_of_reach_goes(
    objects: dict[tuple[str, int, str], tuple[float, bool]], marks: list[tuple[str, int, float]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prefix = _Prefix(Path(folder))
        youngest: dict[str, float] = {}
        by_place = {(session, number): days for session, number, days in marks}
        for (session, number), days in by_place.items():
            prefix.put(f"_motionmill/attempts/{session}/v{number}/000000-0-9/0001.json", days)
            youngest[session] = min(days, youngest.get(session, 9.0))
        alive = {session for session, days in youngest.items() if days < 1}
        expected = {
            f"_motionmill/attempts/{session}/v{number}/000000-0-9/0001.json"
            for session, number in by_place
            if session not in alive
        }
        for index, ((kind, number, session), (days, named)) in enumerate(objects.items()):
            path = _place(kind, number, session)
            prefix.put(path, days)
            if named:
                commit = _clip(f"v{number}", f"{index:06d}-0-9", path, bad=index % 2 == 0)
                whole = _video(f"n{index}", prefix=path) if kind == "good" else _video(f"n{index}", path)
                prefix.commit(commit if kind == "segment" else whole)
            elif days > 1 and (session not in alive if session else not alive):
                expected.add(path)
        assert prefix.collect() == expected


def test_on_s3_orphans_and_unfinished_uploads_go(s3_env: S3Env, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(f"{s3_env.uri}/out")
    session = open_run(STORAGE, layout, {"a": 1})
    named, lost = f"_motionmill/segments/v/1-{DEAD}-1.mp4", f"_motionmill/segments/v/1-{DEAD}-2.mp4"
    for path in (named, lost, "video/done.mp4", "video/lost.mp4"):
        STORAGE.put(layout.uri(path), path.encode())
    commit_clip(STORAGE, layout, _clip("v", "000001", named))
    commit_video(STORAGE, layout, _video("done", "video/done.mp4"))
    client = s3_env.server.client()
    place = {"Bucket": s3_env.bucket, "Key": "out/video/big.mp4"}
    upload = client.create_multipart_upload(**place)["UploadId"]
    client.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"0" * (5 << 20))
    client.create_multipart_upload(Bucket=s3_env.bucket, Key="other/video/big.mp4")

    assert abs(STORAGE.clock(layout.output) - time.time()) < 60
    found = collect.survey(STORAGE, layout)
    assert (found.garbage, found.young, found.at_work) == ([], 3, {session.id})

    real = Storage.clock
    monkeypatch.setattr(Storage, "clock", lambda self, prefix: real(self, prefix) + 2 * DAY)
    found = collect.survey(STORAGE, layout)
    marks = {f"_motionmill/attempts/{session.id}/begun.json"}
    assert {one.path for one in found.garbage} == {lost, "video/lost.mp4", "video/big.mp4"} | marks
    assert sum(one.size for one in found.of(collect.HALF)) == 5 << 20
    collect.remove(STORAGE, layout, found)
    left = {info.uri.removeprefix(layout.uri("")) for info in STORAGE.list(layout.output)}
    assert left == {
        "_motionmill/run.json", "_motionmill/videos/done.json", "_motionmill/commit/v/000001.json", named,
        "video/done.mp4",
    }  # fmt: skip
    uploads = client.list_multipart_uploads(Bucket=s3_env.bucket).get("Uploads", [])
    assert [item["Key"] for item in uploads] == ["other/video/big.mp4"]


def test_where_unfinished_uploads_may_not_be_listed_the_rest_is_collected(
    prefix: _Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Storage, place: str) -> None:
        raise AccessDenied(f"{place}: s3:ListBucketMultipartUploads is not allowed")

    monkeypatch.setattr(Storage, "unfinished", refused)
    prefix.put("video/lost.mp4", 2)
    found = collect.survey(STORAGE, prefix.layout)
    assert [one.path for one in found.garbage] == ["video/lost.mp4"]
    assert "ListBucketMultipartUploads" in found.notes[0]


def test_a_store_without_dates_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout("memory://gc/out")
    open_run(STORAGE, layout, {"a": 1})
    STORAGE.put(layout.uri("video/lost.mp4"), b"1")
    for info in STORAGE.list(layout.output):
        assert info.modified is not None  # this one does date
    from pipeline import stores

    monkeypatch.setattr(stores.FsspecStore, "_info", _undated(stores.FsspecStore._info))
    found = collect.survey(STORAGE, layout, 0.0)
    assert (found.garbage, found.undated) == ([], 1)


def _undated(make):
    def made(self, details):
        return make(self, {key: value for key, value in details.items() if key not in ("created", "modified")})

    return made


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT_S)
def test_a_run_at_work_loses_nothing_and_a_killed_one_only_what_it_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Collected without pause and at any age while it works; killed, collected two days later, and run again."""
    video = make_video(frames=60, options={"preset": "ultrafast"})
    source = write(tmp_path / "in", {f"{number}.mp4": video for number in range(3)})
    sets, output = [*FAST, "clip.frames=6", "report=false"], tmp_path / "out"
    layout, gone = Layout(str(output)), list[collect.Garbage]()
    with start(source, output, sets) as job:
        while job.process.poll() is None:
            if (output / "_motionmill/run.json").exists():
                found = collect.survey(STORAGE, layout, 0.0)
                assert found.at_work or job.process.poll() is not None or (output / "_motionmill/summary.json").exists()
                gone += collect.remove(STORAGE, layout, found, 0.0)
        done = job.wait()
    assert done.code == 0, done.text
    assert [one.path for one in gone if one.kind != collect.HALF] == []
    clean = Output.of(output)
    clean.check_settled()

    again = tmp_path / "again"
    layout = Layout(str(again))
    with start(source, again, sets) as job:
        until(lambda: list(again.glob("_motionmill/segments/*/*.mp4")), "a clip's data", job)
        job.kill_all()
    (again / f"_motionmill/segments/lost/000000-0-9-{DEAD}-1.mp4").parent.mkdir(parents=True)
    (again / f"_motionmill/segments/lost/000000-0-9-{DEAD}-1.mp4").write_bytes(b"orphan")
    real = Storage.clock
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "clock", lambda self, prefix: real(self, prefix) + 2 * DAY)
        removed = collect.remove(STORAGE, layout, collect.survey(STORAGE, layout))
    assert any(one.kind == collect.MARKS for one in removed)
    assert any("/lost/" in one.path for one in removed)
    with start(source, again, sets) as job:
        assert job.wait().code == 0
    resumed = Output.of(again)
    resumed.check_settled()
    assert {name: frames_of(resumed.files[f"video/{name}"]) for name in resumed.videos} == {
        name: frames_of(clean.files[f"video/{name}"]) for name in clean.videos
    }


def _exit_code(*arguments: str, **options: object) -> int:
    with pytest.raises(SystemExit) as left:
        gc.main(*arguments, **options)
    return left.value.code


def test_the_job_only_says_what_would_go_unless_told_to_delete(
    prefix: _Prefix, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix.put("video/lost.mp4", 2, "12345")
    prefix.put("video/new.mp4", 0)
    report = tmp_path / "gc.json"
    assert _exit_code(str(prefix.root), json_=report) == 0
    told = capsys.readouterr().out
    assert "dry run" in told
    assert "  video/lost.mp4" in told
    assert "kept: 1 younger than 1d" in told
    assert "video/lost.mp4" in prefix.files
    found = json.loads(report.read_text())
    assert [(one["path"], one["bytes"]) for one in found["garbage"]] == [("video/lost.mp4", 5)]
    assert found["removed"] is None
    assert _exit_code(str(prefix.root), delete=True) == 0
    assert "video/lost.mp4" not in prefix.files
    assert "video/new.mp4" in prefix.files
    assert _exit_code(str(prefix.root), older_than="soon") == 2
    assert "1d" in capsys.readouterr().err
