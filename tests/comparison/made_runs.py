"""Runs made by code, without a cluster: a prefix with its description, its commits and its files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.layout import Layout
from pipeline.records.commit import Failure
from pipeline.records.recognition_writer import RecognitionFileWriter
from pipeline.records.session import open_run
from pipeline.storage import Storage
from tests.records import recognition_samples
from tests.records.flow_samples import committed, flow_row, write_file

FAILURE = Failure(stage="decode", error_type="CorruptVideo", message="a flipped bit")
STORAGE = Storage()


def flow_run(output: str, videos: Mapping[str, Iterable[Any]], **keys: Any) -> str:
    """A run of flow over `videos`: the rows of each, or the numbers of its frames."""

    def write(path: Path, name: str, frames: Iterable[Any]) -> int:
        rows = [flow_row(one, video=name, count=8) if isinstance(one, int) else one for one in frames]
        write_file(path, rows, codec="none")
        return len(rows)

    return _run("flow", output, videos, write, ".parquet", keys)


def recognition_run(output: str, videos: Mapping[str, Iterable[Any]], kind: str = "segmentation", **keys: Any) -> str:
    def write(path: Path, name: str, frames: Iterable[Any]) -> int:
        rows = [recognition_samples.row(one, kind=kind, video=name) if isinstance(one, int) else one for one in frames]
        with RecognitionFileWriter(path, kind=kind, classes=recognition_samples.CLASSES) as writer:
            for row in rows:
                writer.write(row)
        return len(rows)

    return _run("recognize", output, videos, write, ".parquet", keys)


def video_run(output: str, videos: Mapping[str, bytes], **keys: Any) -> str:
    """A run of interpolation whose finished videos are given."""

    def write(path: Path, name: str, data: bytes) -> int:
        path.write_bytes(data)
        return 1

    return _run("interpolate", output, videos, write, "", keys)


def _run(task: str, output: str, videos: Mapping[str, Any], write: Any, suffix: str, keys: Mapping[str, Any]) -> str:
    layout = Layout(output)
    open_run(STORAGE, layout, {"task": task, "model": "m", **keys})
    folder = {"flow": "flow", "recognize": "recognition", "interpolate": "video"}[task]
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in videos.items():
            if content is None:
                committed(STORAGE, layout, name, [], task=task, failure=FAILURE)
                continue
            local = Path(scratch) / name
            frames = write(local, name, content)
            committed(STORAGE, layout, name, [(f"{folder}/{name}.mp4{suffix}", local, frames, False)], task=task)
    return output
