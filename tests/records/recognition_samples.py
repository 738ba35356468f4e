"""Recognition rows made by code, for the tests of the writer, the reader, and what is built on them."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.records.recognition_schema import Detections, RecognitionRow
from pipeline.records.recognition_writer import RecognitionFileWriter
from pipeline.records.rle import VOID

TICKS = 512
TIME_BASE = Fraction(1, 12800)
CLASSES = ("sky", "road", "car", "person", "thing-5")


def label_map(frame: int, size: tuple[int, int] = (24, 40)) -> np.ndarray:
    """A sky, a road, and a car that drives; void around it."""
    height, width = size
    labels = np.full(size, 0, np.uint8)
    labels[height // 2 :] = 1
    left = frame % max(1, width - 3)
    labels[height // 3 : height // 2 + 1, left : left + 4] = VOID
    labels[height // 3 : height // 2, left : left + 3] = 2
    return labels


def detections(frame: int, count: int | None = None) -> Detections:
    random = np.random.default_rng(frame)
    count = frame % 3 if count is None else count
    corners = random.uniform(0, 10, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(1, 10, (count, 2))], axis=1)
    return Detections(
        boxes.astype(np.float32), random.random(count).astype(np.float32), random.integers(0, 5, count).astype(np.int32)
    )


def row(
    frame: int,
    *,
    kind: str = "segmentation",
    video: str = "a",
    interval: int = 5,
    starts: Iterable[int] = (0,),
    **changes: Any,
) -> RecognitionRow:
    """Frame `frame`, with every `interval`-th a key frame; `starts` are the first frames of shots."""
    key = frame // interval * interval
    values: dict[str, Any] = {
        "video_uri": f"s3://in/{video}.mp4", "video_version": "etag", "member": "", "video_id": f"{video}-id",
        "shot": 0, "clip_id": "c", "frame_index": frame, "pts": frame * TICKS, "time_base": TIME_BASE,
        "height": 24, "width": 40, "previous_pts": None if frame in starts else (frame - 1) * TICKS,
        "is_key": key == frame, "key_pts": key * TICKS, "gap": frame - key,
        "side": "key" if key == frame else "before", "residual": (frame - key) / 16, "flops": 10**9,
        "model": "dff-test", "weights_sha256": "0" * 64, "precision": "fp32",
        **({"labels": label_map(frame)} if kind == "segmentation" else {"detections": detections(frame)}),
    }  # fmt: skip
    return RecognitionRow(**(values | changes))


def write_file(path: Path, rows: Iterable[RecognitionRow], **settings: Any) -> Path:
    with RecognitionFileWriter(path, **({"kind": "segmentation", "classes": CLASSES} | settings)) as writer:
        for one in rows:
            writer.write(one)
    return path
