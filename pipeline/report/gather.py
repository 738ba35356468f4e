"""What a report shows, read from an output prefix: bounded, whatever the size of the run."""

from __future__ import annotations

import heapq
import json
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pydantic import ValidationError

from pipeline.errors import InputNotFound, MotionmillError, ObjectNotFound
from pipeline.layout import STATE, Layout
from pipeline.records import quarantine
from pipeline.records.commit import VideoCommit
from pipeline.storage import Storage, redact, scrub

MOST_VIDEOS = 2000
"""Rows of the table of videos."""
MOST_EARLIER = 200
"""Of them, videos that the last session did not work on."""
MOST_FAILURES = 1000
MOST_SESSIONS = 30
LONGEST = 300
"""Characters of a name, or of a message, that are shown."""

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_LINES = ("\n", "\t")


@dataclass(frozen=True)
class FailureGroup:
    """Entries of the quarantine table with one type of error."""

    error_type: str
    count: int
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Facts:
    """Everything about a run that is not a picture."""

    task: str
    output: str
    summary: dict[str, Any]
    """Of the last session; {} where none has ended."""
    configuration: dict[str, str]
    history: list[dict[str, Any]]
    """Summaries, the newest first."""
    commits: list[VideoCommit]
    """The first of them, by video_id: those of the last session before others, where it is known."""
    videos: int
    """How many commits there are."""
    failures: list[FailureGroup] = field(default_factory=list)
    in_quarantine: int = 0


def gather(storage: Storage, layout: Layout, recent: Collection[str] | None = None) -> Facts:
    """Reads a prefix. Raises InputNotFound where no run has begun; what else is missing is left out.

    `recent`: video_ids that the last session worked on; few others are read then.
    """
    try:
        run = storage.read_json(layout.run)
    except ObjectNotFound:
        raise InputNotFound(
            f"{redact(layout.output)}: no run's output (it has no {STATE}/run.json); give the OUTPUT of a job"
        ) from None
    history = sorted(_summaries(storage, layout), key=lambda one: str(one.get("started", "")), reverse=True)
    commits, videos = _commits(storage, layout, recent)
    groups, total = _failures(storage, layout)
    summary = _json_or_empty(storage, layout.summary)
    return Facts(
        task=str(summary.get("task") or (commits[0].provenance.task if commits else "")),
        output=redact(layout.output),
        summary=summary,
        configuration={key: _shown(value) for key, value in sorted(_flat(run))},
        history=history,
        commits=commits,
        videos=videos,
        failures=groups,
        in_quarantine=total,
    )


def visible(text: object, longest: int = LONGEST, keep: Iterable[str] = ()) -> str:
    """The text without secrets, with characters that hide or reorder others spelt out, and shortened in its middle."""
    spelt = "".join(
        f"\\u{ord(one):04x}" if one not in keep and unicodedata.category(one) in _HIDDEN else one
        for one in scrub(str(text))
    )
    if len(spelt) <= longest:
        return spelt
    half = (longest - 1) // 2
    return f"{spelt[:half]}…{spelt[-half:]}"


def lines(text: object, longest: int = 8000) -> str:
    """`visible`, with its line breaks kept."""
    return visible(text, longest, _LINES)


def _summaries(storage: Storage, layout: Layout) -> Iterator[dict[str, Any]]:
    newest = heapq.nlargest(
        MOST_SESSIONS, (info.uri for info in storage.list(layout.uri(f"{STATE}/runs")) if info.uri.endswith(".json"))
    )  # a session's name begins with its time
    for uri in newest:
        found = _json_or_empty(storage, uri)
        if found:
            yield found


def _json_or_empty(storage: Storage, uri: str) -> dict[str, Any]:
    try:
        found = storage.read_json(uri)
    except (ObjectNotFound, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _commits(storage: Storage, layout: Layout, recent: Collection[str] | None) -> tuple[list[VideoCommit], int]:
    count = 0

    def others() -> Iterator[str]:
        nonlocal count
        for info in storage.list(layout.video_commits):
            count += 1
            if info.uri.rpartition("/")[2].removesuffix(".json") not in own:
                yield info.uri

    own = recent or ()
    first = [layout.video_commit(video_id) for video_id in heapq.nsmallest(MOST_VIDEOS, own)]
    first += heapq.nsmallest(MOST_VIDEOS if recent is None else min(MOST_EARLIER, MOST_VIDEOS - len(first)), others())
    commits = []
    for _, data in storage.read_many(first, missing_ok=True):
        try:
            commits.append(VideoCommit.model_validate_json(data))
        except ValidationError:
            continue  # a later version's, or damaged: the job says so, the report shows the others
    return commits, count


def _failures(storage: Storage, layout: Layout) -> tuple[list[FailureGroup], int]:
    try:
        table = quarantine.read(storage, layout)
    except MotionmillError:
        return [], 0
    counts = Counter(table.column("error_type").to_pylist())
    rows = table.drop_columns(["version", "fingerprint", "video_id"]).slice(0, MOST_FAILURES).to_pylist()
    return [
        FailureGroup(kind, count, [row for row in rows if row["error_type"] == kind])
        for kind, count in counts.most_common()
    ], table.num_rows


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict) and value:
            yield from _flat(value, name)
        else:
            yield name, value


def _shown(value: object) -> str:
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def spread(items: list[VideoCommit], count: int) -> list[VideoCommit]:
    """`count` of the items, evenly apart: the same ones each time."""
    if len(items) <= count:
        return items
    return [items[index * len(items) // count] for index in range(count)]


def finished(facts: Facts, count: int) -> list[VideoCommit]:
    """Up to `count` videos that are done and have outputs."""
    return list(islice(spread([one for one in facts.commits if one.status == "ok" and one.outputs], count), count))
