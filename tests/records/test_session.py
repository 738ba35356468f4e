"""Runs and sessions: begun, resumed, refused; and tries that are counted although their process died."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from pipeline.errors import OutputConflict, WorkerLost
from pipeline.layout import Layout
from pipeline.records.commit import commit_clip, load_clip_commits
from pipeline.records.session import Attempts, holds_run, open_run
from pipeline.storage import Storage
from tests.conftest import S3Env
from tests.records.commits import QUICK, clip, layout

__all__ = ["layout"]

KEYS = {"target.factor": 2, "model": "cain-compact", "code_version": "0.1.0"}


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
