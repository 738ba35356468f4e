"""Encodes clips into segments that concatenate by packet copy: what to encode as, decided once, and the encoder.

Each segment is an MP4 with one video stream, starting with a key frame of a closed group of pictures, its times
relative to its first frame. Segments of one `EncodePlan` have identical decoder configuration (extradata).
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.container import Flags as ContainerFlags
from av.packet import Packet
from av.video.reformatter import Interpolation

from pipeline.config import EncodeConfig
from pipeline.errors import ConfigError, UnsupportedVideo
from pipeline.media.encoders import (
    FORMATS,
    available_encoders,
    check_encoder,
    choose_options,
    opened_with,
    usual_scheduling,
)
from pipeline.media.frame import Frame, PixelFormat, working_format
from pipeline.media.timeline import MAX_DEPTH, retime
from pipeline.types import Colour, VideoInfo

__all__ = ["EncodePlan", "SegmentEncoder", "SegmentStats", "available_encoders", "check_encoder"]

_MEZZANINE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
"""swscale where formats differ: its exact, machine-independent paths."""


@dataclass(frozen=True, slots=True)
class EncodePlan:
    """How one video's segments are encoded. The same video and configuration give the same plan anywhere."""

    codec: str
    pix_fmt: str
    source_format: str
    """Working format in which frames come; equal to `pix_fmt` where nothing is converted."""
    source_width: int
    source_height: int
    width: int
    """Coded size, after `odd_size`."""
    height: int
    time_base: Fraction
    rate: Fraction
    """Average output frames a second: what rate control reckons with. Times are always the frames' own pts."""
    colour: Colour
    sample_aspect_ratio: Fraction
    options: tuple[tuple[str, str], ...]
    """The encoder's options, HDR metadata included."""
    threads: int
    notes: tuple[str, ...] = ()
    """What was decided and changes the picture."""

    @staticmethod
    def build(info: VideoInfo, config: EncodeConfig, time_base: Fraction, rate: Fraction | None = None) -> EncodePlan:
        """Decides codec, pixel format, size and tags. `rate`: average output rate, by default the source's.

        Raises UnsupportedVideo where `encode.pix_fmt` is auto and the encoder cannot keep the source's chroma and
        depth, or where an odd size is to be refused; ConfigError for a pixel format or quality the encoder lacks.
        """
        if time_base.numerator != 1:
            raise ValueError(f"time base {time_base}: must be 1/N")
        source_name, note = working_format(info.pix_fmt)
        source = PixelFormat.of(source_name)
        notes = [note] if note else []
        pix_fmt = _pix_fmt(info, config, source, notes)
        layout, bits = FORMATS[config.codec][pix_fmt]
        colour = _colour(info.colour, source, layout, notes)
        width, height = _size(info, config, PixelFormat.of(layout), notes)
        choice = choose_options(config, bits, colour, info.hdr, (width, height))
        return EncodePlan(
            config.codec, pix_fmt, source_name, info.width, info.height, width, height, time_base,
            _plain_rate(rate or _average_rate(info)), colour, info.sample_aspect_ratio, choice.options,
            config.threads, (*notes, *choice.notes),
        )  # fmt: skip

    def as_record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        record = asdict(self)
        for key in ("time_base", "rate", "sample_aspect_ratio"):
            record[key] = str(record[key])
        record["options"] = dict(self.options)
        record["notes"] = list(self.notes)
        return record

    def __str__(self) -> str:
        options = " ".join(f"{key}={value}" for key, value in self.options)
        text = f"{self.codec} {self.pix_fmt} {self.width}x{self.height} at {float(self.rate):g}/s, {options}"
        return "; ".join((text, *self.notes))


def _pix_fmt(info: VideoInfo, config: EncodeConfig, source: PixelFormat, notes: list[str]) -> str:
    formats = FORMATS[config.codec]
    if config.pix_fmt != "auto":
        name = config.pix_fmt.replace("yuvj", "yuv")
        if name not in formats:
            raise ConfigError(
                f"encode.pix_fmt={config.pix_fmt}: {config.codec} takes {', '.join(formats)}; or set it to auto"
            )
        if formats[name] != (source.layout, source.bits):
            notes.append(f"converted from {info.pix_fmt} to {name} as configured")
        return name

    def smallest(layout: str) -> str | None:
        """The format of `layout`'s kind that holds all of its bits and chroma samples in the fewest."""
        wanted = PixelFormat.of(layout)
        held = []
        for name, (have, bits) in formats.items():
            kind = PixelFormat.of(have)
            fits = bits >= source.bits and all(
                a <= b for a, b in zip(kind.log2_chroma, wanted.log2_chroma, strict=True)
            )
            if fits and (kind.is_gray, kind.is_rgb) == (wanted.is_gray, wanted.is_rgb):
                held.append((bits, -sum(kind.log2_chroma), name))
        return min(held)[2] if held else None

    name_kept = smallest(source.layout)
    if name_kept is None and source.is_gray:
        name_kept = smallest("yuv420p")
        notes.append(f"gray is stored with neutral chroma as {name_kept}: {config.codec} has no gray")
    elif name_kept is None and source.is_rgb:
        name_kept = smallest("yuv444p")
        notes.append(f"RGB is stored as {name_kept} (BT.709, limited range): {config.codec} has no RGB")
    elif name_kept is not None and formats[name_kept] != (source.layout, source.bits):
        notes.append(f"{source.name} is held in {name_kept}, the nearest that {config.codec} takes")
    if name_kept is None:
        raise UnsupportedVideo(
            f"pixel format {info.pix_fmt} cannot be kept by {config.codec} (it takes {', '.join(formats)}); "
            "set encode.codec=libx265, or name an encode.pix_fmt to convert to"
        )
    return name_kept


def _colour(colour: Colour, source: PixelFormat, layout: str, notes: list[str]) -> Colour:
    rgb = layout == "gbrp"
    if source.is_rgb and not rgb:
        return Colour(colour.primaries if colour.primaries != 2 else 1, colour.transfer, 1, False, True, 0)
    if rgb and source.is_rgb:
        return Colour(colour.primaries, colour.transfer, 0, True, True, 0)
    if rgb:
        raise ConfigError("encode.pix_fmt=gbrp: YUV video is not converted to RGB; set it to auto")
    if colour.matrix == 0:  # RGB's code point makes no sense on YUV planes, and encoders refuse it
        notes.append("matrix tag 0 (RGB) on YUV video dropped")
        return Colour(
            colour.primaries, colour.transfer, 2, colour.full_range, colour.range_tagged, colour.chroma_location
        )
    return colour


def _size(info: VideoInfo, config: EncodeConfig, target: PixelFormat, notes: list[str]) -> tuple[int, int]:
    across, down = target.log2_chroma
    if "nvenc" in config.codec:
        across = down = 1
    left, top = info.width % (1 << across), info.height % (1 << down)
    if not left and not top:
        return info.width, info.height
    found = f"{info.width}x{info.height}"
    if config.odd_size == "refuse":
        raise UnsupportedVideo(
            f"size {found} is odd, which {target.layout} in {config.codec} cannot hold; "
            "set encode.odd_size=pad or crop, or encode.pix_fmt=yuv444p"
        )
    grow = config.odd_size == "pad"
    width, height = (size + (1 if grow else -1) * odd for size, odd in ((info.width, left), (info.height, top)))
    how = "padded by repeating the last column or row" if grow else "cropped"
    notes.append(f"size {found} {how} to {width}x{height}")
    return width, height


def _average_rate(info: VideoInfo) -> Fraction:
    span = (info.end_pts - info.pts[0]) * info.time_base
    return info.average_rate or (Fraction(len(info.pts)) / span if span > 0 else Fraction(30))


def _plain_rate(rate: Fraction) -> Fraction:
    """A rate that encoders' 32-bit (SVT-AV1: thousandths) fields hold, at most 0.1 % off and exact where common."""
    return max(Fraction(1, 100), min(Fraction(1000), rate)).limit_denominator(1001)


@dataclass(frozen=True, slots=True)
class SegmentStats:
    """What a segment holds. pts in the plan's time base, as given to `write`."""

    frames: int
    bytes: int
    first_pts: int
    """The segment's offset: its own times start at 0."""
    last_pts: int
    key_frames: int
    gaps: tuple[int, int] | None
    """Shortest and longest time from a frame to the next, ticks; None for one frame."""
    reorder_depth: int
    """Most frames decoded before but shown after any one frame."""


class SegmentEncoder:
    """Writes one segment. Use as a context manager: an exception inside removes the unfinished file."""

    def __init__(self, path: str | Path, plan: EncodePlan) -> None:
        """Raises FFmpegError where the encoder cannot be opened (`check_encoder` tells before a run)."""
        self.plan = plan
        self.path = os.fspath(path)
        self.stats: SegmentStats | None = None
        self._frames = self._packets = self._keys = self._depth = 0
        self._first = self._last = 0
        self._gaps: tuple[int, int] | None = None
        self._held: list[Packet[Any]] | None = []  # the first packets, until their dts can be relied on
        self._recent: deque[int] = deque(maxlen=4 * MAX_DEPTH)
        self._container = av.open(
            self.path, "w", format="mp4",
            # pts are stored as they are: no edit list, no shift to make the first dts 0.
            container_options={
                "movflags": "negative_cts_offsets", "use_editlist": "0",
                "video_track_timescale": str(plan.time_base.denominator),
            },
        )  # fmt: skip
        self._container.flags |= ContainerFlags.bitexact.value  # type: ignore[operator]
        stream = self._container.add_stream(
            plan.codec, rate=plan.rate, options=opened_with(plan.codec, dict(plan.options)), width=plan.width,
            height=plan.height, pix_fmt=plan.pix_fmt, time_base=plan.time_base,
        )  # fmt: skip
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        context.thread_count = plan.threads
        context.flags |= int(Flags.closed_gop) | int(Flags.bitexact)
        context.sample_aspect_ratio = plan.sample_aspect_ratio
        colour = plan.colour
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer
        context.colorspace = colour.matrix
        context.color_range = 2 if colour.full_range else (1 if colour.range_tagged else 0)
        self._stream = stream

    def write(self, frame: Frame) -> None:
        """Encodes a frame in `plan.pix_fmt` or `plan.source_format`; its pts are ticks of `plan.time_base`.

        Raises ValueError where pts do not increase, or size or format are not the plan's.
        """
        if self._frames and frame.pts <= self._last:
            raise ValueError(f"{self.path}: pts {frame.pts} after {self._last}; they must increase")
        if self._frames:
            gap = frame.pts - self._last
            shortest, longest = self._gaps or (gap, gap)
            self._gaps = min(shortest, gap), max(longest, gap)
        picture = _picture(frame, self.plan)
        if not self._frames:
            self._first = frame.pts
        picture.pts = frame.pts - self._first
        picture.time_base = self.plan.time_base
        with nullcontext() if self._frames else usual_scheduling():  # the first frame opens the encoder
            packets = self._stream.encode(picture)
        self._mux(packets)
        self._frames += 1
        self._last = frame.pts

    def close(self) -> SegmentStats:
        """Flushes the encoder and finishes the file. Raises ValueError if no frame was written."""
        if self.stats is not None:
            return self.stats
        if not self._frames:
            self._abort()
            raise ValueError(f"{self.path}: a segment of no frames")
        try:
            self._mux(self._stream.encode(None))
            self._mux_short()
            if self._packets != self._frames:
                raise RuntimeError(f"{self.plan.codec} gave {self._packets} packets for {self._frames} frames")
            self._container.close()
        except BaseException:
            self._abort()
            raise
        self.stats = SegmentStats(
            self._frames, os.path.getsize(self.path), self._first, self._last, self._keys, self._gaps, self._depth
        )
        return self.stats

    def __enter__(self) -> SegmentEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._abort()

    def _mux(self, packets: list[Packet[Any]]) -> None:
        for packet in packets:
            assert packet.pts is not None
            if not self._packets and not packet.is_keyframe:
                raise RuntimeError(f"{self.plan.codec}: the segment does not start with a key frame")
            self._packets += 1
            self._keys += packet.is_keyframe
            self._depth = max(self._depth, sum(earlier > packet.pts for earlier in self._recent))
            self._recent.append(packet.pts)
            if self._held is None:
                self._container.mux(packet)
            elif len(self._held) < MAX_DEPTH:
                self._held.append(packet)
            else:
                self._container.mux([*self._held, packet])
                self._held = None

    def _mux_short(self) -> None:
        """Writes a segment of so few frames that all were held: x265 leaves their dts uninitialised."""
        end = self._last - self._first + 1
        for packet, timed in retime(self._held or (), lambda packet: packet.pts or 0, self._depth, end):
            packet.dts = timed.dts
            self._container.mux(packet)

    def _abort(self) -> None:
        try:
            self._container.close()
        except (av.FFmpegError, ValueError):
            pass
        finally:
            Path(self.path).unlink(missing_ok=True)


def _picture(frame: Frame, plan: EncodePlan) -> av.VideoFrame:
    """The frame at the coded size and in the plan's format; samples are untouched where both are the same."""
    if (frame.width, frame.height) != (plan.source_width, plan.source_height):
        raise ValueError(
            f"frame of {frame.width}x{frame.height}, the plan has {plan.source_width}x{plan.source_height}"
        )
    if frame.format.name not in (plan.source_format, plan.pix_fmt):
        raise ValueError(f"frame in {frame.format.name}, the plan takes {plan.source_format} or {plan.pix_fmt}")
    if (plan.width, plan.height) != (frame.width, frame.height):
        planes = []
        shapes = frame.format.plane_shapes(plan.width, plan.height)
        for plane, (rows, columns) in zip(frame.planes, shapes, strict=True):
            grow = [(0, max(0, want - have)) for want, have in zip((rows, columns), plane.shape, strict=True)]
            planes.append(np.ascontiguousarray(np.pad(plane, grow, mode="edge")[:rows, :columns]))
        frame = Frame(frame.pts, tuple(planes), frame.format)
    picture = frame.to_av()
    if frame.format.name == plan.pix_fmt:
        return picture
    if frame.format.is_gray:  # swscale would take gray for full range: the samples are kept, chroma is neutral
        layout, bits = FORMATS[plan.codec][plan.pix_fmt]
        held = PixelFormat.of(layout if bits == 8 else f"{layout}{bits}le")
        luma = (frame.planes[0].astype(held.dtype) << (bits - frame.format.bits)).astype(held.dtype)
        shapes = held.plane_shapes(frame.width, frame.height)[1:]
        chroma = tuple(np.full(shape, 1 << (bits - 1), held.dtype) for shape in shapes)
        picture = Frame(frame.pts, (luma, *chroma), held).to_av()
        return picture if held.name == plan.pix_fmt else picture.reformat(format=plan.pix_fmt)
    # Numbers as in H.273; swscale takes 1 to 9 of them, and needs a range of either side only to keep it.
    full = 2 if plan.colour.full_range else 1
    matrix = plan.colour.matrix if plan.colour.matrix in (1, 4, 5, 6, 7, 9) else None
    return picture.reformat(
        format=plan.pix_fmt, interpolation=_MEZZANINE, threads=1, src_colorspace=matrix, dst_colorspace=matrix,
        src_color_range=2 if frame.format.is_rgb else full, dst_color_range=full,
    )  # fmt: skip
