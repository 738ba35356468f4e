"""Flow rows made by code, for the tests of the writer, the reader and what is built on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.layout import Layout
from pipeline.records.commit import DataObject, Failure, Provenance, VideoCommit, commit_video, new_attempt
from pipeline.records.flow_schema import FlowRow
from pipeline.records.flow_writer import FlowFileWriter
from pipeline.storage import Storage

TICKS = 512
TIME_BASE = Fraction(1, 12800)


def flow_row(
    frame: int,
    *,
    count: int = 10**6,
    size: tuple[int, int] = (24, 40),
    video: str = "a",
    clip_id: str = "c",
    starts: Iterable[int] = (0,),
    noise: float = 1.0,
    **changes: Any,
) -> FlowRow:
    """Frame `frame` of `count`; `starts` are the first frames of shots. Its pixels depend on video and frame alone."""
    height, width = size
    generator = np.random.default_rng([frame, *video.encode()])
    first, last = frame in starts, frame == count - 1 or frame + 1 in starts

    def flow() -> np.ndarray:
        smooth = np.linspace(-frame, 3, height * width).reshape(height, width)
        return (np.stack([smooth, -smooth.T.reshape(height, width)]) + noise * generator.random((2, *size))).astype(
            np.float32
        )

    def sure() -> np.ndarray:
        return generator.random(size).astype(np.float32)

    values: dict[str, Any] = {
        "video_uri": f"s3://in/{video}.mp4", "video_version": "etag", "member": "", "video_id": f"{video}-id",
        "shot": 0, "clip_id": clip_id, "frame_index": frame, "pts": frame * TICKS, "time_base": TIME_BASE,
        "height": height, "width": width,
        "previous_pts": None if first else (frame - 1) * TICKS, "next_pts": None if last else (frame + 1) * TICKS,
        "flow_forward": None if last else flow(), "flow_backward": None if first else flow(),
        "validity_forward": None if last else generator.random(size) < 0.8,
        "validity_backward": None if first else generator.random(size) < 0.8,
        "confidence_forward": None if last else sure(), "confidence_backward": None if first else sure(),
        "model": "memfof-test", "weights_sha256": "0" * 64, "iterations": 4, "precision": "fp32",
    }  # fmt: skip
    return FlowRow(**(values | changes))


def write_file(path: Path, rows: Iterable[FlowRow], **settings: Any) -> Path:
    with FlowFileWriter(path, **settings) as writer:
        for row in rows:
            writer.write(row)
    return path


def committed(
    storage: Storage,
    layout: Layout,
    video: str,
    files: Sequence[tuple[str, Path, int, bool]],
    *,
    task: str = "flow",
    failure: Failure | None = None,
) -> VideoCommit:
    """Puts files (relative path, local path, frames, shared) into the output and commits them as the video's."""
    outputs = []
    for relative, local, frames, shared in files:
        size = storage.put_file(local, layout.uri(relative)).size
        outputs.append(DataObject(path=relative, size=size, sha256="00", frames=frames, shared=shared))
    commit = VideoCommit(
        video_id=f"{video}-id", uri=f"s3://in/{video}.mp4", version="etag", name=f"{video}.mp4", attempt=new_attempt(),
        status="error" if failure else "ok", failure=failure, fingerprint="f", time_base=str(TIME_BASE),
        provenance=Provenance(task=task, model="m", configuration="c", code_version="0"), outputs=tuple(outputs),
    )  # fmt: skip
    return commit_video(storage, layout, commit)[0]
