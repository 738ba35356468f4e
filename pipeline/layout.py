"""Every path of a run's output prefix, and the version of what is stored there.

video/<name>                                              finished video (interpolation)
video/<name>.decisions.parquet, <name>.preview.mp4        how it was made: a row a frame, and a picture of them
flow/<name>.parquet, .part-<n>.parquet, .preview.mp4      finished video (flow): its records, and a picture of them
flow/group-<n>.parquet                                    records of several small videos
_motionmill/run.json                                      what the run is: its fingerprint, key by key
_motionmill/segments/<video_id>/<clip_id>-<attempt>.mp4   a clip's data, unique to the attempt that wrote it
_motionmill/commit/<video_id>/<clip_id>.json              which attempt counts: put once, conditionally
_motionmill/videos/<video_id>.json                        the same for a whole video
_motionmill/videos.parquet                                copies of many of these, to read them at once
_motionmill/ungrouped/<video_id>.parquet                  records of a small video, until it is grouped
_motionmill/groups/<n>.json                               which small videos a group takes in: put once, conditionally
_motionmill/attempts/<session>/begun.json                 a session that is at work, or died
_motionmill/attempts/<session>/<video_id>/<clip_id>/      <n>.json: tries that began, and what ended them
_motionmill/quarantine/quarantine.parquet                 what failed, and why
_motionmill/quarantine/<folder>/<name>                    the good beginning of a video that failed
_motionmill/summary.json, runs/<session>.json             how the last run, and each session, went
_motionmill/calibration.json                              what work cost here, for --plan
_motionmill/report.html                                   the same for people, with pictures
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

from pipeline.config import InputConfig

SCHEMA_VERSION = 1
"""Of every JSON and Parquet file named here; raised when a reader of the old one would misread the new one."""

STATE = "_motionmill"
OWN_PREFIXES = ("video", "flow", "recognition", STATE)
"""Everything that a run writes lies below these."""

COMPONENT_BYTES = 200
NAME_BYTES = 700
_SUFFIXES = frozenset(InputConfig().extensions)
_OPAQUE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@dataclass(frozen=True, slots=True)
class Layout:
    """The URIs of one output prefix. `data` is where a task keeps its clips' data: segments, flow or recognition."""

    output: str
    data: str = f"{STATE}/segments"

    def uri(self, relative: str) -> str:
        return f"{self.output.rstrip('/')}/{relative}"

    def clip_data(self, video_id: str, clip_id: str, attempt: str, suffix: str = ".mp4") -> str:
        """Relative path of one attempt's data."""
        return f"{self.data}/{video_id}/{clip_id}-{attempt}{suffix}"

    def clip_data_of(self, video_id: str) -> str:
        """Relative folder of all attempts' data of a video."""
        return f"{self.data}/{video_id}"

    def final(self, name: str, suffix: str = ".mp4", folder: str = "video") -> str:
        """Relative path of a finished video, or of one of its files: ".mp4", ".parquet", ".preview.mp4", …"""
        whole = folder == "video" and suffix.count(".") == 1
        return f"{folder}/{final_name(name, suffix) if whole else record_name(name, suffix)}"

    def good_prefix(self, name: str, suffix: str = ".mp4", folder: str = "video") -> str:
        """Relative path of the good beginning of a video that failed."""
        return f"{STATE}/quarantine/{self.final(name, suffix, folder)}"

    def ungrouped(self, video_id: str, suffix: str) -> str:
        """Relative path of a small video's output until it shares a file with others."""
        return f"{STATE}/ungrouped/{video_id}{suffix}"

    def group_data(self, number: int, suffix: str, folder: str) -> str:
        """Relative path of a file that several videos share; no video's own file is called so."""
        return f"{folder}/group-{number:06d}{suffix}"

    @property
    def groups(self) -> str:
        return self.uri(f"{STATE}/groups")

    def group(self, number: int) -> str:
        return f"{self.groups}/{number:06d}.json"

    @property
    def run(self) -> str:
        return self.uri(f"{STATE}/run.json")

    @property
    def summary(self) -> str:
        return self.uri(f"{STATE}/summary.json")

    @property
    def calibration(self) -> str:
        return self.uri(f"{STATE}/calibration.json")

    @property
    def report(self) -> str:
        return self.uri(f"{STATE}/report.html")

    @property
    def quarantine(self) -> str:
        return self.uri(f"{STATE}/quarantine/quarantine.parquet")

    @property
    def clip_commits(self) -> str:
        return self.uri(f"{STATE}/commit")

    @property
    def video_commits(self) -> str:
        return self.uri(f"{STATE}/videos")

    @property
    def catalogue(self) -> str:
        return self.uri(f"{STATE}/videos.parquet")

    def clip_commits_of(self, video_id: str) -> str:
        return f"{self.clip_commits}/{video_id}"

    def clip_commit(self, video_id: str, clip_id: str) -> str:
        return f"{self.clip_commits}/{video_id}/{clip_id}.json"

    def video_commit(self, video_id: str) -> str:
        return f"{self.video_commits}/{video_id}.json"

    def session_summary(self, session: str) -> str:
        return self.uri(f"{STATE}/runs/{session}.json")

    @property
    def all_attempts(self) -> str:
        return self.uri(f"{STATE}/attempts")

    def attempts(self, session: str) -> str:
        return f"{self.all_attempts}/{session}"

    def begun(self, session: str) -> str:
        return f"{self.attempts(session)}/begun.json"

    def attempts_of(self, session: str, video_id: str, clip_id: str) -> str:
        return f"{self.attempts(session)}/{video_id}/{clip_id}"

    def attempt(self, session: str, video_id: str, clip_id: str, number: int) -> str:
        return f"{self.attempts_of(session, video_id, clip_id)}/{number:04d}.json"


def final_name(name: str, suffix: str) -> str:
    """Where the video `name` goes, in a container of `suffix`: different names never meet.

    "a.mp4" → "a.mp4"; "a.mkv" → "a.mkv.mp4"; and so that no third name meets these, "a.mkv.mp4" → "a.mkv.mp4.mp4"
    and "a" (no video's suffix) → "a.video.mp4". "a.mp4.preview.mp4" gets another suffix too: it is what the preview of
    "a.mp4" is called.
    """
    stem = name.removesuffix(suffix)
    if stem != name and stem.rpartition("/")[2] and not _marked(stem) and not _marked(stem.removesuffix(".preview")):
        return name
    return f"{name}{suffix}" if _marked(name) and not name.lower().endswith(".video") else f"{name}.video{suffix}"


def record_name(name: str, suffix: str) -> str:
    """Where records of the video `name` go: "a.mp4" → "a.mp4.parquet", "a" (no video's suffix) → "a.video.parquet".

    Different names never meet, whatever the suffixes; nor does any meet a name whose stem has no video's suffix.
    """
    whole = _marked(name) and not name.lower().endswith(".video")
    return f"{name}{suffix}" if whole else f"{name}.video{suffix}"


def _marked(name: str) -> bool:
    suffix = re.search(r"\.[^./]+$", name)
    return suffix is not None and (suffix[0].lower() in _SUFFIXES or suffix[0].lower() == ".video")


def within(path: str) -> bool:
    """Whether a relative path stays below where it begins, on any store: no empty part, "." or "..", no backslash."""
    return "\\" not in path and "\0" not in path and not {*path.split("/")} & {"", ".", ".."}


def sanitise(name: str) -> str:
    """A relative path that any store and any file system takes; different names stay different.

    Control and invisible characters, backslash and "%" are percent-encoded, so are "." and ".." and empty parts; a part
    over 200 bytes (or a path over 700) is shortened around a digest. Ordinary names, in any script, stay as they are.
    """
    parts = [_component(part) for part in name.split("/")]
    path = "/".join(parts)
    if len(path.encode()) > NAME_BYTES:
        digest = hashlib.sha256("/".join(parts[:-1]).encode()).hexdigest()[:16]
        path = f"%~{digest}/{parts[-1]}"
    return path


def _component(part: str) -> str:
    if part in ("", ".", ".."):
        return "%2E" * len(part) or "%"  # a lone "%" never comes out of encoding
    encoded = "".join(_character(character) for character in part)
    if len(encoded.encode()) <= COMPONENT_BYTES:
        return encoded
    # "%~" never comes out of encoding either, so a shortened name cannot meet a whole one.
    mark = f"%~{hashlib.sha256(encoded.encode()).hexdigest()[:16]}"
    stem, dot, suffix = encoded.rpartition(".")
    if not dot or len(suffix) > 8 or not suffix.isalnum() or not suffix.isascii():
        stem, suffix = encoded, ""
    tail = mark + (f".{suffix}" if suffix else "")
    return stem.encode()[: COMPONENT_BYTES - len(tail)].decode(errors="ignore") + tail


def _character(character: str) -> str:
    if character in "%\\" or unicodedata.category(character) in _OPAQUE:
        return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
    return character
