"""Decodes one clip: exactly its frames and halo, or a CorruptVideo that says how far it got.

Decoding starts at the clip's key packet. Where that does not give every frame – a seek that lands elsewhere, frames
that the decoder withholds until it has recovered (open GOP, intra refresh) – it starts again from an earlier key
packet, and then from the file's start, before anything is handed out. So the result never depends on the seek.

Damage is found in four ways: the decoder treats errors as errors (`err_detect=explode`), every packet sent must come
back as a frame in order of pts, frame and packet flags must be clean, and counts and times must be the clip's.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.config import DecodeConfig
from pipeline.errors import CorruptVideo, UnreadableVideo, UnsupportedVideo
from pipeline.media import demux, ffv1
from pipeline.media.deinterlace import Deinterlacer
from pipeline.media.frame import Frame
from pipeline.types import ClipRef

_WELL_BEFORE_S = 5
"""Seconds to go back where a container finds packets (TS, PS) but not the key packets among them."""

_HEADER_PIXELS = 1 << 30
"""Largest picture that opening a clip's container may decode; probing has held the video to its own limit before."""


class _Start(Enum):
    KEY = "the clip's key packet"
    EARLIER = "the key packet before it"
    WELL_BEFORE = "a key packet some seconds before it"
    FILE = "the file's start"


class _StartedTooLate(Exception):
    """Frames before the clip are missing; nothing was handed out yet."""


def decode_clip(file: BinaryIO, clip: ClipRef, config: DecodeConfig) -> Iterator[Frame]:
    """Yields, in order of pts, the clip's `halo_before`, `frames` and `halo_after` frames, in their working format.

    `file` is the video's (see `open_source`) and stays open; no other use of it may come between two frames. Container
    and decoder are closed when the iterator ends, fails or is closed.

    Raises CorruptVideo, with `pts` of the last good frame handed out, when decoding fails or frames are missing, extra
    or at other times than the clip says; UnsupportedVideo for interlaced frames where those are refused; and whatever
    reading `file` raises.
    """
    starts = list(_Start)
    if not clip.seek.by_time:
        starts = [_Start.FILE]
    elif config.interlaced == "deinterlace" and clip.start_frame > clip.halo_before:
        starts = starts[1:]  # the frame before the first is needed too
    for start in starts:
        attempt = _Attempt(clip, config, start)
        try:
            yield from attempt.frames(file)
            return
        except _StartedTooLate:
            if attempt.handed_out:  # packets at the key packet's time come again, with other content
                raise attempt.corrupt("its times come twice") from None
        except CorruptVideo:
            # Damage, or a start in the middle of things? Only a start at the file's beginning can tell.
            if attempt.handed_out or start is starts[-1]:
                raise


@dataclass(slots=True)
class _Attempt:
    """Decoding from one starting place."""

    clip: ClipRef
    config: DecodeConfig
    start: _Start
    handed_out: int = 0
    last_good: int | None = None
    sent: list[int] = field(default_factory=list)
    """Heap of the pts of packets sent to the decoder whose frames have not come out."""
    previous: av.VideoFrame | None = None
    """The last frame that the decoder gave."""

    def frames(self, file: BinaryIO) -> Iterator[Frame]:
        clip = self.clip
        seen = inside = after = 0
        before: deque[tuple[av.VideoFrame, int]] = deque(maxlen=clip.halo_before)
        last: int | None = None
        for frame, pts in self._decoded(file):
            if last is not None and pts <= last:
                raise self.corrupt(f"a frame at pts {pts} comes after the one at {last}")
            last = pts
            if inside == 0 and pts < clip.start_pts:
                before.append((frame, pts))
                seen += 1
                continue
            if inside == 0:
                self._check_start(pts, seen)
                while before:
                    yield self._hand_out(*before.popleft())
            if inside == clip.frames and not clip.is_last and after == 0 and pts != clip.end_pts:
                raise self.corrupt(f"a frame at pts {pts} where the next clip starts at {clip.end_pts}")
            if inside < clip.frames and pts >= clip.end_pts:
                raise self.corrupt(f"{clip.frames - inside} of {clip.frames} frames are missing")
            if inside == clip.frames and clip.is_last:
                raise self.corrupt(f"a frame at pts {pts} after the last one planned")
            if inside < clip.frames:
                inside += 1
            else:
                after += 1
            yield self._hand_out(frame, pts)
            if inside == clip.frames and after == clip.halo_after and not clip.is_last:
                return
        if inside == 0 and self.start is not _Start.FILE:
            raise _StartedTooLate
        if inside < clip.frames:
            raise self.corrupt(f"the video ends after {inside} of the clip's {clip.frames} frames")
        if after < clip.halo_after:
            raise self.corrupt(f"the video ends after {after} of the {clip.halo_after} frames needed after the clip")

    def _check_start(self, pts: int, seen: int) -> None:
        """All that was needed before the clip has come, and its first frame is the one planned."""
        clip = self.clip
        first = clip.start_frame == clip.halo_before
        guard = 0 if first or self.config.interlaced == "refuse" else 1
        if seen < clip.halo_before + guard or pts != clip.start_pts:
            if self.start is not _Start.FILE:
                raise _StartedTooLate
            raise self.corrupt(
                f"its first frame is at pts {pts}, planned at {clip.start_pts}"
                if pts != clip.start_pts
                else f"{seen} frames before it, {clip.halo_before} needed"
            )

    def _hand_out(self, frame: av.VideoFrame, pts: int) -> Frame:
        self.handed_out += 1
        self.last_good = pts
        return Frame.from_av(frame, pts)

    def corrupt(self, what: str) -> CorruptVideo:
        place = "before its first frame" if self.last_good is None else f"after pts {self.last_good}"
        return CorruptVideo(
            f"{self.clip}: {what} ({place}); the file is damaged, or changed since it was planned: replace it, or set "
            "decode.corruption=conceal to keep what the decoder makes of it",
            pts=self.last_good,
        )

    def _decoded(self, file: BinaryIO) -> Iterator[tuple[av.VideoFrame, int]]:
        """Every frame from the start on, with its pts, progressive where that is asked for."""
        try:
            opened = demux.opened(file, self.clip.video, max_pixels=_HEADER_PIXELS)
            with opened as (container, stream, tap):
                context = stream.codec_context
                size = (context.width, context.height)
                refuse = self.config.corruption == "refuse"
                limit = demux.padded(*size)
                demux.configure(stream, threads=self.config.threads, refuse=refuse, max_pixels=limit)
                try:
                    raw = self._timed(container, stream) if self.clip.seek.by_time else self._counted(container, stream)
                    checked = self._checked(raw, size)
                    if self.config.interlaced == "deinterlace":
                        checked = Deinterlacer(stream).run(checked)
                    yield from checked
                except (av.FFmpegError, EOFError) as error:
                    tap.check()
                    raise self.corrupt(f"decoding fails: {demux.reason(error)}") from None
                tap.check()
        except UnreadableVideo as error:
            raise CorruptVideo(str(error), pts=self.last_good) from None

    def _checked(
        self, frames: Iterator[tuple[av.VideoFrame, int]], size: tuple[int, int]
    ) -> Iterator[tuple[av.VideoFrame, int]]:
        for frame, pts in frames:
            if (frame.width, frame.height) != size:
                raise self.corrupt(f"the picture size changes from {size} to {(frame.width, frame.height)} at {pts}")
            if frame.is_corrupt and self.config.corruption == "refuse":
                raise self.corrupt(f"the decoder marks the frame at pts {pts} as damaged")
            if frame.interlaced_frame and self.config.interlaced == "refuse":
                raise UnsupportedVideo(
                    f"{self.clip}: the frame at pts {pts} is interlaced; set decode.interlaced=deinterlace",
                    stage="decode", pts=self.last_good,
                )  # fmt: skip
            yield frame, pts

    def _counted(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[av.VideoFrame, int]]:
        """From the file's start, for streams whose packets carry no reliable times."""
        yield from demux.frames_in_order(container, stream)

    def _timed(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[av.VideoFrame, int]]:
        context = stream.codec_context
        pairs = demux.is_interlaced(stream)  # two packets, a field each, may make one frame
        refuse = self.config.corruption == "refuse"
        checked = context.name == "ffv1" and context.extradata_size > 0
        for packet in self._packets(container, stream):
            if refuse and packet.is_corrupt:
                yield from self._rescued(stream, packet.pts, pairs)
                raise self.corrupt(f"the packet at pts {packet.pts} is cut short or damaged")
            if refuse and checked and ffv1.is_damaged(bytes(packet)):
                raise self.corrupt(f"the packet at pts {packet.pts} does not match its checksums")
            if packet.pts is not None and demux.is_shown(packet, context.name):
                heapq.heappush(self.sent, packet.pts)
            try:
                frames = context.decode(packet)
            except (av.FFmpegError, EOFError):
                if not refuse:
                    continue
                yield from self._rescued(stream, packet.pts, pairs)
                raise
            yield from self._in_order(frames, pairs)
        yield from self._in_order(context.decode(None), pairs)
        if not refuse and self.previous is not None:
            yield from ((self.previous, pts) for pts in sorted(self.sent))

    def _in_order(self, frames: list[av.VideoFrame], pairs: bool) -> Iterator[tuple[av.VideoFrame, int]]:
        """The frames, each checked to be the next of those whose packets were sent.

        Where damage is concealed, a missing frame is replaced by the one before it.
        """
        refuse = self.config.corruption == "refuse"
        for frame in frames:
            if frame.pts is None:
                raise self.corrupt("a frame without a time")
            while self.sent and self.sent[0] < frame.pts:
                missing = heapq.heappop(self.sent)
                if self.previous is None or pairs:
                    continue
                if refuse:
                    raise self.corrupt(f"the frame at pts {missing} is missing")
                yield self.previous, missing
            if self.sent and self.sent[0] == frame.pts:
                heapq.heappop(self.sent)
            elif refuse and not pairs:
                raise self.corrupt(f"a frame at pts {frame.pts} without a packet")
            self.previous = frame
            yield frame, frame.pts

    def _rescued(self, stream: VideoStream, failed: int | None, pairs: bool) -> Iterator[tuple[av.VideoFrame, int]]:
        """Good frames that wait in the decoder for reordering when a packet fails: those shown before it, in order."""
        if self.config.threads > 1 or pairs or failed is None or self.previous is None:
            return
        try:
            waiting = stream.codec_context.decode(None)
        except (av.FFmpegError, EOFError):
            return
        for frame in waiting:
            if frame.pts is None or frame.is_corrupt or not self.sent or not self.sent[0] == frame.pts < failed:
                return
            yield frame, heapq.heappop(self.sent)

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[Any]]:
        """The packets from the starting place on, less the leading ones: they refer to what came before it."""
        first: int | None = None
        for packet in self._from_start(container, stream):
            if first is None:
                first = packet.pts
            if packet.size and not demux.is_leading(packet, first):
                yield packet

    def _from_start(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[Any]]:
        key = self.clip.seek
        started = False
        if self.start is not _Start.FILE:
            back = {_Start.KEY: 0, _Start.EARLIER: 1}.get(self.start)
            if back is None:
                back = int(_WELL_BEFORE_S / self.clip.time_base)
            try:
                container.seek((key.pts if key.dts is None else key.dts) - back, stream=stream, backward=True)
            except (av.FFmpegError, EOFError):
                raise _StartedTooLate from None
        for packet in demux.packets(container, stream):
            if self.start is not _Start.FILE and packet.pts == key.pts and packet.size != key.size >= 0:
                raise _StartedTooLate  # some demuxers guess times after a seek: MXF without its index
            if not started:
                if not packet.is_keyframe:
                    continue
                if self.start is _Start.KEY and packet.pts is not None and packet.pts < key.pts:
                    continue
                if self.start is not _Start.FILE and (packet.pts is None or packet.pts > key.pts):
                    raise _StartedTooLate
                if packet.pts == key.pts and self.start in (_Start.EARLIER, _Start.WELL_BEFORE):
                    raise _StartedTooLate
                started = True
            yield packet
        if not started:
            if self.start is not _Start.FILE:
                raise _StartedTooLate
            raise self.corrupt("no key packet in it")
