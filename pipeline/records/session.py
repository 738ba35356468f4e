"""The run that an output prefix holds, the sessions of work on it, and how often each clip was tried.

A session is one process's work. It leaves marks while it lives, and deletes them when it ends well: another's marks
mean that somebody is at work, or was lost.
"""

from __future__ import annotations

import hashlib
import json
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import ObjectNotFound, OutputConflict, WorkerLost
from pipeline.layout import OWN_PREFIXES, SCHEMA_VERSION, STATE, Layout
from pipeline.storage import Storage, redact


@dataclass(frozen=True, slots=True)
class Session:
    """One process's work on a run."""

    id: str
    """Sorts in time."""
    fingerprint: str
    resumed: bool
    """Whether the prefix already held this run."""


def fingerprint(document: Mapping[str, Any]) -> str:
    """Digest of everything that can change an output byte, given as JSON values by key."""
    return hashlib.sha256(json.dumps(dict(document), sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def open_run(storage: Storage, layout: Layout, document: Mapping[str, Any], *, overwrite: bool = False) -> Session:
    """Begins or resumes the run that `document` (see `fingerprint`) describes.

    Raises OutputConflict if the prefix holds another run (listing every key that differs), or other people's files
    where a run's would go. `overwrite` deletes the other run: only video/, flow/, recognition/ and _motionmill/.
    """
    document = json.loads(json.dumps(dict(document)))
    session = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    mark = fingerprint(document)
    run = {"schema_version": SCHEMA_VERSION, "fingerprint": mark, "keys": document, "begun_by": session}
    found = _read_run(storage, layout)
    if found is None:
        _refuse_foreign(storage, layout)
    elif found["fingerprint"] != mark:
        if not overwrite:
            raise OutputConflict(_differences(layout, found, document))
        _delete_run(storage, layout)
        found = None
    # Before the run itself: whoever sees the run sees that somebody is at it.
    storage.put(layout.begun(session), json.dumps({"host": socket.gethostname()}).encode())
    if found is None:
        data = json.dumps(run, sort_keys=True, ensure_ascii=False, indent=1).encode()
        if not storage.put_if_absent_or_same(layout.run, data):
            found = _read_run(storage, layout)  # another process began one just now
            if found is None or found["fingerprint"] != mark:
                storage.delete(layout.begun(session))
                raise OutputConflict(_differences(layout, found or {}, document))
    return Session(id=session, fingerprint=mark, resumed=found is not None)


def holds_run(storage: Storage, layout: Layout, document: Mapping[str, Any]) -> bool:
    """Whether the prefix holds the run that `document` describes, and no other."""
    found = _read_run(storage, layout)
    return found is not None and found["fingerprint"] == fingerprint(json.loads(json.dumps(dict(document))))


def _read_run(storage: Storage, layout: Layout) -> dict[str, Any] | None:
    try:
        found = storage.read_json(layout.run)
    except ObjectNotFound:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("fingerprint"), str):
        raise OutputConflict(f"{redact(layout.run)}: not a description of a run; choose another output prefix")
    return found


def _differences(layout: Layout, found: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    old = found.get("keys") or {}
    lines = [
        f"  {key}: there {json.dumps(old.get(key, '(absent)'))}, now {json.dumps(document.get(key, '(absent)'))}"
        for key in sorted({*old, *document})
        if old.get(key, "(absent)") != document.get(key, "(absent)")
    ]
    return (
        f"{redact(layout.output)}: holds another run (fingerprint {str(found.get('fingerprint'))[:12]}, this one is "
        f"{fingerprint(document)[:12]}); they differ in\n" + "\n".join(lines) + "\n"
        "choose another output prefix, or give --overwrite to delete what is there"
    )


def _refuse_foreign(storage: Storage, layout: Layout) -> None:
    for prefix in OWN_PREFIXES:
        for info in storage.list(layout.uri(prefix)):
            name = info.uri.rpartition("/")[2]
            if prefix == STATE and name.startswith(("probe-", "run.json", "begun.json")):
                continue  # a probe's leftover, or a run begun this moment
            raise OutputConflict(
                f"{redact(info.uri)}: this file lies where the run's own would go, and no run is recorded in "
                f"{redact(layout.output)}; move it away or choose another output prefix (--overwrite deletes only runs)"
            )


def _delete_run(storage: Storage, layout: Layout) -> None:
    """Commits first, so that nothing is vouched for that is gone; run.json last, so that a kill leaves a known run."""
    for prefix in (f"{STATE}/videos", f"{STATE}/commit", *OWN_PREFIXES):
        uris = (info.uri for info in storage.list(layout.uri(prefix)))
        storage.delete_many(uri for uri in uris if not uri.endswith(f"/{STATE}/run.json"))
    storage.delete(layout.run)


# ---- attempts


class Attempts:
    """How often a clip took its worker down: each try begins by leaving a mark, so that a crash is counted.

    Belongs to one session, and needs no process that survives.
    """

    def __init__(self, storage: Storage, layout: Layout, session: str, budget: int) -> None:
        self._storage, self._layout, self._session, self._budget = storage, layout, session, budget

    def begin(self, video_id: str, clip_id: str) -> int:
        """The number of this try, from 1. WorkerLost when the budget is used up, with what ended the earlier tries."""
        number = 1
        while number <= self._budget:
            uri = self._layout.attempt(self._session, video_id, clip_id, number)
            mark = {"attempt": number, "id": uuid.uuid4().hex, "host": socket.gethostname(), "cause": None}
            if self._storage.put_if_absent_or_same(uri, json.dumps(mark).encode()):
                return number
            number += 1
        causes = "; ".join(f"try {number}: {cause}" for number, cause in self.causes(video_id, clip_id).items())
        raise WorkerLost(
            f"clip {clip_id} of {video_id}: its worker was lost {self._budget} times ({causes}); "
            "look at the worker's log and memory, then run again with --retry-quarantined"
        )

    def causes(self, video_id: str, clip_id: str) -> dict[int, str]:
        """What is known to have ended each try."""
        uris = (info.uri for info in self._storage.list(self._layout.attempts_of(self._session, video_id, clip_id)))
        marks = (json.loads(data) for _, data in self._storage.read_many(uris))
        return {
            mark["attempt"]: mark["cause"] or "the process ended without a word (crash, kill, or out of memory)"
            for mark in marks
        }

    def note_cause(self, video_id: str, clip_id: str, number: int, cause: str) -> None:
        """Records what is about to end a try (the watchdog), or ended it."""
        mark = {"attempt": number, "host": socket.gethostname(), "cause": cause}
        self._storage.put(self._layout.attempt(self._session, video_id, clip_id, number), json.dumps(mark).encode())

    def others(self) -> bool:
        """Whether another session has left marks: it is at work, or was lost."""
        own = f"{self._layout.attempts(self._session)}/"
        return any(not info.uri.startswith(own) for info in self._storage.list(self._layout.all_attempts))

    def clear(self) -> None:
        """Deletes the marks of this session, which ended well, and of earlier ones, which did not."""
        marks = self._storage.list(self._layout.all_attempts)
        last = self._layout.attempts(self._session) + "0"  # "0" comes right after "/"
        self._storage.delete_many(info.uri for info in marks if info.uri < last)
