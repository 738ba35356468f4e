from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import RetryConfig
from pipeline.errors import OutputConflict, StorageError, WorkerLost
from pipeline.layout import Layout
from pipeline.records.commit import (
    Attempts,
    ClipCommit,
    DataObject,
    Failure,
    Provenance,
    VideoCommit,
    commit_clip,
    commit_video,
    forget_failures,
    holds_run,
    load_clip_commits,
    load_video_commits,
    new_attempt,
    open_run,
)
from pipeline.storage import Storage, ordered
from tests.conftest import S3Env

QUICK = RetryConfig(storage_max_wait_s=0.3)
PROVENANCE = Provenance(task="interpolate", model="blend", configuration="c0ffee", code_version="0.1.0")
KEYS = {"target.factor": 2, "model": "cain-compact", "code_version": "0.1.0"}


@pytest.fixture(params=["local", "s3"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Layout]:
    if request.param == "local":
        yield Layout(str(tmp_path / "out"))
    else:
        yield Layout(request.getfixturevalue("s3_env").uri + "/out")


def clip(index: int = 0, *, failure: Failure | None = None, attempt: str | None = None) -> ClipCommit:
    return ClipCommit(
        video_id="v", uri="s3://in/a.mp4", version="etag", name="a.mp4", attempt=attempt or new_attempt(),
        status="error" if failure else "ok", failure=failure, fingerprint="f", provenance=PROVENANCE,
        clip_id=f"{index:06d}-0-48", clip_index=index, clip_count=9, start_pts=0, end_pts=48, time_base="1/24",
        data=None if failure else DataObject(path=f"_motionmill/segments/v/{index}", size=1, sha256="00", frames=48),
        extra={"t_error": "1/16"},
    )  # fmt: skip


def video(status: str = "ok") -> VideoCommit:
    failure = Failure(stage="probe", error_type="UnreadableVideo", message="no moov") if status == "error" else None
    return VideoCommit(
        video_id=status, uri="s3://in/a.mp4", version="etag", name="a.mp4", attempt=new_attempt(), status=status,
        failure=failure, fingerprint="f", provenance=PROVENANCE,
    )  # fmt: skip


def test_the_first_commit_wins_and_the_second_learns_of_it(layout: Layout) -> None:
    storage = Storage(QUICK)
    first, second = clip(), clip()
    assert commit_clip(storage, layout, first) == (first, True)
    assert commit_clip(storage, layout, second) == (first, False)
    assert commit_clip(storage, layout, first) == (first, True)
    assert load_clip_commits(storage, layout, "v") == {first.clip_id: first}


def test_of_racing_committers_exactly_one_wins_and_all_agree(layout: Layout) -> None:
    storage, barrier = Storage(QUICK), threading.Barrier(6)

    def race(commit: ClipCommit) -> tuple[ClipCommit, bool]:
        barrier.wait()
        return commit_clip(storage, layout, commit)

    outcome = list(ordered(race, [clip() for _ in range(6)], workers=6))
    assert [mine for _, mine in outcome].count(True) == 1
    assert len({winner.attempt for winner, _ in outcome}) == 1


def test_every_clip_is_committed_exactly_once_on_a_bad_day(s3_env: S3Env) -> None:
    proxy = s3_env.proxy(every={"503": 5, "reset": 11, "truncate": 7, "lost_ack": 4})
    layout, workers = Layout(f"{s3_env.uri}/out"), (Storage(QUICK), Storage(QUICK))

    def work(item: tuple[int, Storage]) -> tuple[str, str, bool]:
        commit = clip(item[0])
        winner, mine = commit_clip(item[1], layout, commit)
        assert mine == (winner.attempt == commit.attempt)
        return commit.clip_id, winner.attempt, mine

    rivals = [(index, storage) for index in range(20) for storage in workers]
    outcome = list(ordered(work, rivals, workers=8))
    assert sum(mine for *_, mine in outcome) == 20
    stored = load_clip_commits(Storage(QUICK), layout, "v")
    assert {(clip_id, attempt) for clip_id, attempt, _ in outcome} == {(c.clip_id, c.attempt) for c in stored.values()}
    assert proxy.injected["lost_ack"] >= 10, "of 40 commits and what is sent again"
    assert proxy.injected["503"] >= 8


def test_acknowledged_commits_survive_kill_9_of_the_server(s3_env: S3Env) -> None:
    storage, layout = Storage(RetryConfig(storage_max_wait_s=2, storage_attempts=20)), Layout(f"{s3_env.uri}/out")
    done = [commit_clip(storage, layout, clip(index))[0] for index in range(5)]
    s3_env.server.kill()
    restart = threading.Thread(target=s3_env.server.start)
    restart.start()
    done += [commit_clip(storage, layout, clip(index))[0] for index in range(5, 8)]
    restart.join()
    assert storage.retries > 0
    assert list(load_clip_commits(storage, layout, "v").values()) == done


def test_a_commit_that_is_not_one_is_named(tmp_path: Path) -> None:
    storage, layout = Storage(QUICK), Layout(str(tmp_path))
    storage.put(layout.clip_commit("v", "c"), b'{"schema_version": 99}')
    with pytest.raises(StorageError, match=r"c\.json: not a commit of schema 1"):
        load_clip_commits(storage, layout, "v")


def test_an_error_without_its_failure_cannot_be_committed() -> None:
    with pytest.raises(ValueError, match="status 'error'"):
        ClipCommit(**(clip().model_dump() | {"status": "error"}))


def test_failures_can_be_forgotten_and_successes_stay(layout: Layout) -> None:
    storage = Storage(QUICK)
    good, bad = clip(0), clip(1, failure=Failure(stage="decode", error_type="CorruptVideo", message="x", pts=5))
    for commit in (good, bad):
        commit_clip(storage, layout, commit)
    for outcome in (video(), video("error")):
        commit_video(storage, layout, outcome)
    assert forget_failures(storage, layout) == 2
    assert load_clip_commits(storage, layout, "v") == {good.clip_id: good}
    assert list(load_video_commits(storage, layout)) == ["ok"]


# ---- the run


def test_the_same_run_is_resumed_and_another_is_refused_with_every_difference(layout: Layout) -> None:
    storage = Storage(QUICK)
    first = open_run(storage, layout, KEYS)
    again = open_run(storage, layout, dict(reversed(KEYS.items())))
    assert (first.resumed, again.resumed) == (False, True)
    assert first.fingerprint == again.fingerprint
    assert first.id != again.id
    with pytest.raises(OutputConflict) as caught:
        open_run(storage, layout, KEYS | {"target.factor": 4, "new": True})
    assert "target.factor: there 2, now 4" in str(caught.value)
    assert 'new: there "(absent)", now true' in str(caught.value)
    assert "model" not in str(caught.value)


def test_a_run_is_never_seen_without_the_session_that_is_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, storage = Layout(str(tmp_path)), Storage(QUICK)
    create, seen = storage.put_if_absent_or_same, []

    def looking(uri: str, data: bytes) -> bool:
        assert uri == layout.run
        seen.append([info.uri for info in storage.list(layout.all_attempts)])
        return create(uri, data)

    monkeypatch.setattr(storage, "put_if_absent_or_same", looking)
    assert not holds_run(storage, layout, KEYS)
    session = open_run(storage, layout, KEYS)
    assert seen == [[layout.begun(session.id)]]
    assert holds_run(storage, layout, KEYS)
    assert not holds_run(storage, layout, KEYS | {"new": True})

    def beaten(uri: str, data: bytes) -> bool:
        monkeypatch.undo()
        open_run(storage, layout, KEYS | {"new": True}, overwrite=True)
        return False

    monkeypatch.setattr(storage, "put_if_absent_or_same", beaten)
    storage.delete(layout.run)
    Attempts(storage, layout, "99999999", 1).clear()
    with pytest.raises(OutputConflict, match="holds another run"):
        open_run(storage, layout, KEYS)
    assert len(list(storage.list(layout.all_attempts))) == 1, "of the one that won"


def test_overwriting_deletes_the_run_and_nothing_else(layout: Layout) -> None:
    storage = Storage(QUICK)
    open_run(storage, layout, KEYS)
    commit_clip(storage, layout, clip())
    storage.put(layout.uri("video/a.mp4"), b"old")
    storage.put(layout.uri("notes.txt"), b"mine")
    assert not open_run(storage, layout, KEYS | {"model": "blend"}, overwrite=True).resumed
    left = {info.uri.removeprefix(f"{layout.output}/") for info in storage.list(layout.output)}
    assert {path for path in left if not path.endswith("/begun.json")} == {"notes.txt", "_motionmill/run.json"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_peoples_files_is_never_taken_over(layout: Layout, overwrite: bool) -> None:
    storage = Storage(QUICK)
    storage.put(layout.uri("video/holiday.mp4"), b"mine")
    with pytest.raises(OutputConflict, match=r"holiday\.mp4"):
        open_run(storage, layout, KEYS, overwrite=overwrite)
    assert storage.read_bytes(layout.uri("video/holiday.mp4")) == b"mine"


def test_overwriting_the_same_run_resumes_it(tmp_path: Path) -> None:
    storage, layout = Storage(QUICK), Layout(str(tmp_path))
    open_run(storage, layout, KEYS)
    commit_clip(storage, layout, clip())
    assert open_run(storage, layout, KEYS, overwrite=True).resumed
    assert load_clip_commits(storage, layout, "v")


# ---- attempts


def _begin_and_crash(storage: Storage, layout: Layout) -> None:
    Attempts(storage, layout, "session", 3).begin("v", "c")
    os._exit(139)


def test_a_clip_that_crashes_its_worker_ends_after_its_budget(tmp_path: Path) -> None:
    storage, layout = Storage(QUICK), Layout(str(tmp_path))
    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=_begin_and_crash, args=(storage, layout))
        child.start()
        child.join(30)
        assert child.exitcode == 139
    attempts = Attempts(storage, layout, "session", 3)
    assert attempts.begin("v", "c") == 3
    attempts.note_cause("v", "c", 3, "no frame for 600 s")
    with pytest.raises(WorkerLost, match=r"lost 3 times \(try 1: the process ended.*try 3: no frame for 600 s\)"):
        attempts.begin("v", "c")
    assert attempts.begin("v", "other clip") == 1
    assert Attempts(storage, layout, "next session", 3).begin("v", "c") == 1
    attempts.clear()
    assert attempts.begin("v", "c") == 1


def test_a_lost_acknowledgement_costs_no_attempt(s3_env: S3Env) -> None:
    proxy = s3_env.proxy(every={"lost_ack": 3})
    attempts = Attempts(Storage(QUICK), Layout(s3_env.uri), "session", 2)
    assert [attempts.begin("v", str(number)) for number in range(12)] == [1] * 12
    assert proxy.injected["lost_ack"] >= 4
