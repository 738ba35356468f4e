"""Opens a container over a file object, safely: known demuxers only, no surprises from its size, and no lost errors.

Shared by probing and decoding, which must choose the same stream and see the same packets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from pipeline.errors import UnreadableVideo
from pipeline.types import VideoRef

DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "obu",
    "ivf", "mxf", "ogg", "flv", "asf", "yuv4mpegpipe", "gif", "apng", "nut", "dv", "rm", "wtv",
)  # fmt: skip
"""What FFmpeg may take an input for. Playlists (hls, concat, dash, …) stay out: they open other files and URLs."""

_WITHOUT_PTS = {"avi", "h264", "hevc", "m4v", "mpegvideo", "obu"}
"""Demuxers whose container stores no presentation times: FFmpeg's guesses are not to be relied on."""

_IN_ORDER = {"mjpeg", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "ffv1", "dvvideo", "magicyuv", "vp8"}
"""Decoders that never reorder: their frames' times are the packets' decode times."""

_DETECT = "crccheck+bitstream+buffer+explode"


class Tap:
    """What FFmpeg reads through: it remembers an error that a demuxer would take for the end of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: Exception | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:
            self.error = self.error or error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def check(self) -> None:
        """Raises the first error that reading met."""
        if self.error is not None:
            raise self.error


@contextmanager
def opened(file: BinaryIO, video: VideoRef, *, max_pixels: int) -> Iterator[tuple[InputContainer, VideoStream, Tap]]:
    """The container and its video stream, with nothing decoded that is larger than `max_pixels`; closed on every path.

    `file` itself stays open. Raises UnreadableVideo when it is no video, or has no usable stream.
    """
    file.seek(0)
    tap = Tap(file)
    options = {"format_whitelist": ",".join(DEMUXERS), "max_pixels": str(max_pixels)}
    try:
        # Tags in other encodings than UTF-8 are common, and no reason to refuse a video.
        container = av.open(tap, "r", options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError, EOFError) as error:
        tap.check()
        raise UnreadableVideo(
            f"{video}: not a video that can be read, or cut short before its index ({reason(error)}); "
            "upload it again, or leave it out of the input"
        ) from None
    try:
        stream = _choose(container, video)
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        yield container, stream, tap
    finally:
        container.close()


def _choose(container: InputContainer, video: VideoRef) -> VideoStream:
    """The stream marked as default, else the largest, else the first; cover pictures do not count."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & pictures
    ]
    if not streams:
        found = ", ".join(stream.type for stream in container.streams) or "nothing"
        raise UnreadableVideo(
            f"{video}: no video stream that can be decoded (found: {found}); leave it out of the input"
        )

    def rank(stream: VideoStream) -> tuple[bool, int, int]:
        area = stream.codec_context.width * stream.codec_context.height
        return bool(stream.disposition & Disposition.default), area, -stream.index

    return max(streams, key=rank)


def configure(stream: VideoStream, *, threads: int, refuse: bool, max_pixels: int) -> None:
    """Sets the decoder up before it opens: errors are errors (`refuse`), and no picture exceeds `max_pixels`."""
    context = stream.codec_context
    options = {"max_pixels": str(max_pixels)}
    if refuse:
        options["err_detect"] = _DETECT
    context.options = options
    context.thread_count = threads
    context.thread_type = "AUTO"


def stores_pts(container: InputContainer, stream: VideoStream) -> bool:
    """Whether packets carry presentation times of the container's own, or such that cannot be wrong."""
    return container.format.name not in _WITHOUT_PTS or stream.codec_context.name in _IN_ORDER


def is_interlaced(stream: VideoStream) -> bool:
    """What the headers say (field order TT, BB, TB or BT)."""
    return stream.codec_context.field_order >= 2


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[Any]]:
    """The stream's packets in decode order, without PyAV's empty one at the end."""
    for packet in container.demux(stream):
        if packet.size or packet.pts is not None or packet.dts is not None:
            yield packet


def is_shown(packet: Packet[Any], codec: str) -> bool:
    """Whether the packet gives a picture to show: not cut off by an edit list, no hidden VP8 reference frame."""
    if packet.is_discard or not packet.size:
        return False
    return codec not in ("vp8", "libvpx") or bool(bytes(memoryview(packet)[:1])[0] & 0x10)


def is_leading(packet: Packet[Any], key_pts: int | None) -> bool:
    """Whether a packet that follows a key packet in decode order is shown before it."""
    return packet.pts is not None and key_pts is not None and packet.pts < key_pts


def frames_in_order(container: InputContainer, stream: VideoStream) -> Iterator[tuple[av.VideoFrame, int]]:
    """All frames from the first key packet on, with their times: for streams whose packets' times are not reliable.

    The n-th frame has the decoder's time where the container stores times; else the n-th packet's decode time, later by
    the first packet's reordering delay; else n frames at the stream's rate.
    """
    stored, step = stores_pts(container, stream), constant_step(stream)
    stamps: list[int | None] = []
    delay = 0
    number = 0

    def timed(frames: list[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, int]]:
        nonlocal number
        for frame in frames:
            time = frame.pts if stored else stamps[number] if number < len(stamps) else None
            yield frame, number * step if time is None else time
            number += 1

    for packet in packets(container, stream):
        if not packet.size or not (stamps or packet.is_keyframe):
            continue
        if not stamps and packet.pts is not None and packet.dts is not None:
            delay = packet.pts - packet.dts
        stamps.append(None if packet.dts is None else packet.dts + delay)
        yield from timed(stream.codec_context.decode(packet))
    yield from timed(stream.codec_context.decode(None))


def constant_step(stream: VideoStream) -> int:
    """Time between frames by the stream's rate (25 a second where it has none), in its time base."""
    rate = stream.average_rate or stream.guessed_rate or 25
    return max(round(1 / (rate * (stream.time_base or 1))), 1)


def padded(width: int, height: int) -> int:
    """Pixels of the largest picture that a decoder may allocate for a frame of this size (blocks, alignment)."""
    return (width + 256) * (height + 256)


def reason(error: BaseException) -> str:
    """FFmpeg's own words, without Python's decoration."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
