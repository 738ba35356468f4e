"""Files that several small videos share, and how videos move into them without ever being lost or seen twice.

1. A group is announced: `groups/<n>.json`, created conditionally, names its videos and where their rows lie.
2. Its file is made from them: the same bytes, under the same name, whoever makes it and how often.
3. Each video's commit is replaced by one that names the new file. Readers find the rows in the one or the other.
4. What no commit names any more is deleted, and the group is marked as done.
A run that is killed anywhere in between leaves an announced group; the next run goes on with it before all else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import StorageError
from pipeline.layout import Layout
from pipeline.records.commit import DataObject, VideoCommit, load_video_commit
from pipeline.storage import Storage, redact


class GroupMember(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    video_id: str
    rows: int
    source: DataObject
    """Where its rows lie before; perhaps with other videos'."""


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    number: int
    path: str
    """Of its file, relative to the output prefix."""
    members: tuple[GroupMember, ...]
    """In the file's order; empty once it is done."""
    session: str
    """That announced it."""
    done: bool = False

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


def announce(storage: Storage, layout: Layout, group: Group) -> bool:
    """Creates the group's object; False if another process has taken the number."""
    return storage.put_if_absent_or_same(layout.group(group.number), group.to_json())


def finish(storage: Storage, layout: Layout, group: Group) -> None:
    """Marks a group as done; its number stays taken."""
    done: dict[str, Any] = {"done": True, "members": ()}
    storage.put(layout.group(group.number), group.model_copy(update=done).to_json())


def iter_groups(storage: Storage, layout: Layout) -> Iterator[Group]:
    """All groups that were ever announced, in order."""
    for uri, data in storage.read_many(info.uri for info in storage.list(layout.groups)):
        try:
            yield Group.model_validate_json(data)
        except ValidationError as error:
            raise StorageError(
                f"{redact(uri)}: not a group of schema 1 ({error.errors()[0]['msg']}); read it with the code version "
                "that wrote it, or give --overwrite to begin anew"
            ) from None


def replace_outputs(
    storage: Storage, layout: Layout, video_id: str, outputs: Mapping[str, DataObject]
) -> VideoCommit | None:
    """Rewrites a video's commit where its rows have moved: `outputs` by the path that they replace. None if it is gone.

    The one change that a commit may see; it is whole at every moment, and names rows of the same content.
    """
    commit = load_video_commit(storage, layout, video_id)
    if commit is None:
        return None
    moved = tuple(outputs.get(data.path, data) for data in commit.outputs)
    if moved != commit.outputs:
        commit = commit.model_copy(update={"outputs": moved})
        storage.put(layout.video_commit(video_id), commit.to_json())
    return commit
