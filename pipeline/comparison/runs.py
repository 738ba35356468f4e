"""Two runs side by side: what they are, and which of their videos belong together (those of one name)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputNotFound, ObjectNotFound, UsageError
from pipeline.layout import Layout
from pipeline.records.commit import iter_video_commits
from pipeline.storage import Storage, absolute, redact


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run has of a video."""

    video_id: str
    version: str
    good: bool
    """False: it is in quarantine."""
    path: str
    """Of its first output, relative to the prefix; "" for none."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run's description, and its videos by name."""

    output: str
    task: str
    fingerprint: str
    keys: Mapping[str, Any]
    """Everything that can change an output byte."""
    videos: Mapping[str, Finished]


def read_run(output: str, storage: Storage) -> Run:
    """Raises InputNotFound where there is no run. Memory grows with the number of videos, by some 300 bytes each."""
    layout = Layout(absolute(output))
    try:
        document = storage.read_json(layout.run)
    except ObjectNotFound:
        raise InputNotFound(f"{redact(layout.output)}: no run's output; give the OUTPUT that a job was given") from None
    videos = {
        commit.name: Finished(
            commit.video_id, commit.version, commit.status == "ok", commit.outputs[0].path if commit.outputs else ""
        )
        for commit in iter_video_commits(storage, layout)
    }
    return Run(layout.output, document["keys"]["task"], document["fingerprint"], document["keys"], videos)


def check_comparable(first: Run, second: Run) -> None:
    """UsageError for runs of different tasks."""
    if first.task != second.task:
        raise UsageError(
            f"{redact(first.output)} is a run of the task {first.task!r}, {redact(second.output)} of {second.task!r}: "
            "give two outputs of one task"
        )


def differing_keys(first: Run, second: Run) -> dict[str, tuple[Any, Any]]:
    """Configuration and weights that are not the same; None where a run has no such key."""
    keys = sorted({*first.keys, *second.keys})
    return {
        key: (first.keys.get(key), second.keys.get(key)) for key in keys if first.keys.get(key) != second.keys.get(key)
    }
