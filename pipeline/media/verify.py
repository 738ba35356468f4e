"""Reads a finished file back, by demuxing only, and checks it against the plan: frames, times, sound."""

from __future__ import annotations

import heapq
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av

from pipeline.errors import OutputMismatch
from pipeline.media.mux import CopiedStream, MuxReport, Segment
from pipeline.media.timeline import MAX_DEPTH


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """What the file must hold. Times in ticks of `time_base`."""

    frames: int
    time_base: Fraction
    first_pts: int
    last_pts: int
    duration: int
    """From the first frame's pts to the end of the last frame's display time."""
    tolerance: Fraction
    """Seconds: how far the container rounds a video time; 0 in mp4 and mov."""
    streams: tuple[CopiedStream, ...] = ()
    """Copied audio and subtitles, in the output's order, as they were read from the source."""
    pts: tuple[int, ...] | None = None
    """Every frame's pts, in the order of display, where the caller has them at hand."""

    @staticmethod
    def of(
        report: MuxReport, segments: Sequence[Segment], last_pts: int, pts: Sequence[int] | None = None
    ) -> ExpectedOutput:
        """From the plan's segments. `last_pts` and `pts`: on the source's time line, as the segments' offsets are."""
        shift = int(report.shift / report.time_base)
        start = segments[0].offset_ticks
        return ExpectedOutput(
            frames=sum(segment.frames for segment in segments),
            time_base=report.time_base,
            first_pts=start - shift,
            last_pts=last_pts - shift,
            duration=segments[-1].end - start,
            tolerance=report.time_rounding,
            streams=report.copied,
            pts=None if pts is None else tuple(value - shift for value in pts),
        )


@dataclass(frozen=True, slots=True)
class VerifiedOutput:
    """What was found; equal to the plan within the container's tick."""

    frames: int
    first_time: Fraction
    """Seconds."""
    last_time: Fraction
    duration: Fraction | None
    """Seconds of video; None where the container does not store the last frame's display time (mkv)."""
    streams: tuple[Found, ...]


@dataclass(slots=True)
class Found:
    """One audio or subtitle stream of the output."""

    kind: str
    codec: str
    packets: int = 0
    bytes: int = 0
    start: Fraction | None = None
    """Seconds from the first video frame to its first packet (encoder delay included)."""
    tick: Fraction = Fraction(1)


@dataclass(slots=True)
class _Pictures:
    """Video times as they come in decode order; checks that each is there once."""

    name: str
    expected: ExpectedOutput
    frames: int = 0
    first: Fraction | None = None
    last: Fraction | None = None
    offset: Fraction = Fraction(0)
    waiting: list[Fraction] = field(default_factory=list)

    def add(self, time: Fraction) -> None:
        heapq.heappush(self.waiting, time)
        if len(self.waiting) > MAX_DEPTH + 2:
            self._show(heapq.heappop(self.waiting))

    def finish(self) -> None:
        while self.waiting:
            self._show(heapq.heappop(self.waiting))

    def _show(self, time: Fraction) -> None:
        expected = self.expected
        if self.last is not None and time <= self.last:
            _fail(self.name, f"time of video frame {self.frames}", _s(time), f"later than {_s(self.last)}")
        if self.first is None:
            self.first = time
            self.offset = self._moved(time)
        if expected.pts is not None and self.frames < len(expected.pts):
            self.near(time, expected.pts[self.frames], f"time of video frame {self.frames}")
        self.last = time
        self.frames += 1

    def _moved(self, first: Fraction) -> Fraction:
        """Seconds that the container moved all streams by. Matroska holds no times before 0: where audio starts earlier
        (encoder delay), and the codec's own delay field does not say so, all streams alike come later."""
        expected = self.expected
        if not expected.tolerance or first <= expected.first_pts * expected.time_base + expected.tolerance:
            return Fraction(0)
        return max(Fraction(0), -min((s.start for s in expected.streams if s.start is not None), default=Fraction(0)))

    def near(self, time: Fraction, pts: int, what: str) -> None:
        wanted = pts * self.expected.time_base + self.offset
        # Two roundings where everything was moved: the frame's and the move's.
        allowed = self.expected.tolerance * (2 if self.offset else 1)
        if abs(time - wanted) > allowed:
            _fail(self.name, what, _s(time), f"{_s(wanted)} within {_s(allowed)}")


def verify_output(target: str | Path | BinaryIO, expected: ExpectedOutput) -> VerifiedOutput:
    """Checks frame count, every frame's place, first and last time, duration, and the copied streams.

    Copied streams: packet count, payload bytes, and start against the first video frame's, within the container's tick.
    Raises OutputMismatch naming what was found and what the plan says. Reads the whole file once; bounded memory.
    """
    name = os.fspath(target) if isinstance(target, (str, Path)) else getattr(target, "name", "output")
    try:
        container = av.open(target if not isinstance(target, Path) else name, "r", metadata_errors="replace")
    except av.FFmpegError as error:
        raise OutputMismatch(f"{name}: cannot be read back: {error}") from error
    with container:
        if not container.streams.video:
            _fail(name, "video streams", 0, 1)
        video = container.streams.video[0]
        pictures = _Pictures(name, expected)
        others = {
            stream.index: Found(
                stream.type, stream.codec_context.codec.canonical_name, tick=stream.time_base or Fraction(1)
            )
            for stream in container.streams
            if stream.type in ("audio", "subtitle")
        }
        for packet in container.demux():
            if packet.pts is None and not packet.size:
                continue
            index = packet.stream_index
            time = None if packet.pts is None else packet.pts * packet.time_base
            if index == video.index:
                if time is None:
                    _fail(name, f"time of video packet {pictures.frames}", None, "a time")
                else:
                    pictures.add(time)
            elif index in others:
                found = others[index]
                found.packets += 1
                found.bytes += packet.size
                if found.start is None:
                    found.start = time
        pictures.finish()
        duration: Fraction | None = None
        if video.duration is not None and video.time_base is not None and not expected.tolerance:
            duration = Fraction(video.duration * video.time_base)
    first, last = pictures.first, pictures.last
    if pictures.frames != expected.frames or first is None or last is None:
        raise OutputMismatch(f"{name}: {pictures.frames} video frames, expected {expected.frames}")
    pictures.near(first, expected.first_pts, "first video time")
    pictures.near(last, expected.last_pts, "last video time")
    if duration is not None and duration != expected.duration * expected.time_base:
        _fail(name, "video duration", _s(duration), _s(expected.duration * expected.time_base))
    streams = tuple(others.values())
    _check_streams(name, streams, first, expected)
    return VerifiedOutput(pictures.frames, first, last, duration, streams)


def _check_streams(name: str, streams: Sequence[Found], first: Fraction, expected: ExpectedOutput) -> None:
    if len(streams) != len(expected.streams):
        _fail(name, "audio and subtitle streams", len(streams), len(expected.streams))
    for number, (found, wanted) in enumerate(zip(streams, expected.streams, strict=True)):
        what = f"{wanted.kind} stream {number} (source stream {wanted.index}, {wanted.codec})"
        if found.kind != wanted.kind:
            _fail(name, what, found.kind, wanted.kind)
        if found.packets != wanted.packets:
            _fail(name, f"packets of {what}", found.packets, wanted.packets)
        if not wanted.framed and found.kind == "audio" and found.bytes != wanted.bytes:
            _fail(name, f"bytes of {what}", found.bytes, wanted.bytes)
        if found.start is None or wanted.start is None:
            continue
        found.start -= first
        offset = wanted.start - expected.first_pts * expected.time_base
        # Each of the two starts is rounded to its own stream's tick.
        allowed = expected.tolerance + found.tick / 2
        if abs(found.start - offset) > allowed + expected.tolerance:
            _fail(
                name,
                f"start of {what} after the first video frame",
                _s(found.start),
                f"{_s(offset)} within {_s(allowed)}",
            )


def _fail(name: str, what: str, found: object, expected: object) -> None:
    raise OutputMismatch(f"{name}: {what} is {found}, expected {expected}")


def _s(seconds: Fraction) -> str:
    return f"{float(seconds):.6f} s"
