"""A video to look at: each picture with its flow in colours under it (beside it, where the picture is upright).

Made from a video's stored records, once its clips are joined: what is seen is what was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow.parquet as pq
import torch

from pipeline.config import MAX_TIMESCALE, EncodeConfig
from pipeline.config_flow import FlowConfig
from pipeline.errors import OutputMismatch, UnsupportedVideo
from pipeline.media import mux
from pipeline.media.colour import from_rgb, to_rgb
from pipeline.media.decode import decode_clip
from pipeline.media.encode import EncodePlan, SegmentEncoder, check_encoder
from pipeline.media.frame import Frame, PixelFormat
from pipeline.records.flow import read_flow_file
from pipeline.records.flow_picture import paint, usual_motion
from pipeline.records.flow_schema import FlowRecord
from pipeline.types import ClipRef, Colour, VideoInfo, VideoRef

__all__ = ["ENCODE", "check_encoder", "preview_plan", "write_preview"]

ENCODE = EncodeConfig(codec="libx264", crf=20, preset="veryfast", pix_fmt="yuv420p")
LONG_SIDE = 960
"""Pixels of a panel at most: two of 1080p would play nowhere."""
SAMPLED = 32
"""Fields from which the motion of full colour is taken."""
BT709 = Colour(primaries=1, transfer=1, matrix=1, range_tagged=True)
NONE = 0.5
"""Grey level where a frame has no neighbour to move to."""


def preview_plan(info: VideoInfo) -> EncodePlan:
    """How the preview is encoded: at the source's times, without its colour description or sound.

    Raises UnsupportedVideo for times that an MP4 cannot hold.
    """
    if info.time_base.denominator > MAX_TIMESCALE:
        raise UnsupportedVideo(f"time base {info.time_base} is too fine for the preview's MP4; set preview=false")
    width, height = _panel(info)
    size = (width, 2 * height) if info.width >= info.height else (2 * width, height)
    shown = replace(info, width=size[0], height=size[1], pix_fmt="yuv420p", colour=BT709, hdr=None, notes=())
    return EncodePlan.build(shown, ENCODE, Fraction(1, info.time_base.denominator))


def _panel(info: VideoInfo) -> tuple[int, int]:
    """Width and height, both even."""
    shrink = max(1.0, max(info.width, info.height) / LONG_SIDE)
    return tuple(max(2, 2 * round(side / shrink / 2)) for side in (info.width, info.height))  # type: ignore[return-value]


def write_preview(
    path: Path, parts: Sequence[Path], video: VideoRef, source: BinaryIO, info: VideoInfo, config: FlowConfig
) -> tuple[int, float]:
    """Writes the MP4 from the clips' files of records, in order, and the video they were made from.

    Returns its frames, and the motion in px that has full colour.
    """
    rows = sum(pq.read_metadata(part).num_rows for part in parts)
    full_px = _full_motion(parts, rows)
    plan = preview_plan(info)
    ticks = info.time_base.numerator
    segment = path.with_suffix(".segment.mp4")
    with SegmentEncoder(segment, plan) as encoder:
        frames = decode_clip(source, _all_of(video, info, rows), config.decode)
        for frame, record in zip(frames, _records(parts), strict=True):
            if frame.pts != record.pts:
                raise OutputMismatch(f"{video}: a record at pts {record.pts} for the frame at {frame.pts}; report this")
            encoder.write(_composed(frame, record, full_px, info, frame.pts * ticks))
        stats = encoder.close()
    first, last = stats.first_pts, stats.last_pts
    whole = mux.Segment(
        str(segment), first, rows, info.end_pts * ticks - first, last - first, stats.gaps, stats.reorder_depth
    )
    mux.finalise([whole], None, info, plan, "mp4", path)
    segment.unlink()
    return rows, full_px


def _composed(frame: Frame, record: FlowRecord, full_px: float, info: VideoInfo, pts: int) -> Frame:
    width, height = _panel(info)
    panels = [_resized(to_rgb(frame, info.colour), width, height), _resized(_colours(record, full_px), width, height)]
    rgb = torch.cat(panels, 1 if info.width >= info.height else 2)
    form = PixelFormat.of("yuv420p")
    return Frame(pts, from_rgb(rgb, form, BT709), form)


def _colours(record: FlowRecord, full_px: float) -> torch.Tensor:
    """[3,h,w] 0..1 at the stored size: forward flow, or backward where only that is stored."""
    flow, valid = record.flow_forward, record.validity_forward
    if flow is None and record.next_pts is not None:
        flow, valid = record.flow_backward, record.validity_backward
    if flow is None:
        return torch.full((3, record.stored_height, record.stored_width), NONE)
    return torch.from_numpy(paint(flow, full_px, valid)).permute(2, 0, 1).float() / 255


def _resized(image: torch.Tensor, width: int, height: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(image[None], (height, width), mode="area")[0]


def _full_motion(parts: Sequence[Path], rows: int) -> float:
    """px that nearly all pixels of nearly all frames stay below: one scale for the video, or its colours would pump."""
    wanted = {index * rows // SAMPLED for index in range(SAMPLED)}
    found = []
    start = 0
    for part in parts:
        end = start + pq.read_metadata(part).num_rows
        frames = wanted.intersection(range(start, end))
        for record in read_flow_file(str(part), None, frames) if frames else ():
            found += [usual_motion(flow) for flow in (record.flow_forward, record.flow_backward) if flow is not None]
        start = end
    return float(np.percentile(found, 90)) if found else 1.0


def _records(parts: Sequence[Path]) -> Iterator[FlowRecord]:
    for part in parts:
        yield from read_flow_file(str(part))


def _all_of(video: VideoRef, info: VideoInfo, rows: int) -> ClipRef:
    return ClipRef(
        video=video, index=0, count=1, start_frame=0, frames=rows, start_pts=info.pts[0], end_pts=info.end_pts,
        time_base=info.time_base, halo_before=0, halo_after=0, seek=info.keys[0], origin_pts=info.pts[0],
    )  # fmt: skip
