"""What is done, said once: commit objects put only if absent, the run they belong to, and the tries that led there.

A clip's data goes to a key that only its attempt knows; then one small JSON object, created conditionally, says which
attempt counts. Readers and resumes look only at commits, so that data without a commit does not exist.
"""

from __future__ import annotations

import hashlib
import json
import socket
import uuid
from collections.abc import Container, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pipeline.errors import ObjectNotFound, OutputConflict, StorageError, WorkerLost
from pipeline.layout import OWN_PREFIXES, SCHEMA_VERSION, STATE, Layout, within
from pipeline.storage import Storage, redact
from pipeline.types import VideoRef


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataObject(_Frozen):
    """An object in the output prefix that a commit vouches for."""

    path: str
    """Relative to the output prefix."""
    size: int = Field(ge=0)
    sha256: str
    frames: int = Field(ge=0)
    """Frames (or rows of a table) in it."""
    shared: bool = False
    """Whether it holds other videos' rows too (pipeline/records/groups.py)."""

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        """Whoever may change a commit shall not make others read, or delete, what lies outside the prefix."""
        if not within(path):
            raise ValueError(f"{path!r} leads out of the output prefix")
        return path


class Failure(_Frozen):
    """Why a clip or a video is in quarantine."""

    stage: str
    error_type: str
    message: str
    pts: int | None = None
    """How far it got, in the video's time_base."""
    attempts: int = 1
    traceback: str = ""
    prefix: DataObject | None = None
    """The good beginning, where frames decoded before the error."""


class Provenance(_Frozen):
    """What made the bytes; nothing of the host or the time, so that the same input gives the same record."""

    task: str
    model: str
    weights_sha256: str = ""
    """Digest of the weights, empty for a model without any."""
    configuration: str
    """Digest of the configuration that can change an output byte."""
    code_version: str


class _Commit(_Frozen):
    schema_version: Literal[1] = 1
    video_id: str
    uri: str
    """Of the input, without secrets."""
    member: str = ""
    version: str
    name: str
    status: Literal["ok", "error"]
    attempt: str
    """Unique to the try that wrote this."""
    fingerprint: str
    """Of the run."""
    provenance: Provenance
    failure: Failure | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    """The task's own facts, as JSON values."""

    @field_validator("video_id", "name", "clip_id", check_fields=False)
    @classmethod
    def _harmless(cls, text: str, info: ValidationInfo) -> str:
        """They become parts of paths that are written and deleted."""
        if not within(text) or ("/" in text and info.field_name != "name"):
            raise ValueError(f"{text!r} is no {info.field_name}")
        return text

    def model_post_init(self, _context: Any, /) -> None:
        if (self.status == "error") != (self.failure is not None):
            raise ValueError(f"{self.video_id}: status {self.status!r} with failure {self.failure!r}")

    def to_json(self) -> bytes:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, indent=1).encode()


class Identity(TypedDict):
    """The fields that say which video a commit is of."""

    video_id: str
    uri: str
    member: str
    version: str
    name: str


def identity(video: VideoRef) -> Identity:
    return Identity(
        video_id=video.video_id,
        uri=redact(video.uri),
        member=video.member,
        version=video.version,
        name=video.name,
    )


class ClipCommit(_Commit):
    """One clip is done, or failed for good."""

    clip_id: str
    clip_index: int
    clip_count: int
    start_pts: int
    end_pts: int
    time_base: str
    """As "1/24000"."""
    data: DataObject | None = None


class VideoCommit(_Commit):
    """One video is done (`outputs` are complete), or failed for good."""

    time_base: str = ""
    outputs: tuple[DataObject, ...] = ()
    clips: int = 0
    """Clips planned."""
    failed_clips: int = 0


C = TypeVar("C", ClipCommit, VideoCommit)


def new_attempt() -> str:
    return uuid.uuid4().hex[:16]


def commit_clip(storage: Storage, layout: Layout, commit: ClipCommit) -> tuple[ClipCommit, bool]:
    """Commits, unless another attempt has: (the commit that counts, whether it is this one).

    A lost acknowledgement is recognised: finding one's own bytes is success.
    """
    return _commit(storage, layout.clip_commit(commit.video_id, commit.clip_id), commit)


def commit_video(storage: Storage, layout: Layout, commit: VideoCommit) -> tuple[VideoCommit, bool]:
    """As `commit_clip`, for a whole video."""
    return _commit(storage, layout.video_commit(commit.video_id), commit)


def _commit(storage: Storage, uri: str, commit: C) -> tuple[C, bool]:
    if storage.put_if_absent_or_same(uri, commit.to_json()):
        return commit, True
    winner = _parse(type(commit), uri, storage.read_bytes(uri))
    return winner, winner.attempt == commit.attempt


def _parse(kind: type[C], uri: str, data: bytes) -> C:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise StorageError(
            f"{redact(uri)}: not a commit of schema {SCHEMA_VERSION}: {place}: {first['msg']}; "
            "read it with the code version that wrote it, or delete it to have the work done again"
        ) from None


def load_clip_commits(storage: Storage, layout: Layout, video_id: str) -> dict[str, ClipCommit]:
    """A video's clip commits by clip_id, in the clips' order: one listing, then concurrent reads."""
    uris = (info.uri for info in storage.list(layout.clip_commits_of(video_id)))
    commits = (_parse(ClipCommit, uri, data) for uri, data in storage.read_many(uris))
    return {commit.clip_id: commit for commit in commits}


def iter_clip_commits(storage: Storage, layout: Layout, *, missing_ok: bool = False) -> Iterator[ClipCommit]:
    """Every clip commit of the run, by video and clip, streamed; `missing_ok`: a run may be deleting some meanwhile."""
    uris = (info.uri for info in storage.list(layout.clip_commits))
    for uri, data in storage.read_many(uris, missing_ok=missing_ok):
        yield _parse(ClipCommit, uri, data)


def iter_video_commits(storage: Storage, layout: Layout, *, missing_ok: bool = False) -> Iterator[VideoCommit]:
    uris = (info.uri for info in storage.list(layout.video_commits))
    for uri, data in storage.read_many(uris, missing_ok=missing_ok):
        yield _parse(VideoCommit, uri, data)


def load_video_commits(storage: Storage, layout: Layout) -> dict[str, VideoCommit]:
    """The run's video commits by video_id."""
    return {commit.video_id: commit for commit in iter_video_commits(storage, layout)}


def committed_videos(storage: Storage, layout: Layout) -> set[str]:
    """The video_ids of all video commits, good or not: from one listing."""
    return {info.uri.rsplit("/", 1)[1].removesuffix(".json") for info in storage.list(layout.video_commits)}


def load_video_commit(storage: Storage, layout: Layout, video_id: str) -> VideoCommit | None:
    """One video's commit; None if it has none."""
    uri = layout.video_commit(video_id)
    try:
        return _parse(VideoCommit, uri, storage.read_bytes(uri))
    except ObjectNotFound:
        return None


def forget_failures(storage: Storage, layout: Layout) -> int:
    """Deletes every error commit, so that a rerun tries these again; returns how many.

    Videos go first: a video without its commit is looked at again, whatever its clips say.
    """
    forgotten = 0
    for commit in list(iter_video_commits(storage, layout)):
        if commit.status == "error":
            _forget(storage, layout, commit)
            forgotten += 1
    for clip in iter_clip_commits(storage, layout):
        if clip.status == "error":
            storage.delete(layout.clip_commit(clip.video_id, clip.clip_id))
            forgotten += 1
    return forgotten


def forget_video(storage: Storage, layout: Layout, video_id: str) -> None:
    """Deletes all that is stored of a video: its commits first, then what they named.

    Its rows in a file that it shares stay until that file is made anew; without a commit they do not count.
    """
    commit = _parse(VideoCommit, layout.video_commit(video_id), storage.read_bytes(layout.video_commit(video_id)))
    _forget(storage, layout, commit)
    for prefix in (layout.clip_commits_of(video_id), layout.uri(layout.clip_data_of(video_id))):
        storage.delete_many(info.uri for info in storage.list(prefix))


def _forget(storage: Storage, layout: Layout, commit: VideoCommit) -> None:
    storage.delete(layout.video_commit(commit.video_id))
    prefix = commit.failure.prefix if commit.failure else None
    own = [data for data in (*commit.outputs, *([prefix] if prefix else [])) if not data.shared]
    storage.delete_many(layout.uri(data.path) for data in own)


def tidy(storage: Storage, layout: Layout, commit: VideoCommit) -> None:
    """Deletes what a committed video needs no longer: a good one's clips, and data of lost tries that no commit names.

    Commits of clips go before their data: none ever names an object that is gone.
    """
    named: set[str] = set()
    if commit.status == "ok" and layout.data.startswith(STATE):  # where clips are the output, they stay
        storage.delete_many(info.uri for info in storage.list(layout.clip_commits_of(commit.video_id)))
    else:
        for clip in load_clip_commits(storage, layout, commit.video_id).values():
            data = clip.failure.prefix if clip.failure else clip.data
            named |= {data.path} if data else set()
    folder = layout.clip_data_of(commit.video_id)
    storage.delete_many(
        info.uri for info in storage.list(layout.uri(folder)) if f"{folder}/{info.uri.rpartition('/')[2]}" not in named
    )


def tidy_unfinished(storage: Storage, layout: Layout, done: Container[str]) -> None:
    """`tidy` for those of the committed videos `done` whose process was killed before it could."""
    for prefix in (layout.clip_commits, layout.uri(layout.data)):
        left = {info.uri.rsplit("/", 2)[1] for info in storage.list(prefix)}
        for video_id in sorted(left):
            if video_id in done:
                uri = layout.video_commit(video_id)
                tidy(storage, layout, _parse(VideoCommit, uri, storage.read_bytes(uri)))


def sweep(storage: Storage, layout: Layout) -> None:
    """Deletes files that processes of this run, killed in the middle of a write, left half-written."""
    for prefix in OWN_PREFIXES:
        storage.sweep(layout.uri(prefix))


# ---- the run


class Session(_Frozen):
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
