"""The flow task: what it asks of a video, what it will cost, and how a video's clips become its files of records.

Probing, joining and grouping need no model: torch is imported in the actors (pipeline/tasks/flow_clip.py), and where
the driver looks at weights (pipeline/tasks/flow_model.py).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from pipeline import __version__
from pipeline.config import fingerprint_keys
from pipeline.config_flow import FlowConfig
from pipeline.records import flow_writer
from pipeline.records.flow_scale import stored_size
from pipeline.tasks.base import ClipPart, Grouping, VideoOutput
from pipeline.tasks.record_files import fetched, only, outputs
from pipeline.types import VideoInfo, VideoRef

if TYPE_CHECKING:
    from pipeline.tasks.flow_clip import FlowProcessor

HALO = 2
"""models.memfof.halo(): a frame's flow needs one neighbour, and its validity the neighbour's own flow."""

PLAIN_BYTES = 13.0
"""Of a pixel of one direction, codec none: 8 of flow, 4 of confidence, an eighth of validity; they compress little."""
HALVINGS, FLOW_BYTES = (0, 2, 4, 6, 8), (0.01, 0.03, 0.08, 0.19, 0.42)
"""Of a pixel's flow with pcodec, by log2(1 / max_error_px): measured on memfof-compact's flows of three clips."""
OTHER_BYTES = 0.04
"""Of its validity and confidence, likewise."""
ROUGHER = 1.4
"""How much more a stored pixel takes for each halving of the stored size, likewise: 2.7 at 1/8."""
ROW_BYTES = 100
"""Of everything else in a row."""
FILE_BYTES = 14_000
"""Of what describes a file's columns."""


@dataclass(frozen=True)
class FlowTask:
    """Dense optical flow of every frame to both its neighbours, as records in Parquet."""

    config: FlowConfig
    precision: str = "fp32"
    """"fp32" or "bf16": what `auto` came to, decided once for the run by `on`."""
    reason: str = ""
    """Why, for people."""
    name: str = "flow"
    folder: str = "flow"
    data_suffix: str = ".parquet"

    @property
    def grouping(self) -> Grouping | None:
        files = self.config.files
        return Grouping(files.group_below, files.file_bytes) if files.group_below else None

    def on(self, device: str) -> FlowTask:
        from pipeline.tasks import flow_model

        precision, reason = flow_model.decide_precision(self.config, device)
        return replace(self, precision=precision, reason=reason)

    def notes(self) -> Sequence[str]:
        return (f"precision {self.precision}: {self.reason}",) if self.reason else ()

    def halo(self) -> tuple[int, int]:
        return HALO, HALO

    def fingerprint(self) -> dict[str, Any]:
        from pipeline.tasks import flow_model

        return {"weights.sha256": flow_model.facts(self.config.model).sha256, "precision": self.precision}

    def check_node(self) -> None:
        if self.config.preview:
            from pipeline.tasks.flow_preview import ENCODE, check_encoder

            check_encoder(ENCODE.codec)

    def check_video(self, info: VideoInfo) -> None:
        if self.config.preview:
            from pipeline.tasks.flow_preview import preview_plan

            preview_plan(info)

    def expected_rows(self, info: VideoInfo) -> int:
        return len(info.pts)

    def flops(self, info: VideoInfo) -> int:
        from pipeline.tasks import flow_model

        frames = len(info.pts)
        if frames < 2:
            return 0
        first, each = flow_model.macs(self.config.model, info.height, info.width, self.config.iterations)
        clips = -(-frames // self.config.clip.frames)
        # Each clip begins afresh, and needs its neighbours' frames next to it for validity.
        return 2 * (clips * first + (frames - clips + 2 * (clips - 1)) * each)

    def output_bytes(self, info: VideoInfo, size: int) -> int:
        config, frames = self.config, len(info.pts)
        height, width = stored_size(info.height, info.width, config.stored_scale)
        fields = (frames - 1) * (2 if config.directions == "both" else 1)
        return int(fields * height * width * _bytes_per_pixel(config)) + ROW_BYTES * frames + FILE_BYTES

    def load(self, device: str, threads: int) -> FlowProcessor:
        # Here, so that probing and joining, in processes of their own, need not wait for torch.
        from pipeline.tasks.flow_clip import FlowProcessor

        return FlowProcessor(self, device, threads)

    def writer(self, path: Path) -> flow_writer.FlowFileWriter:
        """A file of this task's records. Its metadata is the same for every file of the run, so that files merge."""
        config = self.config
        return flow_writer.FlowFileWriter(
            path,
            codec=config.codec,
            max_error_px=config.max_error_px,
            stored_scale=config.stored_scale,
            row_group_rows=config.files.row_group_rows,
            row_group_bytes=config.files.row_group_bytes,
            metadata={
                "task": self.name,
                "code_version": __version__,
                "precision": self.precision,
                "configuration": json.dumps(fingerprint_keys(config), sort_keys=True),
            },
        )

    def join(
        self, video: VideoRef, info: VideoInfo, parts: Sequence[ClipPart], source: BinaryIO, scratch: Path, whole: bool
    ) -> Iterator[VideoOutput]:
        yield from _joined(self, video, info, [part for part in parts if part.rows], source, scratch, whole)

    def merge(self, parts: Iterable[tuple[Path, str]], path: Path) -> int:
        files = self.config.files
        (made,) = flow_writer.concatenate(
            (only(part, video_id) for part, video_id in parts),
            path,
            row_group_rows=files.row_group_rows,
            row_group_bytes=files.row_group_bytes,
        )
        return made.rows


def _bytes_per_pixel(config: FlowConfig) -> float:
    """Of one direction's stored fields: an estimate."""
    if config.codec == "none":
        return PLAIN_BYTES
    halvings = math.log2(1 / config.max_error_px)
    beyond = max(0.0, halvings - HALVINGS[-1]) / 4  # noise: a bit a component for each
    flow = float(np.interp(halvings, HALVINGS, FLOW_BYTES)) + beyond
    return (flow + OTHER_BYTES) * math.pow(ROUGHER, math.log2(1 / config.stored_scale))


def _joined(
    task: FlowTask,
    video: VideoRef,
    info: VideoInfo,
    parts: Sequence[ClipPart],
    source: BinaryIO,
    scratch: Path,
    whole: bool,
) -> Iterator[VideoOutput]:
    files = task.config.files
    kinds: Counter[str] = Counter()
    for part in parts:
        kinds.update(part.extra["kinds"])
    rows = sum(part.rows for part in parts)
    extra = {
        "rows": rows,
        "kinds": dict(kinds),
        "max_error_px": max(part.extra["max_error_px"] for part in parts),
        "rotation": info.rotation,
        "sample_aspect_ratio": str(info.sample_aspect_ratio),
        "notes": [*info.notes, *_remarks(parts)],
    }
    kept: list[Path] = []
    made = flow_writer.concatenate(
        fetched(parts, kept if task.config.preview and whole else None),
        scratch / "joined.parquet",
        row_group_rows=files.row_group_rows,
        row_group_bytes=files.row_group_bytes,
        file_bytes=files.file_bytes if whole else None,
    )
    yield from outputs(made, extra)
    if kept:
        from pipeline.tasks.flow_preview import write_preview

        path = scratch / "preview.mp4"
        frames, full_px = write_preview(path, kept, video, source, info, task.config)
        yield VideoOutput(path, ".preview.mp4", frames, {"preview_full_colour_px": round(full_px, 3)}, result=False)


def _remarks(parts: Sequence[ClipPart]) -> list[str]:
    count = sum(part.extra.get("not_finite_px", 0) for part in parts)
    return [f"{count} flow vectors were not finite: stored as zero, and as invalid"] if count else []
