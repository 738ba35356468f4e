"""What is in a bucket after a run, by pyarrow and PyAV alone: rows, frames and digests of each video.

Only the documented layout is relied on: commits name objects, and hold their size, digest and count.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.e2e.support import Output, frames_of

FOLDERS = {"interpolate": "video/", "flow": "flow/", "recognize": "recognition/"}
STATE = "_motionmill"


@dataclass
class Found:
    """The videos of an output prefix, by input URI."""

    videos: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    """(rows or frames, digest of each column of theirs), of those that are committed."""
    quarantined: dict[str, str] = field(default_factory=dict)
    """Error types of those that failed."""
    problems: list[str] = field(default_factory=list)
    """Contradictions: what no reader may ever find."""
    left: list[str] = field(default_factory=list)
    """Objects that nothing names: allowed while a run is unfinished, not after it."""


def inspect(task: str, output: Output) -> Found:
    found = Found()
    folder = FOLDERS[task]
    named: Counter[str] = Counter()
    tables: dict[str, pa.Table] = {}
    claimed: Counter[str] = Counter()
    commits = [json.loads(output.files[path]) for path in output.below(f"{STATE}/videos/")]
    for commit in commits:
        uri = commit["uri"]
        if uri in found.videos or uri in found.quarantined:
            found.problems.append(f"{uri} is committed twice")
        if commit["status"] != "ok":
            found.quarantined[uri] = commit["failure"]["error_type"]
            continue
        for part in commit["outputs"]:
            data = output.files.get(part["path"])
            if data is None:
                found.problems.append(f"{uri}: {part['path']} is committed and not there")
            elif hashlib.sha256(data).hexdigest() != part["sha256"] or len(data) != part["size"]:
                found.problems.append(f"{uri}: {part['path']} is not what was committed")
            named[part["path"]] += 1
        if found.problems:
            continue
        if task == "interpolate":
            paths = [part["path"] for part in commit["outputs"]]
            videos = [path for path in paths if not path.endswith(".parquet")]
            frames = [frame for path in videos for frame in frames_of(output.files[path])]
            columns = _columns([{"time": time, "picture": digest} for time, digest in frames])
            for path in {*paths} - {*videos}:
                columns |= _columns(pq.read_table(pa.BufferReader(output.files[path])).to_pylist())
            found.videos[uri] = len(frames), columns
            continue
        rows = []
        for part in commit["outputs"]:
            path = part["path"]
            if path not in tables:
                tables[path] = pq.read_table(pa.BufferReader(output.files[path]))
            mine = tables[path].filter(pc.equal(tables[path]["video_id"], commit["video_id"]))
            claimed[path] += len(mine)
            rows += mine.to_pylist()
        numbers = [row["frame_index"] for row in rows]
        if sorted(numbers) != list(range(len(numbers))):
            found.problems.append(f"{uri}: frames {numbers} are not one each")
        found.videos[uri] = len(rows), _columns(sorted(rows, key=lambda row: row["frame_index"]))
    found.problems += [
        f"{path}: {len(table) - claimed[path]} rows of no committed video"
        for path, table in tables.items()
        if claimed[path] != len(table)
    ]
    clips = [json.loads(output.files[path]) for path in output.below(f"{STATE}/commit/")]
    for clip in clips:
        for part in (clip["data"], (clip["failure"] or {}).get("prefix")):
            if part is not None:
                named[part["path"]] += 1
                data = output.files.get(part["path"])
                finished = clip["uri"] in found.videos
                if not finished and (data is None or hashlib.sha256(data).hexdigest() != part["sha256"]):
                    found.problems.append(
                        f"{clip['uri']}, clip {clip['clip_index']}: its data is not what was committed"
                    )
    found.left += [path for path in output.below(folder) if path not in named]
    for part in ("segments/", "ungrouped/", "attempts/", "probe-"):
        found.left += [path for path in output.below(f"{STATE}/{part}") if path not in named]
    found.left += [path for path in output.files if path.endswith(".part")]
    return found


def _columns(rows: list[dict[str, Any]]) -> dict[str, str]:
    columns = {name: hashlib.sha256() for name in rows[0]} if rows else {}
    for row in rows:
        for name, value in row.items():
            columns[name].update(repr(value).encode())
    return {name: digest.hexdigest()[:32] for name, digest in columns.items()}


def half_visible(task: str, output: Output, clean: Found) -> list[str]:
    """What a reader may not see while a run is unfinished: contradictions, and videos unlike the clean run's."""
    now = inspect(task, output)
    wrong = [
        f"{uri} differs from the clean run's" for uri, video in now.videos.items() if video != clean.videos.get(uri)
    ]
    if task == "interpolate":  # video/ is browsed by people, who read no commits
        whole = {rows for rows, _ in clean.videos.values()}
        for path in output.below("video/"):
            if not path.endswith(".parquet") and len(frames_of(output.files[path])) not in whole:
                wrong.append(f"{path} is visible and not whole")
    return now.problems + wrong


def difference(now: Found, clean: Found, poisoned: dict[str, tuple[str, ...]]) -> list[str]:
    """All that is wrong after a run that ended: videos lost, doubled or other than the clean run's, and what is left.

    poisoned: input URIs that must be in quarantine, and with which error types.
    """
    wrong = list(now.problems)
    for uri in sorted({*clean.videos, *now.videos}):
        if uri not in now.videos:
            wrong.append(f"{uri} is lost")
        elif uri not in clean.videos:
            wrong.append(f"{uri} should not be there")
        elif now.videos[uri] != clean.videos[uri]:
            (rows, columns), (expected, right) = now.videos[uri], clean.videos[uri]
            other = sorted(name for name in {*columns, *right} if columns.get(name) != right.get(name))
            wrong.append(f"{uri} has {rows} rows, {expected} expected; other content in {other}")
    for uri, kind in now.quarantined.items():
        if kind not in poisoned.get(uri, ()):
            wrong.append(f"{uri} is in quarantine: {kind}")
    wrong += [f"{uri} is not in quarantine" for uri in poisoned if uri not in now.quarantined]
    return wrong + [f"left behind: {path}" for path in now.left]
