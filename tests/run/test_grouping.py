"""Small videos share files: nothing is lost, seen twice or left over, wherever a run is killed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ObjectNotFound, OutputMismatch
from pipeline.layout import STATE
from pipeline.records.commit import DataObject, VideoCommit, commit_video, forget_video, load_video_commits
from pipeline.records.flow import read_flow
from pipeline.records.flow_schema import FlowRow
from pipeline.records.groups import Group, iter_groups
from pipeline.run import grouping
from pipeline.run.worker import RunContext
from pipeline.storage import Storage
from pipeline.tasks.flow import FlowTask
from pipeline.types import VideoRef
from tests.tasks.flow_support import task_of


class Killed(BaseException):
    """The process ends here."""


class Mortal(Storage):
    """A store on which only so many more changes are made before the process is killed, before or after the change."""

    left = 10**9
    after = False

    def _change(self, call: Any) -> Any:
        type(self).left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        result = call()
        if self.left == 0:
            raise Killed
        return result

    def put(self, uri: str, data: bytes) -> None:
        self._change(lambda: super(Mortal, self).put(uri, data))

    def put_if_absent(self, uri: str, data: bytes) -> None:
        self._change(lambda: super(Mortal, self).put_if_absent(uri, data))

    def delete_many(self, uris: Any) -> None:
        for uri in uris:
            self._change(lambda uri=uri: super(Mortal, self).delete_many([uri]))


def here(context: RunContext, groups: Sequence[Group]) -> None:
    for group in groups:
        grouping.make(context, group)


def context_of(folder: Path, session: str = "session-1", below: int = 300_000, up_to: int = 300_000) -> RunContext:
    sets = (f"files.group_below={below}", f"files.file_bytes={up_to}", "files.row_group_bytes=1000")
    task: FlowTask = task_of("unused", *sets)
    return RunContext(task, Mortal(task.config.retry), str(folder), session, "f" * 64)


def row(video: VideoRef, index: int, frames: int) -> FlowRow:
    field = np.random.default_rng([index, len(video.name), ord(video.name[0])]).normal(0, 9, (2, 24, 32))
    forward = field.astype(np.float32) if index + 1 < frames else None
    return FlowRow(
        video_uri=video.uri, video_version=video.version, member="", video_id=video.video_id, shot=0, clip_id="c",
        frame_index=index, pts=index, time_base=Fraction(1, 25), height=24, width=32,
        previous_pts=index - 1 if index else None, next_pts=index + 1 if index + 1 < frames else None,
        flow_forward=forward, flow_backward=None, model="m", weights_sha256="w", iterations=1, precision="fp32",
    )  # fmt: skip


def add(context: RunContext, name: str, frames: int = 3, version: str = "1") -> VideoRef:
    """A small video as the finaliser leaves it: its file in the waiting place, and its commit."""
    video = VideoRef(f"s3://in/{name}", version, name, 1)
    local = Path(context.output) / f"{video.video_id}.tmp"
    local.parent.mkdir(parents=True, exist_ok=True)
    with context.task.writer(local) as out:  # type: ignore[attr-defined]
        for index in range(frames):
            out.write(row(video, index, frames))
    path = context.layout.ungrouped(video.video_id, ".parquet")
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    size = context.storage.put_file(local, context.layout.uri(path)).size
    local.unlink()
    data = DataObject(path=path, size=size, sha256=digest, frames=frames)
    commit = VideoCommit(
        video_id=video.video_id, uri=video.uri, version=version, name=name, status="ok", attempt="a",
        fingerprint=context.fingerprint, provenance=context.provenance("m", "w"), extra={"rows": frames},
        outputs=(data,),
    )  # fmt: skip
    commit_video(context.storage, context.layout, commit)
    return video


def fill(context: RunContext) -> dict[str, int]:
    videos = {"a.mp4": 3, "b.mp4": 1, "c.mkv": 4, "d.mp4": 2, "e": 3}
    for name, frames in videos.items():
        add(context, name, frames)
    return videos


def seen(context: RunContext) -> dict[str, list[int]]:
    """Frames by video, as readers find them."""
    found: dict[str, list[int]] = {}
    for record in read_flow(context.output):
        video = VideoRef(record.video_uri, record.video_version, record.video_uri.rpartition("/")[2], 1)
        expected = row(video, record.frame_index, 0 if record.flow_forward is None else 99).flow_forward
        assert (record.flow_forward is None) == (expected is None)
        assert expected is None or np.abs(record.flow_forward - expected).max() <= 1 / 64  # type: ignore[operator]
        found.setdefault(video.name, []).append(record.frame_index)
    return found


def check_settled(context: RunContext, videos: dict[str, int]) -> None:
    assert seen(context) == {name: list(range(frames)) for name, frames in videos.items()}
    root = Path(context.output)
    files = {str(path.relative_to(root)) for path in root.rglob("*.parquet")}
    named = {data.path: data for commit in load_video_commits(context.storage, context.layout).values()
             for data in commit.outputs}  # fmt: skip
    assert files == set(named)
    assert not any(path.startswith(STATE) for path in files)
    for path, data in named.items():
        assert hashlib.sha256((root / path).read_bytes()).hexdigest() == data.sha256
    assert all(group.done and not group.members for group in iter_groups(context.storage, context.layout))


def outputs(context: RunContext) -> dict[str, bytes]:
    root = Path(context.output)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted((root / "flow").rglob("*.parquet"))}


def test_small_videos_end_up_in_shared_files_of_the_size_asked_for(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    videos = fill(context)
    assert seen(context) == {name: list(range(frames)) for name, frames in videos.items()}, "readable before, too"
    assert grouping.group_videos(context, here) == ["flow/group-000000.parquet"]
    check_settled(context, videos)
    assert grouping.group_videos(context, here) == [], "a second time there is nothing to do"
    several = context_of(tmp_path / "several", below=80_000, up_to=80_000)
    for index in range(20):
        add(several, f"v{index:02d}.mp4", 3)
    made = grouping.group_videos(several, here)
    assert 1 < len(made) < 20
    check_settled(several, {f"v{index:02d}.mp4": 3 for index in range(20)})
    assert all(len(content) < 80_000 for content in outputs(several).values())


def test_a_group_of_one_is_that_video_s_own_file(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    add(context, "day1/a.webm")
    assert grouping.group_videos(context, here) == ["flow/day1/a.webm.parquet"]
    (commit,) = load_video_commits(context.storage, context.layout).values()
    assert not commit.outputs[0].shared


def test_the_next_run_s_videos_join_a_file_that_came_out_small(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    videos = fill(context)
    grouping.group_videos(context, here)
    add(context, "b2.mp4", 2)
    assert grouping.group_videos(context, here) == ["flow/group-000001.parquet"]
    check_settled(context, videos | {"b2.mp4": 2})


def test_a_video_that_changed_leaves_no_old_rows_behind(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    videos = fill(context)
    grouping.group_videos(context, here)
    forget_video(context.storage, context.layout, VideoRef("s3://in/b.mp4", "1", "b.mp4", 1).video_id)
    assert sorted(seen(context)) == ["a.mp4", "c.mkv", "d.mp4", "e"], "the others' rows are still there"
    add(context, "b.mp4", 5, version="2")
    grouping.group_videos(context, here)
    check_settled(context, videos | {"b.mp4": 5})


def test_a_file_whose_videos_are_all_gone_goes_too(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        add(context, name)
    grouping.group_videos(context, here)
    for video_id in load_video_commits(context.storage, context.layout):
        forget_video(context.storage, context.layout, video_id)
    for name in ("a.mp4", "b.mp4"):
        add(context, name, 2, version="2")
    grouping.group_videos(context, here)
    check_settled(context, {"a.mp4": 2, "b.mp4": 2})


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_a_run_that_is_killed_at_any_moment_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool, again: bool
) -> None:
    """At every single change to the store; `again`: a group that takes in another's videos, some of them forgotten."""
    monkeypatch.setattr(Mortal, "after", after)
    before = context_of(tmp_path / "before")
    videos = fill(before)
    if again:
        grouping.group_videos(before, here)
        forget_video(before.storage, before.layout, VideoRef("s3://in/d.mp4", "1", "d.mp4", 1).video_id)
        add(before, "f.mp4", 2)
        videos = {name: frames for name, frames in videos.items() if name != "d.mp4"} | {"f.mp4": 2}
    expected = {name: list(range(frames)) for name, frames in videos.items()}
    clean: dict[str, bytes] = {}
    changes = 0
    for moment in range(60):
        context = replace(before, output=str(tmp_path / str(moment)))
        shutil.copytree(before.output, context.output)
        monkeypatch.setattr(Mortal, "left", moment or 10**9)
        try:
            grouping.group_videos(context, here)
        except Killed:
            changes += 1
        else:
            if moment:
                assert changes == moment - 1 > 5, "it was killed at every change that there is"
                return
        monkeypatch.setattr(Mortal, "left", 10**9)
        assert seen(context) == expected, "readers see every row once at every moment"
        next_run = replace(context, session="session-2")
        grouping.go_on(next_run, here)
        assert seen(context) == expected
        grouping.group_videos(next_run, here)
        check_settled(context, videos)
        clean = clean or outputs(context)
        assert outputs(context) == clean, "the same files as without the kill"
    raise AssertionError("grouping never ended")


def test_two_runs_at_once_do_each_other_no_harm(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    videos = fill(context)
    other = replace(context, session="session-2")

    def meanwhile(mine: RunContext, groups: Sequence[Group]) -> None:
        grouping.group_videos(other, here)  # the other does all of it first
        here(mine, groups)

    grouping.group_videos(context, meanwhile)
    check_settled(context, videos)


def test_rows_that_were_changed_from_outside_are_refused(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    fill(context)
    path = next((tmp_path / STATE / "ungrouped").iterdir())
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(OutputMismatch, match="changed from outside"):
        grouping.group_videos(context, here)


def test_a_waiting_file_that_is_gone_is_an_error_not_a_loss(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    fill(context)
    next((tmp_path / STATE / "ungrouped").iterdir()).unlink()
    with pytest.raises(ObjectNotFound):
        grouping.group_videos(context, here)
