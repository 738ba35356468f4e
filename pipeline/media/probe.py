"""Finds out what a video holds: one pass over its packets, and no more than the first frames decoded.

The plan is made from packets' presentation times, so they must be those of the frames that the decoder gives. Where a
container stores none (AVI, raw streams) or they do not hold (interlaced field pairs), the video is decoded once, and a
note says so.

A file that promises more than it holds (cut short, or a header that lies) is still planned: all frames that exist, and
one frame more, which stands for the missing rest. Decoding fails exactly there, so that the clips before it are
committed and the last is quarantined with its good prefix. `VideoInfo.notes` says what was promised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.config import DecodeConfig, InputConfig
from pipeline.errors import CorruptVideo, LimitExceeded, UnreadableVideo, UnsupportedVideo
from pipeline.media import demux, sidedata
from pipeline.media.frame import working_format
from pipeline.media.headers import file_size, missing_bytes, most_samples, picture_sizes
from pipeline.types import Colour, KeyPacket, VideoInfo, VideoRef

_ALIGNMENT = 32
"""Pixels that a container's size may differ from the frames' by: some writers state it in whole blocks."""
_PEEK_FRAMES = 3
"""Frames decoded for what only frames tell: pixel format, side data, interlacing."""
_PEEK_PACKETS = 64
"""Packets after which the first frame must have come out of the decoder."""


@dataclass(slots=True)
class _Scan:
    """What the pass over the packets found; lists are in decode order."""

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    duration: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    """Ordinals."""
    frames: list[av.VideoFrame] = field(default_factory=list)
    """The first few, decoded."""
    failure: str = ""
    """Why demuxing ended early, if it did."""


def probe(file: BinaryIO, video: VideoRef, config: InputConfig, decode: DecodeConfig) -> VideoInfo:
    """Headers, frame times and key packets of one video. `file` is seekable and stays open.

    Raises UnreadableVideo (not a video, nothing that decodes), CorruptVideo (times that contradict each other),
    UnsupportedVideo (interlaced where that is refused, an odd format), LimitExceeded, and whatever reading raises.
    """
    size = file_size(file)
    if not size:
        raise UnreadableVideo(f"{video}: 0 bytes; upload it again, or leave it out of the input")
    if size > config.max_bytes:
        raise _too_large(video, "bytes", size, "max_bytes", config.max_bytes)
    if (samples := most_samples(file)) > config.max_frames:
        raise _too_large(video, "samples in its tables", samples, "max_frames", config.max_frames)
    missing, stated = missing_bytes(file), picture_sizes(file)
    for width, height in stated:
        _check_size(video, config, width, height)
    max_pixels = demux.padded(config.max_width, config.max_height)
    with demux.opened(file, video, max_pixels=max_pixels) as (container, stream, tap):
        return _Prober(file, video, config, decode, container, stream, tap, missing, stated).info()


def _too_large(video: VideoRef, what: str, found: int, key: str, limit: int) -> LimitExceeded:
    return LimitExceeded(f"{video}: {found} {what}, over input.{key}={limit}; raise it if the video is to be trusted")


def _check_size(video: VideoRef, config: InputConfig, width: int, height: int) -> None:
    if width > config.max_width:
        raise _too_large(video, f"pixels wide ({width}x{height})", width, "max_width", config.max_width)
    if height > config.max_height:
        raise _too_large(video, f"pixels high ({width}x{height})", height, "max_height", config.max_height)


def _near(stated: tuple[int, int], found: tuple[int, int]) -> bool:
    return all(abs(a - b) < _ALIGNMENT for a, b in zip(stated, found, strict=True))


@dataclass(slots=True)
class _Prober:
    file: BinaryIO
    video: VideoRef
    config: InputConfig
    decode: DecodeConfig
    container: InputContainer
    stream: VideoStream
    tap: demux.Tap
    missing: int
    stated: list[tuple[int, int]]
    """Picture sizes in the container's own tables; FFmpeg silently prefers what the stream says."""
    notes: list[str] = field(default_factory=list)
    own_times: bool = True
    """Whether decoding it once found each frame with the time that was made out for it."""
    undecodable: str = ""
    """Why decoding it once ended early, if it did."""

    def info(self) -> VideoInfo:
        context, time_base = self.stream.codec_context, self.stream.time_base
        if not time_base:
            raise UnreadableVideo(
                f"{self.video}: its video stream has no time base; remux it (ffmpeg -i IN -c copy OUT)"
            )
        width, height = context.width, context.height
        if not width or not height:
            raise UnreadableVideo(
                f"{self.video}: no picture size in its headers, or one over input.max_width={self.config.max_width} "
                f"and input.max_height={self.config.max_height}; upload it again, or leave it out of the input"
            )
        _check_size(self.video, self.config, width, height)
        if self.stream.frames > self.config.max_frames:
            raise _too_large(self.video, "frames", self.stream.frames, "max_frames", self.config.max_frames)
        interlaced = demux.is_interlaced(self.stream)
        # Read now: the index of some demuxers grows while packets are read.
        promised = max(self.stream.frames, len(self.stream.index_entries) if "mov" in self.container.format.name else 0)
        if self.container.format.name == "mxf":
            promised = self.stream.duration or 0
        others = len(self.container.streams.video) - 1
        if others > 0:
            self.notes.append(f"{others} other video stream(s) ignored; stream {self.stream.index} is used")

        scan = self._scan()
        first = self._first_frame(scan, width, height)
        pix_fmt, note = working_format(first.format.name)
        if note:
            self.notes.append(note)
        interlaced = interlaced or any(frame.interlaced_frame for frame in scan.frames)
        if interlaced and self.decode.interlaced == "refuse":
            raise UnsupportedVideo(
                f"{self.video}: interlaced video; set decode.interlaced=deinterlace to process it as progressive frames"
            )
        if interlaced:
            self.notes.append("deinterlaced to one progressive frame a frame (bwdif)")

        pts, keys = self._times(scan, interlaced)
        rate = self.stream.average_rate or self.stream.guessed_rate
        step = self._step(pts, rate, time_base)
        last = next((d for p, d in zip(scan.pts, scan.duration, strict=True) if p == pts[-1]), 0) or step
        if damage := self._damage(scan, promised, (pts[-1] + last) * time_base):
            self.notes.append(damage)
            pts, last = (*pts, pts[-1] + last), step

        matrix = sidedata.display_matrix(first)
        rotation, oblique = sidedata.rotation(matrix)
        if oblique:
            self.notes.append(oblique)
        return VideoInfo(
            container=self.container.format.name, stream_index=self.stream.index, codec=context.codec.canonical_name,
            width=width, height=height, pix_fmt=pix_fmt, time_base=time_base, pts=pts, last_duration=last, keys=keys,
            average_rate=rate or None, sample_aspect_ratio=self.stream.sample_aspect_ratio or Fraction(1),
            rotation=rotation, display_matrix=matrix, colour=self._colour(first), hdr=sidedata.hdr(first),
            interlaced=interlaced, packets=len(scan.pts), notes=tuple(self.notes),
        )  # fmt: skip

    def _configure(self, stream: VideoStream) -> None:
        context = stream.codec_context
        demux.configure(
            stream, threads=self.decode.threads, refuse=self.decode.corruption == "refuse",
            max_pixels=demux.padded(context.width, context.height),
        )  # fmt: skip

    def _scan(self) -> _Scan:
        """Reads every packet; decodes the first few from the first key packet on."""
        scan = _Scan()
        self._configure(self.stream)
        codec = self.stream.codec_context.name
        peeking = True
        sent = 0
        try:
            for ordinal, packet in enumerate(demux.packets(self.container, self.stream)):
                if ordinal >= self.config.max_frames:
                    raise _too_large(self.video, "packets or more", ordinal + 1, "max_frames", self.config.max_frames)
                scan.pts.append(packet.pts)
                scan.dts.append(packet.dts)
                scan.duration.append(packet.duration or 0)
                scan.size.append(packet.size)
                scan.shown.append(demux.is_shown(packet, codec))
                if packet.is_keyframe and packet.size:
                    scan.keys.append(ordinal)
                if peeking and scan.keys:
                    if not demux.is_leading(packet, scan.pts[scan.keys[0]]):
                        peeking = self._peek(scan, packet)
                        sent += 1
                    peeking = peeking and len(scan.frames) < _PEEK_FRAMES and sent < _PEEK_PACKETS
        except (av.FFmpegError, EOFError) as error:
            scan.failure = demux.reason(error)
        self.tap.check()
        if peeking and scan.keys and len(scan.frames) < _PEEK_FRAMES:
            self._peek(scan, None)
        return scan

    def _peek(self, scan: _Scan, packet: av.Packet[Any] | None) -> bool:
        """Decodes one packet (None: the decoder's rest). False when there is no use in going on."""
        try:
            scan.frames.extend(self.stream.codec_context.decode(packet))
        except (av.FFmpegError, EOFError) as error:
            self.tap.check()
            if not scan.frames:
                scan.failure = scan.failure or demux.reason(error)
            return False
        return True

    def _first_frame(self, scan: _Scan, width: int, height: int) -> av.VideoFrame:
        if not scan.pts:
            why = f" ({scan.failure})" if scan.failure else ""
            raise UnreadableVideo(f"{self.video}: no video packets{why}; upload it again, or leave it out of the input")
        if not scan.keys:
            raise UnreadableVideo(
                f"{self.video}: {len(scan.pts)} packets and no key frame to decode from; re-encode it, or leave it out"
            )
        if not scan.frames:
            why = f" ({scan.failure})" if scan.failure else ""
            raise UnreadableVideo(
                f"{self.video}: its first frame cannot be decoded{why}; upload it again, or leave it out of the input"
            )
        frame = scan.frames[0]
        _check_size(self.video, self.config, frame.width, frame.height)
        lies = [(width, height)] if (frame.width, frame.height) != (width, height) else []
        if self.stated and not any(_near(size, (frame.width, frame.height)) for size in self.stated):
            lies = self.stated
        if lies:
            raise CorruptVideo(
                f"{self.video}: its header says {lies[0][0]}x{lies[0][1]}, its first frame has "
                f"{frame.width}x{frame.height}; re-encode it, or leave it out of the input",
                stage="probe",
            )
        return frame

    def _times(self, scan: _Scan, interlaced: bool) -> tuple[tuple[int, ...], tuple[KeyPacket, ...]]:
        """Frame times and key packets: from the packets where those can be relied on, else from decoding once."""
        first = scan.keys[0]
        start = scan.pts[first]
        times = [pts for pts, shown in zip(scan.pts[first:], scan.shown[first:], strict=True) if shown]
        known = sorted({pts for pts in times if pts is not None and start is not None and pts >= start})
        timed = None not in scan.pts and len(set(times)) == len(times)
        stored = demux.stores_pts(self.container, self.stream)
        pts = tuple(known)
        if not (timed and stored) or interlaced:
            stamps = self._decoded_times()
            by_time = timed and ((stamps == pts and self.own_times) or (stored and interlaced))
            pts = stamps
            if not by_time:
                self.notes.append("packets carry no reliable frame times: learnt by decoding once; no seeking in it")
                return pts, (KeyPacket(first, pts[0], scan.dts[first], False, scan.size[first]),)
        self._check_leading(scan, start)
        if skipped := sum(scan.shown[:first]) + len(times) - len(known):
            self.notes.append(f"{skipped} leading picture(s) skipped: they refer to frames before the first key frame")
        if not pts:
            raise UnreadableVideo(f"{self.video}: all {len(scan.pts)} packets are marked as not to be shown")
        keys: list[KeyPacket] = []
        for ordinal in scan.keys:
            time = scan.pts[ordinal]
            assert time is not None
            if not keys or time > keys[-1].pts:
                keys.append(KeyPacket(ordinal, time, scan.dts[ordinal], size=scan.size[ordinal]))
        return pts, tuple(keys)

    def _check_leading(self, scan: _Scan, start: int | None) -> None:
        """Raises CorruptVideo where frames after a second key packet come before the first: no leading pictures."""
        if start is None or len(scan.keys) < 2:
            return
        later = zip(scan.pts[scan.keys[1] :], scan.shown[scan.keys[1] :], strict=True)
        early = [pts for pts, shown in later if shown and pts is not None and pts < start]
        if early:
            raise CorruptVideo(
                f"{self.video}: its times jump back: it begins at pts {start}, and {len(early)} later frame(s) are at "
                f"{min(early)} and on; give new ones: ffmpeg -fflags +genpts -i IN -c copy OUT.mkv",
                stage="probe",
            )

    def _decoded_times(self) -> tuple[int, ...]:
        """The frames' times as the decoder tells them; strictly increasing."""
        times: list[int] = []
        limit = demux.padded(self.config.max_width, self.config.max_height)
        with demux.opened(self.file, self.video, max_pixels=limit) as (container, stream, tap):
            self._configure(stream)
            try:
                for frame, time in demux.frames_in_order(container, stream):
                    self.own_times &= frame.pts == time
                    if times and time <= times[-1]:
                        raise CorruptVideo(
                            f"{self.video}: frame times do not increase ({times[-1]}, then {time}); give new ones: "
                            "ffmpeg -fflags +genpts -i IN -c copy OUT.mkv",
                            stage="probe", pts=times[-1],
                        )  # fmt: skip
                    times.append(time)
            except (av.FFmpegError, EOFError) as error:
                self.undecodable = f"decoding fails after {len(times)} frames: {demux.reason(error)}"
            tap.check()
        if not times:
            raise UnreadableVideo(f"{self.video}: nothing in it can be decoded; upload it again, or leave it out")
        return tuple(times)

    def _step(self, pts: tuple[int, ...], rate: Fraction | None, time_base: Fraction) -> int:
        """The usual time between frames: the median, else the average rate's, else 1/25 s."""
        deltas = sorted(after - before for before, after in pairwise(pts))
        return max(deltas[len(deltas) // 2] if deltas else round(1 / ((rate or 25) * time_base)), 1)

    def _damage(self, scan: _Scan, promised: int, end: Fraction) -> str:
        """What the file promises and does not hold, or ""."""
        found = len(scan.pts)
        if promised > found:
            return f"damaged: the header promises {promised} frames, the data ends after {found}"
        if "matroska" in self.container.format.name and len(self.container.streams) == 1 and self.container.duration:
            # With sound beside it the promise may be the sound's.
            promise = Fraction(self.container.duration, av.time_base)
            if promise > end * Fraction(51, 50) + 1:
                return f"damaged: the header promises {float(promise):.1f} s, the data ends at {float(end):.1f} s"
        if self.missing:
            return f"damaged: cut short, {self.missing} bytes are missing at its end ({found} packets found)"
        if self.undecodable:
            return f"damaged: {self.undecodable}"
        if scan.failure:
            return f"damaged: reading its packets fails after {found}: {scan.failure}"
        return ""

    def _colour(self, first: av.VideoFrame) -> Colour:
        """The header's description, with the frame's where the header is silent."""
        context = self.stream.codec_context
        name = first.format.name
        coded_range = context.color_range or first.color_range
        rgb = first.format.is_rgb or first.format.has_palette

        def either(header: int, frame: int) -> int:
            return int(frame if header in (0, 2) and frame not in (0, 2) else header)

        matrix = 0 if rgb else either(context.colorspace, first.colorspace)
        return Colour(
            primaries=either(context.color_primaries, first.color_primaries) or 2,
            transfer=either(context.color_trc, first.color_trc) or 2,
            matrix=matrix if rgb or matrix else 2,
            full_range=coded_range == 2 or name.startswith("yuvj") or (rgb and coded_range != 1),
            range_tagged=coded_range in (1, 2) or name.startswith("yuvj"),
        )
