"""A video to look at: the finished frames with what each of their patches got.

Made from the finished video and its table of decisions: what is seen is what was written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from pipeline.config import DecodeConfig, InputConfig
from pipeline.media import mux
from pipeline.media.colour import from_rgb, to_rgb
from pipeline.media.decode import decode_clip
from pipeline.media.encode import EncodePlan, SegmentEncoder
from pipeline.media.frame import Frame, PixelFormat
from pipeline.media.probe import probe
from pipeline.plan.clips import plan_clips
from pipeline.records.decisions_overlay import draw_decisions
from pipeline.records.decisions_schema import DecisionRecord
from pipeline.tasks.flow_preview import BT709, ENCODE
from pipeline.types import VideoInfo, VideoRef

SUFFIX = ".preview.mp4"
LONG_SIDE = 1280
"""Pixels at most."""
READABLE = 640
"""Pixels up to which small videos are enlarged by a whole number: the lettering needs them."""
_OURS = InputConfig(max_width=1 << 20, max_height=1 << 20, max_frames=1 << 40, max_bytes=1 << 60)
"""Limits on what strangers send do not hold for what we made of it."""


def preview_plan(info: VideoInfo, made: EncodePlan) -> EncodePlan:
    """How the preview of the output `made` is encoded: at its times, without the colour description or sound."""
    width, height = _size(info)
    shown = replace(info, width=width, height=height, pix_fmt="yuv420p", colour=BT709, hdr=None, notes=())
    return EncodePlan.build(shown, ENCODE, made.time_base, made.rate)


def _size(info: VideoInfo) -> tuple[int, int]:
    """Width and height, both even."""
    longest = max(info.width, info.height)
    scale = max(1, READABLE // longest) if longest <= LONG_SIDE else LONG_SIDE / longest
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (info.width, info.height))
    return width, height


def write_preview(
    path: Path, made: Path, records: Iterable[DecisionRecord], info: VideoInfo, plan: EncodePlan, end: int
) -> int:
    """Writes the MP4 from the finished video `made` and its records, in order; returns its frames.

    `info` is of the source, `plan` is the preview's, `end` the tick at which the last frame stops showing.
    """
    segment = path.with_suffix(".segment.mp4")
    with made.open("rb") as file, SegmentEncoder(segment, plan) as encoder:
        video = VideoRef(str(made), "", made.name, made.stat().st_size)
        found = probe(file, video, _OURS, DecodeConfig())
        (whole,) = plan_clips(video, found, len(found.pts), (0, 0))
        for frame, record in zip(decode_clip(file, whole, DecodeConfig()), records, strict=True):
            encoder.write(_drawn(frame, record, found, plan))
        stats = encoder.close()
    first, last = stats.first_pts, stats.last_pts
    shown = mux.Segment(str(segment), first, stats.frames, end - first, last - first, stats.gaps, stats.reorder_depth)
    mux.finalise([shown], None, info, plan, "mp4", path)
    segment.unlink()
    return stats.frames


def _drawn(frame: Frame, record: DecisionRecord, found: VideoInfo, plan: EncodePlan) -> Frame:
    # An odd side that was padded or cropped for the encoder shifts nothing: patches are counted from the top left.
    rgb = to_rgb(frame, found.colour)[None]
    if plan.source_height > frame.height:
        rgb = F.interpolate(rgb, (plan.source_height, plan.source_width), mode="nearest")
    else:
        rgb = F.interpolate(rgb, (plan.source_height, plan.source_width), mode="area")
    picture = (255 * rgb[0]).round_().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    drawn = torch.from_numpy(draw_decisions(picture, record)).permute(2, 0, 1).float() / 255
    form = PixelFormat.of("yuv420p")
    return Frame(record.pts, from_rgb(drawn, form, BT709), form)
