"""Small sources with sound, made by code, and their frames encoded in segments: for the tests of encode and mux."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from pipeline.config import EncodeConfig
from pipeline.media.encode import EncodePlan, SegmentEncoder
from pipeline.media.frame import Frame, PixelFormat
from pipeline.media.mux import Segment
from pipeline.types import Colour, VideoInfo

TB = Fraction(1, 15360)
VFR = (0, 512, 1024, 1050, 3000, 3100, 9999, 10500, 11000, 12000, 12020, 15000, 15360, 16000)
"""Uneven times of 14 frames, in TB: 1.1 s."""
LOSSLESS = EncodeConfig(crf=0, preset="veryfast")


def pictures(pts: Sequence[int], pix_fmt: str = "yuv420p", width: int = 48, height: int = 32) -> list[Frame]:
    """A drifting texture: no two frames are alike, and B-frames pay."""
    kind, frames = PixelFormat.of(pix_fmt), []
    for n, time in enumerate(pts):
        planes = []
        for p, (rows, columns) in enumerate(kind.plane_shapes(width, height)):
            y, x = np.mgrid[0:rows, 0:columns]
            wave = np.sin((x + n) / 5.0) * np.cos((y - n) / 7.0 + p) * 0.3 + 0.5
            planes.append((wave * kind.peak).astype(kind.dtype))
        frames.append(Frame(time, tuple(planes), kind))
    return frames


def info_of(frames: Sequence[Frame], last: int = 512, **changes: Any) -> VideoInfo:
    frame = frames[0]
    values: dict[str, Any] = {
        "container": "mov,mp4,m4a,3gp,3g2,mj2", "stream_index": 0, "codec": "h264", "width": frame.width,
        "height": frame.height, "pix_fmt": frame.format.name, "time_base": TB, "pts": tuple(f.pts for f in frames),
        "last_duration": last, "keys": (), "colour": Colour(1, 1, 1, False, True),
    }  # fmt: skip
    return VideoInfo(**{**values, **changes})


def encode(
    folder: Path,
    frames: Sequence[Frame],
    info: VideoInfo,
    config: EncodeConfig = LOSSLESS,
    lengths: Sequence[int] = (1, 5, 3),
) -> tuple[EncodePlan, list[Segment]]:
    """Segments of the given lengths, and one of what remains."""
    plan = EncodePlan.build(info, config, info.time_base)
    segments, start = [], 0
    for number, length in enumerate([*lengths, len(frames)]):
        part = frames[start : start + length]
        if not part:
            break
        start += len(part)
        end = frames[start].pts if start < len(frames) else info.end_pts
        path = folder / f"segment-{number}.mp4"
        with SegmentEncoder(path, plan) as encoder:
            for frame in part:
                encoder.write(frame)
        assert encoder.stats is not None
        first, stats = part[0].pts, encoder.stats
        segments.append(
            Segment(str(path), first, len(part), end - first, part[-1].pts - first, stats.gaps, stats.reorder_depth)
        )
    return plan, segments


def make_source(
    path: Path,
    frames: Sequence[Frame],
    audio: Sequence[str] = ("aac",),
    audio_start: Fraction = Fraction(0),
    video_start: Fraction = Fraction(0),
    subtitles: bool = False,
    attachment: bool = False,
    container: str | None = None,
    seconds: float = 1.2,
) -> Path:
    """Writes a file with these frames, a tone in each of the codecs, tags, chapters; returns `path`."""
    with av.open(str(path), "w", format=container) as output:
        output.metadata.update({"title": "A drifting wave", "artist": "motionmill"})
        video = output.add_stream("libx264", rate=30, width=frames[0].width, height=frames[0].height, time_base=TB)
        video.options = {"preset": "ultrafast"}
        sounds = []
        for codec in audio:
            sound = output.add_stream(codec, rate=48000)
            sound.metadata["language"] = "deu" if sounds else "eng"
            if not sounds:
                sound.disposition = Disposition.default
            sounds.append(sound)
        text = output.add_mux_stream("subrip", time_base=Fraction(1, 1000)) if subtitles else None
        if attachment:
            output.add_attachment("font.ttf", "application/x-truetype-font", b"not really a font")
        output.set_chapters(
            [
                {"id": 1, "start": 0, "end": 500, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}},
                {"id": 2, "start": 500, "end": 1100, "time_base": Fraction(1, 1000), "metadata": {"title": "Two"}},
            ]
        )
        packets = []
        for frame in frames:
            picture = frame.to_av(TB)
            picture.pts += int(video_start / TB)
            packets += video.encode(picture)
        packets += video.encode(None)
        for number, sound in enumerate(sounds):
            fmt = sound.codec_context.format.name
            fifo = av.AudioFifo()
            total = int(48000 * seconds)
            wave = (np.sin(np.arange(total) / (20 + number)) * 8000).astype(np.int16)
            tone = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], format="s16", layout="stereo")
            tone.sample_rate, tone.pts, tone.time_base = 48000, 0, Fraction(1, 48000)
            for resampled in av.AudioResampler(format=fmt, layout="stereo", rate=48000).resample(tone):
                fifo.write(resampled)
            size = sound.codec_context.frame_size or 1024
            while block := fifo.read(size, partial=True):
                block.pts = block.pts + int(audio_start * 48000)
                packets += sound.encode(block)
            packets += sound.encode(None)
        if text is not None:
            for start in (100, 700):
                line = av.Packet(f"at {start} ms".encode())
                line.stream, line.time_base = text, Fraction(1, 1000)
                line.pts = line.dts = start
                line.duration = 300
                packets.append(line)
        output.start_encoding()
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            output.mux(packet)
    return path


def packets_of(path: str | Path, kind: str = "audio") -> list[list[tuple[Fraction, bytes]]]:
    """(time in seconds, payload) of each packet, by stream of that kind."""
    with av.open(str(path)) as container:
        found: dict[int, list[tuple[Fraction, bytes]]] = {s.index: [] for s in container.streams if s.type == kind}
        for packet in container.demux():
            if packet.pts is not None and packet.size and packet.stream.index in found:
                found[packet.stream.index].append((packet.pts * packet.time_base, bytes(packet)))
    return list(found.values())


def decoded(path: str | Path) -> list[tuple[Fraction, Frame]]:
    """(time in seconds, picture) of each video frame."""
    with av.open(str(path)) as container:
        return [(f.pts * f.time_base, Frame.from_av(f)) for f in container.decode(video=0)]
