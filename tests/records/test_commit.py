from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline.config import RetryConfig
from pipeline.errors import StorageError
from pipeline.layout import Layout
from pipeline.records.commit import (
    ClipCommit,
    Failure,
    commit_clip,
    commit_video,
    forget_failures,
    load_clip_commits,
    load_video_commits,
)
from pipeline.storage import Storage, ordered
from tests.conftest import S3Env
from tests.records.commits import QUICK, clip, layout, video

__all__ = ["layout"]


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
