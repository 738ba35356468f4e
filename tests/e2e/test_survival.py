"""Contracts 2 and 6: whatever is killed, nothing is lost, nothing is done twice, and nothing unfinished is seen."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import S3Env
from tests.e2e.support import (
    LIMIT_S,
    LOSSLESS,
    Cluster,
    Job,
    Output,
    descendants,
    no_traceback,
    run,
    start,
    until,
    upload,
    workers,
    working,
    write,
)
from tests.media_factory import make_video
from tests.s3 import SECRET_KEY, S3Server

SETS = (*LOSSLESS, "clip.frames=4", "resources.actors=2", "resources.cpu_threads=1")
VIDEOS = {
    "a.mp4": make_video(frames=121, audio=True, options={"preset": "ultrafast"}),
    "deep/b.mkv": make_video(container="matroska", frames=119, options={"preset": "ultrafast"}),
}
CLIPS_OF = {"a.mp4": 31, "deep/b.mkv": 30}
CLIPS = sum(CLIPS_OF.values())


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Output:
    """What a run that nothing disturbs makes."""
    source = write(tmp_path_factory.mktemp("in"), VIDEOS)
    folder = tmp_path_factory.mktemp("clean")
    done = run(source, folder, SETS, env=cluster.job_env())
    assert done.code == 0, done.text
    output = Output.of(folder)
    output.check_settled()
    assert output.summary["clips"] == CLIPS
    return output


_CLIPS, _VIDEOS = "_motionmill/commit", "_motionmill/videos"


def _finished(folder: Path) -> dict[str, str]:
    """Names of finished videos, by their ids."""
    return {path.stem: json.loads(path.read_bytes())["name"] for path in (folder / _VIDEOS).glob("*.json")}


def _commits(folder: Path) -> dict[str, str]:
    """Clip commits of unfinished videos that exist now, with their content's digest."""
    found, finished = {}, _finished(folder)
    for path in (folder / _CLIPS).rglob("*.json"):
        if path.parent.name not in finished:
            with contextlib.suppress(FileNotFoundError):  # its video was joined just now
                found[f"{path.parent.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _done(folder: Path) -> int:
    """Clips that are done, those of finished videos too."""
    return len(_commits(folder)) + sum(CLIPS_OF[name] for name in _finished(folder).values())


def _same(output: Output, clean: Output) -> None:
    output.check_settled()
    assert output.videos == clean.videos
    for name in clean.videos:
        assert output.frames(name) == clean.frames(name), name


def _readers_see_whole_videos(folder: Path, clean: Output) -> None:
    """A reader of video/ at this moment finds finished videos or nothing; commits name what is there."""
    now = Output.of(folder)
    for name in now.videos:
        assert now.frames(name) == clean.frames(name), "an unfinished video is visible"
    for path in now.below(f"{_CLIPS}/"):
        commit = json.loads(now.files[path])
        if commit["video_id"] not in {done["video_id"] for done in now.commits.values()}:
            assert hashlib.sha256(now.files[commit["data"]["path"]]).hexdigest() == commit["data"]["sha256"]


def test_a_killed_worker_costs_its_clip_a_try_and_nothing_else(tmp_path: Path, clean: Output) -> None:
    source, folder = write(tmp_path / "in", VIDEOS), tmp_path / "out"
    with start(source, folder, SETS) as job:
        for wanted in (3, 20):
            until(lambda n=wanted: _done(folder) >= n, f"{wanted} clips", job)
            victims = until(lambda: workers(job.process.pid), "workers", job)
            os.kill(victims[0], signal.SIGKILL)
        done = job.wait()
        assert done.code == 0, done.text
    output = Output.of(folder)
    _same(output, clean)
    assert output.quarantine() == []
    assert output.summary["clips"] + output.summary["clips_resumed"] == CLIPS


def _stop(source: Path, folder: Path, number: int, stop: signal.Signals, clean: Output, group: bool = False) -> Job:
    with start(source, folder, [*SETS, "resources.actors=1"]) as job:  # not over before it can be stopped
        before = _done(folder)
        until(lambda: _done(folder) >= before + number, f"{number} more clips", job)
        family = descendants(job.process.pid)
        assert workers(job.process.pid), "the workers are below the job"
        (os.killpg if group else os.kill)(job.process.pid, stop)
        job.process.wait(LIMIT_S)
        until(lambda: not working(family), f"the end of its processes {family}")
        assert _done(folder) >= before + number
        _readers_see_whole_videos(folder, clean)
        text = job.text
        if stop != signal.SIGKILL:
            assert job.process.returncode not in (0, 2, 3), text
        if stop == signal.SIGINT:
            assert "run the same command again" in text
            assert job.process.returncode == 1
    return job


def test_a_run_that_is_stopped_again_and_again_goes_on_where_it_was(tmp_path: Path, clean: Output) -> None:
    source, folder = write(tmp_path / "in", VIDEOS), tmp_path / "out"
    _stop(source, folder, 3, signal.SIGKILL, clean)
    _stop(source, folder, 3, signal.SIGTERM, clean)
    _stop(source, folder, 3, signal.SIGINT, clean, group=True)  # as a terminal sends Ctrl-C
    kept, finished = _commits(folder), _finished(folder).values()
    with start(source, folder, SETS) as job:
        until(lambda: "resuming" in job.text or len(_commits(folder)) > len(kept), "the resumed run", job)
        for name, digest in _commits(folder).items():
            assert kept.get(name, digest) == digest, "a clip commit was replaced"
        done = job.wait()
    assert done.code == 0, done.text
    output = Output.of(folder)
    _same(output, clean)
    assert output.summary["clips_resumed"] >= len(kept), "earlier clips are taken over, not made again"
    assert output.summary["clips"] + output.summary["clips_resumed"] == CLIPS - sum(CLIPS_OF[name] for name in finished)

    # And again: nothing is left to do, nothing is done, and it says so.
    before = {path: data for path, data in output.files.items() if "/runs/" not in path}
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "video").rglob("*") if path.is_file()}
    again = run(source, folder, SETS)
    assert again.code == 0, again.text
    assert "2 done before" in again.text
    assert "clips      0 made" in again.text
    after = Output.of(folder)
    _same(after, clean)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    changed = {path for path in after.files if after.files[path] != before.get(path) and "/runs/" not in path}
    assert changed == {"_motionmill/summary.json"}


def _bucket(env: S3Env) -> Output:
    return Output.of_bucket(env.server.client(), env.bucket, "out")


def test_faults_between_the_job_and_the_store_change_nothing(s3_env: S3Env, clean: Output) -> None:
    upload(s3_env.server.client(), s3_env.bucket, {f"in/{name}": data for name, data in VIDEOS.items()})
    proxy = s3_env.proxy(every={"503": 17, "reset": 23, "truncate": 11, "lost_ack": 13})
    done = run(f"{s3_env.uri}/in", f"{s3_env.uri}/out", [*SETS, "clip.frames=12", "retry.storage_max_wait_s=1"])
    assert done.code == 0, done.text
    # 21 clips are marked, stored and committed (63 writes), and read for joining with the videos (42 reads at least).
    assert all(proxy.injected[fault] >= 3 for fault in proxy.every), (proxy.injected, proxy.requests)
    output = _bucket(s3_env)
    _same(output, clean)
    assert output.summary["storage_retries"] > 0
    assert output.quarantine() == []
    assert SECRET_KEY not in done.text
    assert not [path for path, data in output.files.items() if SECRET_KEY.encode() in data]


@pytest.mark.parametrize("outage", ["short", pytest.param("long", marks=pytest.mark.slow)])
def test_a_run_outlives_its_store_or_ends_and_goes_on_later(
    tmp_path: Path, clean: Output, s3_env: S3Env, monkeypatch: pytest.MonkeyPatch, outage: str
) -> None:
    server = S3Server(tmp_path / "weed")
    server.start()
    try:
        client = server.client()
        client.create_bucket(Bucket="videos")
        upload(client, "videos", {f"in/{name}": data for name, data in VIDEOS.items()})
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        tries = "60" if outage == "short" else "2"  # a minute and a half at least: a busy server is slow to start
        sets = [*SETS, f"retry.storage_attempts={tries}", "retry.storage_max_wait_s=4"]

        def commits() -> int:
            found = server.client().list_objects_v2(Bucket="videos", Prefix=f"out/{_CLIPS}/")
            return int(found["KeyCount"])

        with start("s3://videos/in", "s3://videos/out", sets) as job:
            until(lambda: commits() >= 3, "3 clip commits", job)
            server.kill()
            if outage == "short":
                server.start()
                done = job.wait()
                assert done.code == 0, done.text
            else:
                done = job.wait()
                assert done.code == 1, done.text
                assert "run the same command again" in done.text
                assert no_traceback(done.text), done.text
                server.start()
        if outage == "long":
            assert commits() >= 3
            done = run("s3://videos/in", "s3://videos/out", sets)
            assert done.code == 0, done.text
        output = Output.of_bucket(server.client(), "videos", "out")
        _same(output, clean)
        if outage == "long":
            assert output.summary["clips_resumed"] >= 3
    finally:
        server.kill()
