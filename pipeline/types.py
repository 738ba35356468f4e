"""The values that travel between the parts: a video, what its headers say, and a clip of it.

All are frozen, small, and made of plain Python values, so that a plan can be compared, stored as JSON and sent in a
Ray Data row. Times are integer `pts` in the stream's `time_base`; never float seconds.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class VideoRef:
    """One video: a whole object, a member of a tar shard, or a cell of a Parquet table.

    Identity is `uri` + `member` + `version` (an etag, or size and mtime).
    """

    uri: str
    version: str
    name: str
    """Where outputs go, relative to the run's prefix: a sanitised path with the input's own suffix ("day1/a.mp4")."""
    size: int
    """Bytes of the video itself, -1 if unknown."""
    kind: str = "object"
    """"object", "tar" (a byte range of `uri`) or "parquet" (row `member` of column `bytes`)."""
    member: str = ""
    """Member path in a tar shard; "row-<n>" in a Parquet table; else empty."""
    offset: int = 0
    """Byte offset of a tar member's data within `uri`."""

    @property
    def source_id(self) -> str:
        """Names the place (uri and member), whatever its version."""
        digest = hashlib.sha256(f"{self.uri}\n{self.member}".encode()).hexdigest()[:16]
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name)[-40:].strip("-.") or "video"
        return f"{slug}-{digest}"

    @property
    def video_id(self) -> str:
        """Names the place and the version: the key of everything that is stored about the video."""
        return f"{self.source_id}-{hashlib.sha256(self.version.encode()).hexdigest()[:8]}"

    def __str__(self) -> str:
        return f"{self.uri}#{self.member}" if self.member else self.uri


@dataclass(frozen=True, slots=True)
class Colour:
    """Colour description of a stream: the code points of ITU-T H.273, as FFmpeg numbers them (2 = unspecified)."""

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    full_range: bool = False
    range_tagged: bool = False
    """False when the stream does not say and limited range is assumed."""
    chroma_location: int = 0


@dataclass(frozen=True, slots=True)
class HDR:
    """Static HDR metadata (SMPTE ST 2086 mastering display, CTA-861.3 content light), as exact rationals."""

    primaries: tuple[Fraction, ...] | None = None
    """(rx, ry, gx, gy, bx, by, wx, wy), or None."""
    luminance: tuple[Fraction, Fraction] | None = None
    """(min, max) in cd/m²."""
    max_cll: int | None = None
    max_fall: int | None = None


@dataclass(frozen=True, slots=True)
class KeyPacket:
    """A packet from which decoding can start: its place in demux order, and its times."""

    ordinal: int
    """Index among the stream's packets in demux (decode) order, from 0."""
    pts: int
    dts: int | None
    by_time: bool = True
    """False: packets carry no reliable times; frames are counted from the file's first key packet, which this is."""
    size: int = -1
    """Bytes of the packet: tells it from another that a seek found under the same time."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What probing found: headers, and the presentation times of all frames (from packets, nothing decoded)."""

    container: str
    """FFmpeg's demuxer name, e.g. "mov,mp4,m4a,3gp,3g2,mj2"."""
    stream_index: int
    codec: str
    width: int
    height: int
    pix_fmt: str
    time_base: Fraction
    pts: tuple[int, ...]
    """Presentation time of each displayable frame, strictly increasing."""
    last_duration: int
    """Display time of the last frame, in time_base (> 0)."""
    keys: tuple[KeyPacket, ...]
    """In increasing pts; the first has the smallest pts that can be decoded."""
    average_rate: Fraction | None = None
    sample_aspect_ratio: Fraction = Fraction(1)
    rotation: int = 0
    """Clockwise degrees that a player turns the picture by: 0, 90, 180 or 270."""
    display_matrix: tuple[int, ...] | None = None
    """The container's nine 16.16 / 2.30 fixed-point numbers, if any."""
    colour: Colour = field(default_factory=Colour)
    hdr: HDR | None = None
    interlaced: bool = False
    packets: int = 0
    """Packets of the stream in demux order, including those that show nothing."""
    notes: tuple[str, ...] = ()
    """What was decided while probing and changes the result (leading frames skipped, alpha dropped, …)."""

    @property
    def end_pts(self) -> int:
        return self.pts[-1] + self.last_duration


@dataclass(frozen=True, slots=True)
class ClipRef:
    """The unit of work, retry and commit: frames [start_pts, end_pts) of one video, plus a halo on either side."""

    video: VideoRef
    index: int
    """0-based place among the video's clips."""
    count: int
    """How many clips tile the video."""
    start_frame: int
    frames: int
    """Frames in [start_pts, end_pts)."""
    start_pts: int
    end_pts: int
    """pts of the first frame after the clip; for the last clip the end of its last frame's display time."""
    time_base: Fraction
    halo_before: int
    """Frames before the clip that its task must see (fewer exist at the video's start: already clipped)."""
    halo_after: int
    seek: KeyPacket
    """The packet to start decoding from, for the first halo frame."""
    origin_pts: int
    """pts of the video's first frame: the origin of the output's time grid."""

    @property
    def is_last(self) -> bool:
        return self.index == self.count - 1

    @property
    def clip_id(self) -> str:
        """Names the clip within its video: sorts in time, and says which frames it holds."""
        return f"{self.index:06d}-{self.start_pts}-{self.end_pts}"

    def __str__(self) -> str:
        return f"{self.video} frames {self.start_frame}..{self.start_frame + self.frames - 1}"
