"""The end of a run: small videos' outputs are put into shared files (how, and why it is safe: records/groups.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from pipeline.errors import ObjectNotFound, OutputMismatch
from pipeline.plan.grouping import Held, plan_groups
from pipeline.records.commit import DataObject, VideoCommit, iter_video_commits, load_video_commit
from pipeline.records.groups import Group, GroupMember, announce, finish, iter_groups, replace_outputs
from pipeline.run import cluster, scratch
from pipeline.run.worker import RunContext, upload
from pipeline.storage import redact

Execute = Callable[[RunContext, Sequence[Group]], None]
"""Makes the files of announced groups, in any order."""


def on_cluster(context: RunContext, groups: Sequence[Group]) -> None:
    """`make` for each, a few at a time."""
    waiting = list(groups)
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < context.task.config.resources.finalisers:
            running.append(_made.remote(context, waiting.pop(0)))
        ready, running = ray.wait(running, num_returns=1)
        ray.get(ready)


def go_on(context: RunContext, execute: Execute = on_cluster) -> None:
    """Completes groups that an earlier run announced. Before videos are looked at: one may have to be forgotten."""
    if context.task.grouping is not None:
        waiting = [group for group in iter_groups(context.storage, context.layout) if not group.done]
        _complete(context, waiting, execute)


def group_videos(context: RunContext, execute: Execute = on_cluster) -> list[str]:
    """Groups what has come since the last time; returns the paths of the files that were made."""
    grouping = context.task.grouping
    made: list[str] = []
    if grouping is None:
        return made
    while True:
        number = max((group.number for group in iter_groups(context.storage, context.layout)), default=-1) + 1
        sources: dict[str, DataObject] = {}
        held = list(_held(context, sources))
        files = plan_groups(held, grouping.below, grouping.up_to)
        groups = [_group(context, number + index, file, sources) for index, file in enumerate(files)]
        announced = []
        for group in groups:
            if not announce(context.storage, context.layout, group):
                break  # another run is at it too: look again
            announced.append(group)
        made += [group.path for group in announced]
        go_on(context, execute)
        if len(announced) == len(groups):
            return made


def _held(context: RunContext, sources: dict[str, DataObject]) -> Iterator[Held]:
    """Every video's rows that may share a file, or do; fills `sources` by path."""
    suffix = context.task.data_suffix
    waiting = context.layout.ungrouped("", "")
    for commit in iter_video_commits(context.storage, context.layout):
        parts = [data for data in commit.outputs if data.path.endswith(suffix)]
        if commit.status == "ok" and len(parts) == 1:
            data = parts[0]
            sources[data.path] = data
            rows = int(commit.extra["rows"])
            yield Held(
                commit.video_id, commit.name, rows, data.path, data.size, data.frames,
                settled=not data.path.startswith(waiting),
            )  # fmt: skip


def _group(context: RunContext, number: int, file: Sequence[Held], sources: dict[str, DataObject]) -> Group:
    task, layout = context.task, context.layout
    path = (
        layout.group_data(number, task.data_suffix, task.folder)
        if len(file) > 1
        else layout.final(file[0].name, task.data_suffix, task.folder)
    )
    members = tuple(GroupMember(video_id=one.video_id, rows=one.rows, source=sources[one.path]) for one in file)
    return Group(number=number, path=path, members=members, session=context.session)


def _complete(context: RunContext, groups: Sequence[Group], execute: Execute) -> None:
    if not groups:
        return
    execute(context, groups)
    storage, layout = context.storage, context.layout
    # Files of groups whose videos are all gone are found among the finished ones: no one will name those again.
    finished = {group.path for group in iter_groups(storage, layout) if group.done}
    folder, _, stem = layout.group_data(0, "", context.task.folder).rpartition("/")
    there = storage.list(layout.uri(folder), stem.rstrip("0"))
    left = finished & {f"{folder}/{info.uri.rpartition('/')[2]}" for info in there}
    left |= {member.source.path for group in groups for member in group.members}
    left -= {data.path for commit in iter_video_commits(storage, layout) for data in commit.outputs}
    storage.delete_many(layout.uri(path) for path in sorted(left))
    for group in groups:
        finish(storage, layout, group)


@ray.remote(num_cpus=cluster.LIGHT_CPUS, scheduling_strategy="SPREAD", max_retries=3)
def _made(context: RunContext, group: Group) -> None:
    make(context, group)


def make(context: RunContext, group: Group) -> None:
    """The group's file, and then its videos' commits. Safe to run again, or twice at once."""
    if not _left(context, group):
        return
    try:
        with scratch.folder(context.task.config.resources.scratch) as folder:
            members = [member for member in group.members if _commit_of(context, member) is not None]
            local = folder / f"group{context.task.data_suffix}"
            rows = context.task.merge(_parts(context, members, folder), local)
            expected = sum(member.rows for member in members)
            if rows != expected:
                raise OutputMismatch(
                    f"{group.path}: {rows} rows, its {len(members)} videos have {expected}; report this"
                )
            data = upload(context, local, group.path, rows).model_copy(update={"shared": len(members) > 1})
    except ObjectNotFound:
        if _left(context, group):
            raise
        return  # another run has done it meanwhile
    for member in members:
        replace_outputs(context.storage, context.layout, member.video_id, {member.source.path: data})


def _left(context: RunContext, group: Group) -> list[GroupMember]:
    """Those of its videos whose commits do not name its file yet."""
    commits = [(member, _commit_of(context, member)) for member in group.members]
    return [
        member
        for member, commit in commits
        if commit is not None and group.path not in {data.path for data in commit.outputs}
    ]


def _commit_of(context: RunContext, member: GroupMember) -> VideoCommit | None:
    return load_video_commit(context.storage, context.layout, member.video_id)


def _parts(context: RunContext, members: Sequence[GroupMember], folder: Path) -> Iterator[tuple[Path, str]]:
    """(local file, video whose rows are meant), fetched when their turn comes; those of one video are deleted then."""
    kept: dict[str, Path] = {}
    for index, member in enumerate(members):
        source = member.source
        path = kept.get(source.path)
        if path is None:
            path = folder / f"{index:06d}"
            context.storage.get_file(context.layout.uri(source.path), path)
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != source.sha256:
                raise OutputMismatch(
                    f"{redact(context.layout.uri(source.path))}: sha256 {found[:16]}… differs from its commit's "
                    f"{source.sha256[:16]}…: it was changed from outside; run again with --overwrite"
                )
        yield path, member.video_id
        if source.shared:
            kept[source.path] = path
        else:
            path.unlink()
