"""Garbage collection of a run's prefix: what lost tries left behind, and no commit will ever name.

Removed, once it is old by the store's own clock: clips' data and outputs that no commit names, marks of sessions that
died, probes, half-written files and unfinished multipart uploads. Never: what any commit names, what a group of small
videos is being made of or into, what a session that is at work could still commit, anything that is not known here.

A session is at work while its youngest mark (it leaves one when it begins, and one before each clip and each join) is
not older than the age asked for, and for an hour in any case. While one is, nothing goes that a name could reach again:
outputs, whose names follow from the videos'. Data of clips have names of their session's own, and go with it. Nothing
is trusted for long: while garbage is deleted, the marks are read again every two seconds, and each object is looked at
once more before it goes.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.errors import AccessDenied, ConfigError, InputNotFound, ObjectNotFound, StorageError
from pipeline.layout import OWN_PREFIXES, STATE, Layout
from pipeline.records.commit import iter_clip_commits, iter_video_commits
from pipeline.records.groups import iter_groups
from pipeline.storage import ObjectInfo, Storage, Unfinished, ordered, redact

DAY_S = 86_400.0
AT_WORK_S = 3_600.0
"""A session that left a mark since then is at work, however young the garbage that is asked for."""
LOOK_EVERY_S = 2.0
"""A session needs longer from its first mark to its first output."""
BATCH = 100
"""Objects a look, and a request."""

CLIP_DATA, OUTPUT, MARKS, PROBE, HALF = "clip data", "outputs", "marks of dead sessions", "probes", "unfinished writes"
KINDS = (CLIP_DATA, OUTPUT, MARKS, PROBE, HALF)

_TRY = re.compile(r"-(\d{8}T\d{6}-[0-9a-f]{8})-\d+\.[^/]+$")
"""The end of the name of a clip's data: the session that made it."""
_SEGMENTS = f"{STATE}/segments/"


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing to be removed."""

    kind: str
    path: str
    """Relative to the output prefix."""
    size: int
    modified: float | None
    """Seconds since the epoch, by the store's clock."""
    found: ObjectInfo | Unfinished
    session: str = ""
    """Whose it is; "" where any session might write it again."""


@dataclass(slots=True)
class Survey:
    """What a look at a prefix found."""

    garbage: list[Garbage] = field(default_factory=list)
    at_work: frozenset[str] = frozenset()
    """Sessions."""
    young: int = 0
    """Objects and writes that no commit names and that are too young."""
    reachable: int = 0
    """Old ones that a session at work might still name."""
    undated: int = 0
    """Those whose age the store does not tell."""
    now: float = 0.0
    """By the store's clock."""
    notes: list[str] = field(default_factory=list)
    """What could not be looked at."""

    def of(self, kind: str) -> list[Garbage]:
        return [one for one in self.garbage if one.kind == kind]


def survey(storage: Storage, layout: Layout, older_than_s: float = DAY_S) -> Survey:
    """Finds the garbage of a run. Writes nothing.

    Raises InputNotFound where no run is recorded, StorageError for a commit that cannot be read: what it names is not
    known, so nothing is garbage.
    """
    if not storage.exists(layout.run):
        raise InputNotFound(f"{redact(layout.output)}: no run's output; give the OUTPUT that a job was given")
    found = Survey(now=storage.clock(layout.output))
    limit = found.now - older_than_s
    # Objects before commits: what is committed in between is then seen to be named.
    candidates = [*_candidates(storage, layout), *_unfinished(storage, layout, found)]
    marks = list(_marks(storage, layout))
    found.at_work = _at_work(marks, found.now, older_than_s)
    named = _named(storage, layout)
    for one in candidates:
        if one.kind != HALF and one.path in named:
            continue
        if one.modified is None:
            found.undated += 1
        elif one.modified >= limit:
            found.young += 1
        elif one.kind != PROBE and not _out_of_reach(one, found.at_work):
            found.reachable += 1
        else:
            found.garbage.append(one)
    for session, info in marks:
        if session not in found.at_work and info.modified is not None and info.modified < limit:
            found.garbage.append(_garbage(MARKS, layout, info, session))
    return found


def remove(storage: Storage, layout: Layout, found: Survey, older_than_s: float = DAY_S) -> list[Garbage]:
    """Deletes what `survey` found, unless it has changed, or come into the reach of a session, since; returns what."""
    removed: list[Garbage] = []
    looked, at_work = -LOOK_EVERY_S, found.at_work
    for start in range(0, len(found.garbage), BATCH):
        if time.monotonic() - looked >= LOOK_EVERY_S:
            looked = time.monotonic()
            at_work = _at_work(_marks(storage, layout), storage.clock(layout.output), older_than_s)
        batch = [
            one for one in found.garbage[start : start + BATCH] if one.kind == PROBE or _out_of_reach(one, at_work)
        ]
        same = ordered(lambda one: _same(storage, one), batch)
        unchanged = [one for one, is_same in zip(batch, same, strict=True) if is_same]
        storage.delete_many(one.found.uri for one in unchanged if one.kind != HALF)
        for one in unchanged:
            if isinstance(one.found, Unfinished):
                storage.discard(one.found)
        removed += unchanged
    return removed


def _candidates(storage: Storage, layout: Layout) -> Iterator[Garbage]:
    """Everything that might be garbage, whatever its age."""
    for prefix in OWN_PREFIXES:
        for info in storage.list(layout.uri(prefix)):
            kind = _kind(_path(layout, info.uri))
            if kind is not None:
                yield _garbage(kind, layout, info, _session(info.uri))


def _unfinished(storage: Storage, layout: Layout, found: Survey) -> Iterator[Garbage]:
    try:
        for prefix in OWN_PREFIXES:
            for item in storage.unfinished(layout.uri(prefix)):
                yield _garbage(HALF, layout, item, _session(item.uri))
    except (AccessDenied, StorageError) as error:  # a right of its own on S3, and not every server lists them
        found.notes.append(f"unfinished uploads were not looked for: {error}")


def _kind(path: str) -> str | None:
    """What an object is where nobody names it; None for what is never garbage."""
    if path.startswith(_SEGMENTS):
        return CLIP_DATA
    if path.startswith(f"{STATE}/probe-"):
        return PROBE
    folder = path.partition("/")[0]
    below = path.removeprefix(f"{STATE}/quarantine/") if folder == STATE else path
    if path.startswith(f"{STATE}/ungrouped/") or below.partition("/")[0] in OWN_PREFIXES[:-1]:
        return OUTPUT
    return None


def _named(storage: Storage, layout: Layout) -> set[str]:
    """Paths that commits name, and those of groups that are being made."""
    named: set[str] = set()
    for commit in iter_video_commits(storage, layout, missing_ok=True):
        named.update(data.path for data in commit.outputs)
        if commit.failure is not None and commit.failure.prefix is not None:
            named.add(commit.failure.prefix.path)
    for clip in iter_clip_commits(storage, layout, missing_ok=True):
        data = (clip.data, clip.failure.prefix if clip.failure else None)
        named.update(one.path for one in data if one is not None)
    for group in iter_groups(storage, layout):
        if not group.done:
            named.add(group.path)
            named.update(member.source.path for member in group.members)
    return named


def _marks(storage: Storage, layout: Layout) -> Iterator[tuple[str, ObjectInfo]]:
    start = f"{layout.all_attempts}/"
    for info in storage.list(layout.all_attempts):
        yield info.uri.removeprefix(start).partition("/")[0], info


def _at_work(marks: Iterable[tuple[str, ObjectInfo]], now: float, older_than_s: float) -> frozenset[str]:
    """Sessions whose youngest mark is not old; one without a date is taken as young."""
    dead_before = now - max(older_than_s, AT_WORK_S)
    return frozenset(session for session, info in marks if info.modified is None or info.modified >= dead_before)


def _out_of_reach(one: Garbage, at_work: frozenset[str]) -> bool:
    return one.session not in at_work if one.session else not at_work


def _session(uri: str) -> str:
    match = _TRY.search(uri)
    return match[1] if match and f"/{_SEGMENTS}" in uri else ""


def _same(storage: Storage, one: Garbage) -> bool:
    if isinstance(one.found, Unfinished):
        return True
    try:
        now = storage.info(one.found.uri)
    except ObjectNotFound:
        return False
    # S3's listings date to the millisecond, its look-ups to the second.
    later = one.modified is not None and now.modified is not None and now.modified >= one.modified + 1
    return now.version == one.found.version and not later


def _path(layout: Layout, uri: str) -> str:
    return uri.removeprefix(layout.uri(""))


def _garbage(kind: str, layout: Layout, found: ObjectInfo | Unfinished, session: str) -> Garbage:
    modified = found.began if isinstance(found, Unfinished) else found.modified
    return Garbage(kind, _path(layout, found.uri), max(0, found.size), modified, found, session)


def table(found: Sequence[Garbage], now: float) -> str:
    """Objects, bytes and the oldest's age, by kind."""
    by_kind: dict[str, list[Garbage]] = defaultdict(list)
    for one in found:
        by_kind[one.kind].append(one)
    lines = [f"{'':24} {'objects':>9} {'MB':>12} {'oldest, days':>13}"]
    for kind in (kind for kind in KINDS if by_kind[kind]):
        lines.append(_line(kind, by_kind[kind], now))
    return "\n".join([*lines, _line("all", found, now)])


def _line(name: str, found: Sequence[Garbage], now: float) -> str:
    oldest = max((now - (one.modified or now) for one in found), default=0.0) / DAY_S
    return f"{name:24} {len(found):>9} {sum(one.size for one in found) / 1e6:>12.3f} {oldest:>13.1f}"


def document(found: Survey, removed: Sequence[Garbage] | None) -> dict[str, object]:
    """As JSON: what is garbage, and what of it was removed (null: nothing was to be)."""
    return {
        "garbage": [
            {"kind": one.kind, "path": one.path, "bytes": one.size, "modified": one.modified} for one in found.garbage
        ],
        "removed": None if removed is None else [one.path for one in removed],
        "sessions_at_work": sorted(found.at_work),
        "kept_young": found.young,
        "kept_reachable": found.reachable,
        "kept_undated": found.undated,
        "now": found.now,
        "notes": found.notes,
    }


def age(text: str) -> float:
    """Seconds of "1d", "12h", "30m", "90s". ConfigError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no age; give a number and its unit: 90s, 30m, 12h, 1d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": DAY_S}[match[2]]
