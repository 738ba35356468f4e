"""A video to look at: each picture with what was recognised in it, and where its features came from.

Made from a video's stored records, once its clips are joined: what is seen is what was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import pyarrow.parquet as pq
import torch

from pipeline.config import MAX_TIMESCALE
from pipeline.config_recognize import RecognizeConfig
from pipeline.errors import OutputMismatch, UnsupportedVideo
from pipeline.media import mux
from pipeline.media.colour import from_rgb, to_rgb
from pipeline.media.decode import decode_clip
from pipeline.media.encode import EncodePlan, SegmentEncoder
from pipeline.media.frame import Frame, PixelFormat
from pipeline.records.overlay import draw_overlay
from pipeline.records.recognition import read_recognition_file
from pipeline.records.recognition_schema import RecognitionRecord
from pipeline.tasks.flow_preview import BT709, ENCODE
from pipeline.types import ClipRef, VideoInfo, VideoRef

LONG_SIDE = 1280
"""Pixels at most."""


def preview_plan(info: VideoInfo) -> EncodePlan:
    """How the preview is encoded: at the source's times, without its colour description or sound.

    Raises UnsupportedVideo for times that an MP4 cannot hold.
    """
    if info.time_base.denominator > MAX_TIMESCALE:
        raise UnsupportedVideo(f"time base {info.time_base} is too fine for the preview's MP4; set preview=false")
    width, height = _size(info)
    shown = replace(info, width=width, height=height, pix_fmt="yuv420p", colour=BT709, hdr=None, notes=())
    return EncodePlan.build(shown, ENCODE, Fraction(1, info.time_base.denominator))


def _size(info: VideoInfo) -> tuple[int, int]:
    """Width and height, both even."""
    shrink = max(1.0, max(info.width, info.height) / LONG_SIDE)
    width, height = (max(2, 2 * round(side / shrink / 2)) for side in (info.width, info.height))
    return width, height


def write_preview(
    path: Path, parts: Sequence[Path], video: VideoRef, source: BinaryIO, info: VideoInfo, config: RecognizeConfig
) -> int:
    """Writes the MP4 from the clips' files of records, in order, and the video they were made from; returns frames."""
    rows: int = sum(pq.read_metadata(part).num_rows for part in parts)
    plan = preview_plan(info)
    ticks = info.time_base.numerator
    whole = ClipRef(
        video=video, index=0, count=1, start_frame=0, frames=rows, start_pts=info.pts[0], end_pts=info.end_pts,
        time_base=info.time_base, halo_before=0, halo_after=0, seek=info.keys[0], origin_pts=info.pts[0],
    )  # fmt: skip
    segment = path.with_suffix(".segment.mp4")
    with SegmentEncoder(segment, plan) as encoder:
        for frame, record in zip(decode_clip(source, whole, config.decode), _records(parts), strict=True):
            if frame.pts != record.pts:
                raise OutputMismatch(f"{video}: a record at pts {record.pts} for the frame at {frame.pts}; report this")
            encoder.write(_drawn(frame, record, info, frame.pts * ticks))
        stats = encoder.close()
    first, last = stats.first_pts, stats.last_pts
    made = mux.Segment(
        str(segment), first, rows, info.end_pts * ticks - first, last - first, stats.gaps, stats.reorder_depth
    )
    mux.finalise([made], None, info, plan, "mp4", path)
    segment.unlink()
    return rows


def _drawn(frame: Frame, record: RecognitionRecord, info: VideoInfo, pts: int) -> Frame:
    width, height = _size(info)
    rgb = (255 * to_rgb(frame, info.colour)).round_().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    drawn = torch.from_numpy(draw_overlay(rgb, record, record.classes)).permute(2, 0, 1).float() / 255
    shown = torch.nn.functional.interpolate(drawn[None], (height, width), mode="area")[0]
    form = PixelFormat.of("yuv420p")
    return Frame(pts, from_rgb(shown, form, BT709), form)


def _records(parts: Sequence[Path]) -> Iterator[RecognitionRecord]:
    for part in parts:
        yield from read_recognition_file(str(part))
