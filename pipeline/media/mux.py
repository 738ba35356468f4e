"""Joins a video's segments, copies everything else from its source by packet, and writes the final file.

Nothing is decoded. Both inputs are streamed: memory does not grow with the video's length. The same inputs give the
same bytes: no creation time of our own, no random identifiers.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from math import gcd, lcm
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.container import Flags as ContainerFlags
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Discard, Disposition, Stream

from pipeline.config import MAX_TIMESCALE
from pipeline.errors import CorruptVideo, OutputMismatch, UnsupportedVideo
from pipeline.media.containers import MUXERS, TICK, choose_container, describe, pieces
from pipeline.media.encode import EncodePlan
from pipeline.media.timeline import lead_of, nearest_ticks, reorder_depth, retime
from pipeline.types import VideoInfo

_OWN_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "rotate", "timecode"}
"""Metadata that describes the source's file or its encoding, and would be false of the output."""


@dataclass(frozen=True, slots=True)
class Segment:
    """An encoded clip, and where it lies: `offset_ticks` is the pts of its first frame on the source's time line."""

    path: str
    offset_ticks: int
    """In the plan's time base."""
    frames: int
    duration: int
    """Ticks from its first frame to the end of its last frame's display time."""
    last: int
    """Ticks from its first to its last frame."""
    gaps: tuple[int, int] | None
    """`SegmentStats.gaps`: None where the segment has one frame."""
    reorder_depth: int | None = None
    """`SegmentStats.reorder_depth`; None: counted by reading the segment once more."""

    @property
    def end(self) -> int:
        return self.offset_ticks + self.duration


@dataclass(frozen=True, slots=True)
class CopiedStream:
    """An audio or subtitle stream as it was read from the source."""

    index: int
    """The stream's index in the source."""
    kind: str
    codec: str
    packets: int = 0
    bytes: int = 0
    """Payload. The muxer may strip framing (ADTS, from transport streams): see `framed`."""
    framed: bool = False
    start: Fraction | None = None
    """Seconds: first packet's pts in the output, encoder delay included (it may be negative)."""
    time_base: Fraction = Fraction(1)
    """The output's unit for this stream."""


@dataclass(frozen=True, slots=True)
class MuxReport:
    """What the final file holds, and what it does not."""

    container: str
    frames: int
    time_base: Fraction
    first_pts: int
    """Ticks of `time_base`, in the output."""
    end_pts: int
    shift: Fraction
    """Seconds taken off all streams alike, because the source's time line started later than 0."""
    time_rounding: Fraction
    """Largest error of a video time, seconds: 0 in mp4 and mov, half a millisecond in mkv."""
    copied: tuple[CopiedStream, ...] = ()
    chapters: int = 0
    dropped: tuple[str, ...] = ()
    """Streams and tags of the source that the output does not have, each with the reason."""
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Copy:
    """A stream on its way from the source to the output."""

    source: Stream
    output: Stream
    report: CopiedStream
    done: bool = False
    next_dts: int | None = field(default=None)
    last: int | None = None
    """The time of the packet before."""


def finalise(
    segments: Sequence[Segment],
    source: BinaryIO | str | None,
    info: VideoInfo,
    plan: EncodePlan,
    container: str,
    out_path: str | Path,
    cut_at: Fraction | None = None,
) -> MuxReport:
    """Writes `out_path` from the segments (in order) and the source's other streams; see the module's docstring.

    container: "auto", "mp4", "mov" or "mkv". cut_at: seconds on the source's time line where a good prefix ends; all
    copied streams and chapters end there too. Raises OutputMismatch where segments overlap, differ in their decoder
    configuration or do not hold the frames they should; UnsupportedVideo where a container that was asked for cannot
    hold the source's audio or subtitles. Leaves no file behind on an error.
    """
    _check_order(segments, out_path)
    with ExitStack() as stack:
        original: InputContainer | None = None
        if source is not None:
            original = stack.enter_context(av.open(source, "r", metadata_errors="replace"))
        first = stack.enter_context(av.open(segments[0].path))
        chosen = choose_container(original, container, info, first.streams.video[0])
        try:
            output = stack.enter_context(_open(out_path, chosen.name, plan, [first, *([original] if original else [])]))
            report = _write(output, first, original, segments, info, plan, chosen.name, cut_at)
            output.close()
        except BaseException:
            stack.close()
            Path(out_path).unlink(missing_ok=True)
            raise
        dropped = chosen.dropped
        if original is not None:
            dropped += _lost_tags(original, out_path)
    return replace(report, dropped=dropped, notes=chosen.notes)


def _check_order(segments: Sequence[Segment], out_path: str | Path) -> None:
    if not segments:
        raise ValueError(f"{out_path}: no segments")
    for before, after in pairwise(segments):
        if after.offset_ticks != before.end:
            raise OutputMismatch(
                f"segment {after.path} starts at tick {after.offset_ticks}, but {before.path} ends at {before.end}; "
                "segments must tile the video",
                stage="finalise",
            )


def _open(out_path: str | Path, name: str, plan: EncodePlan, inputs: Sequence[InputContainer]) -> OutputContainer:
    options = {}
    if name != "mkv":
        # Edit lists count in the movie's timescale: 1000 by default, which would round the A/V offset to 1 ms.
        scales = [plan.time_base.denominator]
        scales += [s.codec_context.sample_rate for c in inputs for s in c.streams.audio if s.codec_context]
        movie = lcm(*(scale for scale in scales if scale))
        movie = movie if movie <= MAX_TIMESCALE else plan.time_base.denominator
        options = {
            "movflags": "faststart", "video_track_timescale": str(plan.time_base.denominator),
            "movie_timescale": str(movie), "write_tmcd": "0",
        }  # fmt: skip
    output = av.open(os.fspath(out_path), "w", format=MUXERS[name], container_options=options)
    if name == "mkv":
        # Or it writes a random segment UID. The MP4 muxer is deterministic anyway, and would drop creation_time.
        output.flags |= ContainerFlags.bitexact.value  # type: ignore[operator]
    return output


def _write(
    output: OutputContainer,
    first: InputContainer,
    original: InputContainer | None,
    segments: Sequence[Segment],
    info: VideoInfo,
    plan: EncodePlan,
    name: str,
    cut_at: Fraction | None,
) -> MuxReport:
    video = _video_stream(output, first, original, info, plan)
    copies = _copied_streams(output, original, name)
    shift = _common_start(segments[0].offset_ticks * plan.time_base, plan.time_base, copies)
    chapters = _chapters(original, shift, cut_at)
    output.set_chapters(chapters)
    output.start_encoding()
    for copy in copies.values():
        assert copy.output.time_base is not None
        copy.report = replace(copy.report, time_base=copy.output.time_base)
    ticks = shift / plan.time_base
    assert ticks.denominator == 1
    streams = [_timed_video(segments, video, plan, ticks.numerator, TICK[name])]
    if original is not None and copies:
        streams.append(_copied_packets(original, copies, shift, cut_at))
    for _, packet in heapq.merge(*streams, key=lambda timed: timed[0]):
        try:
            output.mux_one(packet)
        except av.ArgumentError as error:
            found = next((copy for copy in copies.values() if copy.output.index == packet.stream.index), None)
            if found is None:
                raise
            said = str(error.log[-1]).strip() if error.log else error.strerror
            raise UnsupportedVideo(
                f"{describe(found.source)}: {name} does not take its packet at pts {packet.pts} ({said}); give it new "
                "times: ffmpeg -fflags +genpts -i IN -c copy OUT.mkv",
                stage="finalise",
            ) from None
    return MuxReport(
        name,
        sum(segment.frames for segment in segments),
        plan.time_base,
        segments[0].offset_ticks - ticks.numerator,
        segments[-1].end - ticks.numerator,
        shift,
        TICK[name] / 2,
        tuple(copy.report for copy in copies.values()),
        len(chapters),
    )


def _video_stream(
    output: OutputContainer, first: InputContainer, original: InputContainer | None, info: VideoInfo, plan: EncodePlan
) -> av.VideoStream:
    video = output.add_stream_from_template(first.streams.video[0], opaque=True)
    video.time_base = plan.time_base
    video.codec_context.sample_aspect_ratio = plan.sample_aspect_ratio
    gaps = {b - a for a, b in pairwise(info.pts)}
    if gaps and (max(gaps) - min(gaps)) * info.time_base <= Fraction(1, 1000):
        video.codec_context.framerate = plan.rate  # Matroska's default duration: of constant rates only
    if "hevc" in plan.codec or "x265" in plan.codec:
        video.codec_context.codec_tag = "hvc1"  # what Apple's players ask for; parameter sets are out of band
    if info.display_matrix is not None:
        video.set_display_matrix(info.display_matrix)
    elif info.rotation:
        video.set_display_rotation(-info.rotation)
    if original is not None:
        output.metadata.update({k: v for k, v in original.metadata.items() if k.lower() not in _OWN_TAGS})
        if info.stream_index < len(original.streams):
            source = original.streams[info.stream_index]
            video.metadata.update({k: v for k, v in source.metadata.items() if not _of_the_encoding(k)})
            video.disposition = Disposition(source.disposition)
    return video


def _of_the_encoding(key: str) -> bool:
    """Whether a video stream's tag speaks of the source's encoding (mkvmerge's statistics, its encoder)."""
    return key.lower() in _OWN_TAGS or key.split("-")[0] in {
        "BPS", "DURATION", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES", "_STATISTICS_TAGS", "_STATISTICS_WRITING_APP",
        "_STATISTICS_WRITING_DATE_UTC",
    }  # fmt: skip


def _copied_streams(output: OutputContainer, original: InputContainer | None, name: str) -> dict[int, _Copy]:
    if original is None:
        return {}
    copies = {}
    for stream in pieces(original, name):
        if isinstance(stream, AttachmentStream):
            title = stream.metadata.get("filename", f"attachment-{stream.index}")
            output.add_attachment(title, stream.mimetype or "application/octet-stream", stream.data)
            continue
        target = output.add_stream_from_template(stream, opaque=True)
        target.metadata.update({k: v for k, v in stream.metadata.items() if k.lower() != "encoder"})
        target.disposition = stream.disposition
        framed = stream.codec_context.name.startswith("aac") and not stream.codec_context.extradata
        copies[stream.index] = _Copy(
            stream, target, CopiedStream(stream.index, stream.type, stream.codec_context.name, framed=framed)
        )
    for stream in original.streams:
        if stream.index not in copies:
            stream.discard = Discard.all  # the demuxer then skips its bytes, where the container has an index
    return copies


def _common_start(video: Fraction, time_base: Fraction, copies: dict[int, _Copy]) -> Fraction:
    """Seconds to take off all streams: their earliest start, where it is after 0, in whole ticks of every stream."""
    bases, starts = [time_base], [video]
    for copy in copies.values():
        assert copy.source.time_base is not None
        bases.append(copy.source.time_base)
        if copy.source.type == "audio" and copy.source.start_time is not None:
            starts.append(copy.source.start_time * copy.source.time_base)
    period = Fraction(lcm(*(base.numerator for base in bases)), gcd(*(base.denominator for base in bases)))
    return max(Fraction(0), min(starts) // period * period)


def _chapters(original: InputContainer | None, shift: Fraction, cut_at: Fraction | None) -> list[Any]:
    chapters: list[Any] = []
    for chapter in original.chapters() if original is not None else []:
        base = chapter["time_base"] or Fraction(1, 1000)
        start, end = chapter["start"] * base, chapter["end"] * base
        if cut_at is not None and start >= cut_at:
            continue
        end = end if cut_at is None else min(end, cut_at)
        chapters.append({**chapter, "start": round((start - shift) / base), "end": round((end - shift) / base)})
    return chapters


def _timed_video(
    segments: Sequence[Segment], video: av.VideoStream, plan: EncodePlan, shift: int, tick: Fraction
) -> Iterator[tuple[Fraction, Packet[Any]]]:
    """The segments' packets with their final pts, dts and durations, each with its dts in seconds."""
    depth = 0
    for segment in segments:
        known = segment.reorder_depth
        depth = max(depth, reorder_depth(pts for pts, _ in _packets(segment, plan, 0)) if known is None else known)
    expected = av.open(segments[0].path)
    try:
        extradata = expected.streams.video[0].codec_context.extradata
    finally:
        expected.close()

    def joined() -> Iterator[tuple[int, Packet[Any]]]:
        for segment in segments:
            frames = 0
            for pts, packet in _packets(segment, plan, segment.offset_ticks - shift, extradata):
                if not segment.offset_ticks - shift <= pts < segment.end - shift:
                    raise OutputMismatch(f"{segment.path}: a frame at tick {pts} lies outside it", stage="finalise")
                frames += 1
                yield pts, packet
            if frames != segment.frames:
                raise OutputMismatch(f"{segment.path}: {frames} frames, expected {segment.frames}", stage="finalise")

    end = segments[-1].end - shift
    for (pts, packet), timed in retime(joined(), lambda item: item[0], depth, end, _lead(segments, depth)):
        if tick and _same_tick(pts, timed.duration, plan.time_base, tick):
            raise UnsupportedVideo(
                f"frames {float(timed.duration * plan.time_base):.6f} s apart would fall on one time in mkv, which "
                "counts in 1 ms; set encode.container to mp4 or mov",
                stage="finalise",
                pts=pts,
            )
        packet.stream = video
        packet.time_base = plan.time_base
        packet.pts, packet.dts, packet.duration = pts, timed.dts, timed.duration
        yield timed.dts * plan.time_base, packet


def _lead(segments: Sequence[Segment], depth: int) -> int:
    gaps = [gap for segment in segments for gap in segment.gaps or ()]
    # The last frame of each segment lasts until the next one's first.
    gaps += [segment.duration - segment.last for segment in segments]
    return lead_of(depth, min(gaps), max(gaps))


def _same_tick(pts: int, duration: int, time_base: Fraction, tick: Fraction) -> bool:
    first, following = nearest_ticks(pts * time_base, tick), nearest_ticks((pts + duration) * time_base, tick)
    return first == following


def _packets(
    segment: Segment, plan: EncodePlan, offset: int, extradata: bytes | None = None
) -> Iterator[tuple[int, Packet[Any]]]:
    with av.open(segment.path) as container:
        stream = container.streams.video[0]
        if stream.time_base != plan.time_base:
            raise OutputMismatch(f"{segment.path}: time base {stream.time_base}, expected {plan.time_base}")
        if extradata is not None and stream.codec_context.extradata != extradata:
            raise OutputMismatch(f"{segment.path}: decoder configuration differs from the first segment's")
        for packet in container.demux(stream):
            if packet.pts is not None and packet.size:
                yield packet.pts + offset, packet


def _copied_packets(
    original: InputContainer, copies: dict[int, _Copy], shift: Fraction, cut_at: Fraction | None
) -> Iterator[tuple[Fraction, Packet[Any]]]:
    """The source's audio and subtitle packets in its own order, with their dts in seconds; counts them."""
    for packet in _demuxed(original, [copy.source for copy in copies.values()]):
        if not packet.size and packet.pts is None:
            continue  # the end: its stream index means nothing
        copy = copies[packet.stream_index]
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None:
            pts = copy.next_dts  # containers that time only some packets: each follows the one before
        if pts is None:
            raise UnsupportedVideo(f"stream {describe(copy.source)} has no times", stage="finalise")
        base, duration = packet.time_base, packet.duration or 0
        if not duration and copy.source.type == "audio" and copy.last is not None:
            # Matroska may leave it out; and what MP4 is to show for no time at its end, readers never get.
            duration = packet.duration = max(0, pts - copy.last)
        copy.last, copy.next_dts = pts, pts + duration
        if cut_at is not None:
            if pts * base >= cut_at:
                copy.done = True
                if all(other.done or other.source.type != "audio" for other in copies.values()):
                    return
                continue
            if copy.source.type == "subtitle":
                packet.duration = min(duration, int((cut_at - pts * base) / base))
        moved = int(shift / base)
        dts = packet.dts if packet.dts is not None else pts
        packet.pts, packet.dts = pts - moved, dts - moved
        report = copy.report
        copy.report = replace(
            report,
            packets=report.packets + 1,
            bytes=report.bytes + packet.size,
            start=(pts - moved) * base if report.start is None else report.start,
        )
        packet.stream = copy.output
        yield (dts - moved) * base, packet


def _demuxed(original: InputContainer, streams: list[Stream]) -> Iterator[Packet[Any]]:
    """The streams' packets; damage to them is the video's fault."""
    try:
        yield from original.demux(streams)
    except av.FFmpegError as error:
        said = error.strerror or str(error)
        raise CorruptVideo(
            f"its {', '.join(map(describe, streams))} cannot be read ({said}); upload it again", stage="finalise"
        ) from None


def _lost_tags(original: InputContainer, out_path: str | Path) -> tuple[str, ...]:
    """Container tags that the muxer has no place for, found by reading the output's header back."""
    with av.open(os.fspath(out_path), metadata_errors="replace") as written:
        kept = {key.lower() for key in written.metadata}
    lost = sorted(key for key in original.metadata if key.lower() not in kept | _OWN_TAGS)
    return tuple(f"tag {key!r}: this container has no place for it" for key in lost)
