"""What is done, said once: commit objects put only if absent.

A clip's data goes to a key that only its attempt knows; then one small JSON object, created conditionally, says which
attempt counts. Readers and resumes look only at commits, so that data without a commit does not exist.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Container, Iterator
from typing import Any, Literal, TypedDict, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pipeline.errors import ObjectNotFound, StorageError
from pipeline.layout import OWN_PREFIXES, SCHEMA_VERSION, STATE, Layout, within
from pipeline.records import catalogue
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


def iter_video_commits(
    storage: Storage, layout: Layout, *, missing_ok: bool = False, renew: bool = False
) -> Iterator[VideoCommit]:
    """Every video commit of the run, by video, streamed; `renew`: and brings their catalogue up to date."""
    for uri, data in catalogue.video_commits(storage, layout, missing_ok=missing_ok, renew=renew):
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
