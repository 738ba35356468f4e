"""Tiny videos made by code: no test needs a file from elsewhere.

    clip = make_video(codec="libx264", container="mp4", frames=48)      # bytes
    ref, file = as_video(clip, "a.mp4")                                # VideoRef and an open file

Pictures move and differ from frame to frame, so that a frame taken for another shows.
"""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from pipeline.media.encoders import usual_scheduling
from pipeline.types import ClipRef, VideoInfo, VideoRef

RGB = npt.NDArray[np.uint8]

QUIET = {"libx265": {"x265-params": "log-level=none"}}

CODECS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    # name: (container, encoder, pixel format, encoder options)
    "h264": ("mp4", "libx264", "yuv420p", {"preset": "fast", "x264-params": "bframes=3:b-pyramid=normal:threads=1"}),
    "h264 open gop": (
        "mp4", "libx264", "yuv420p",
        {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:scenecut=0:keyint=12:threads=1"},
    ),
    "h264 open gop mkv": (
        "matroska", "libx264", "yuv420p",
        {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:scenecut=0:keyint=12:threads=1"},
    ),
    "h264 intra refresh": ("mp4", "libx264", "yuv420p", {"x264-params": "intra-refresh=1:keyint=12:threads=1"}),
    "h264 ts": ("mpegts", "libx264", "yuv420p", {"x264-params": "bframes=2:threads=1"}),
    "h264 avi": ("avi", "libx264", "yuv420p", {"x264-params": "bframes=2:threads=1"}),
    "h264 raw": ("h264", "libx264", "yuv420p", {"x264-params": "bframes=2:threads=1"}),
    "hevc 10 bit": ("mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none:pools=1:keyint=12:bframes=3"}),
    "hevc open gop": (
        "matroska", "libx265", "yuv420p",
        {"x265-params": "log-level=none:pools=1:keyint=12:bframes=3:open-gop=1"},
    ),
    "vp9": ("webm", "libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "10"}),
    "vp8": ("webm", "libvpx", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    "av1": ("mp4", "libsvtav1", "yuv420p", {"preset": "13", "svtav1-params": "lp=1"}),
    "mpeg4 avi": ("avi", "mpeg4", "yuv420p", {"bf": "2"}),
    "mpeg2 ts": ("mpegts", "mpeg2video", "yuv420p", {"bf": "2"}),
    "mpeg2 ps": ("mpeg", "mpeg2video", "yuv420p", {"bf": "2"}),
    "prores": ("mov", "prores_ks", "yuv422p10le", {}),
    "ffv1": ("matroska", "ffv1", "yuv444p12le", {}),
    "mjpeg avi": ("avi", "mjpeg", "yuvj420p", {}),
}  # fmt: skip
"""Every codec and container that decoding is tested on."""


def picture(index: int, width: int = 64, height: int = 48) -> RGB:
    """RGB [height, width, 3]: gradients and a texture that drift, different for every index."""
    y, x = np.mgrid[0:height, 0:width]
    ramps = np.stack([x * 3 + index * 5, y * 4 + index * 3, (x + y) * 2 + index * 7], -1) % 256
    texture = np.random.default_rng(1).integers(0, 100, (height, width, 1))
    return (ramps // 2 + np.roll(texture, index, 1)).astype(np.uint8)


def flat(rgb: tuple[int, int, int], width: int = 64, height: int = 48) -> RGB:
    """One colour."""
    return np.full((height, width, 3), rgb, np.uint8)


def make_video(
    codec: str = "libx264",
    container: str = "mp4",
    *,
    frames: int = 24,
    size: tuple[int, int] = (64, 48),
    pix_fmt: str = "yuv420p",
    rate: Fraction | int = 25,
    gop: int = 12,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    audio: bool = False,
    rotation: int = 0,
    sample_aspect_ratio: Fraction | None = None,
    colour: tuple[int, int, int, int] | None = None,
    image: Callable[[int, int, int], RGB] = picture,
) -> bytes:
    """A whole video file.

    `pts` (in `time_base`, default 1 / rate) makes a variable frame rate; `rotation` is in clockwise degrees; `colour`
    is (primaries, transfer, matrix, range), ITU-T H.273 and FFmpeg's range (1 limited, 2 full); `audio` adds a second
    of AAC tone for each second of video.
    """
    rate, base = Fraction(rate), time_base or 1 / Fraction(rate)
    times = list(range(frames)) if pts is None else list(pts)
    target = io.BytesIO()
    with usual_scheduling(), av.open(target, "w", format=container, options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=rate, options={**QUIET.get(codec, {}), **(options or {})})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.gop_size = gop
        context.thread_count = 1
        context.time_base = base
        if sample_aspect_ratio is not None:
            context.sample_aspect_ratio = sample_aspect_ratio
        if colour is not None:
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = colour
        if rotation:
            stream.set_display_rotation(-rotation)
        sound = output.add_stream("aac", rate=48000, layout="mono") if audio else None
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(image(index, *size), "rgb24").reformat(format=pix_fmt, threads=1)
            frame.pts, frame.time_base = time, base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            end = (times[-1] + 1) * base
            for frame in _tone(end):
                output.mux(sound.encode(frame))
            output.mux(sound.encode(None))
    return target.getvalue()


def make_codec(name: str, frames: int = 30, **more: object) -> bytes:
    """One of `CODECS`."""
    container, codec, pix_fmt, options = CODECS[name]
    size = (64, 64) if "svt" in codec else (64, 48)
    arguments = {"frames": frames, "size": size, "pix_fmt": pix_fmt, "options": options, **more}
    return make_video(codec, container, **arguments)  # type: ignore[arg-type]


def _tone(seconds: Fraction) -> list[av.AudioFrame]:
    samples = int(seconds * 48000)
    wave = (np.sin(np.arange(samples) * (440 * 2 * np.pi / 48000)) * 0.2).astype(np.float32)
    frames = []
    for start in range(0, samples, 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        frames.append(frame)
    return frames


def only_audio() -> bytes:
    """An MP4 without video."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        sound = output.add_stream("aac", rate=48000, layout="mono")
        for frame in _tone(Fraction(1, 2)):
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    return target.getvalue()


def faststart(**arguments: object) -> bytes:
    """An MP4 whose index comes first, so that it still opens when its end is cut off."""
    data = make_video(**arguments)  # type: ignore[arg-type]
    # The muxer's own faststart reads its output back by name, which a buffer in memory has not.
    with tempfile.TemporaryDirectory() as folder, av.open(io.BytesIO(data)) as source:
        path = Path(folder) / "faststart.mp4"
        with av.open(path, "w", options={"movflags": "faststart"}) as output:
            copies = {stream.index: output.add_stream_from_template(stream) for stream in source.streams}
            for packet in source.demux():
                if packet.size:
                    packet.stream = copies[packet.stream_index]
                    output.mux(packet)
        return path.read_bytes()


def cut(data: bytes, share: float) -> bytes:
    """The first `share` of a file."""
    return data[: int(len(data) * share)]


def scramble(data: bytes, at: float = 0.7, count: int = 400) -> bytes:
    """`count` bytes overwritten, from a place `at` of the way through."""
    place = int(len(data) * at)
    noise = np.random.default_rng(7).integers(0, 256, count, np.uint8).tobytes()
    return data[:place] + noise + data[place + count :]


def claim_size(data: bytes, width: int, height: int) -> bytes:
    """An H.264 MP4 whose sample description (stsd/avc1) says another picture size."""
    place = data.index(b"avc1", data.index(b"stsd")) + 4 + 24
    return data[:place] + struct.pack(">HH", width, height) + data[place + 4 :]


def claim_samples(data: bytes, count: int) -> bytes:
    """An MP4 whose sample table (stsz) claims `count` samples of one size."""
    place = data.index(b"stsz") + 8
    return data[:place] + struct.pack(">II", 1, count) + data[place + 8 :]


def as_video(data: bytes, name: str = "video.mp4") -> tuple[VideoRef, io.BytesIO]:
    """A reference to bytes that lie nowhere but in memory, and an open file of them."""
    return VideoRef(uri=f"memory://{name}", version="1", name=name, size=len(data)), io.BytesIO(data)


def write_video(path: Path, data: bytes) -> VideoRef:
    """Writes a file and gives its reference."""
    path.write_bytes(data)
    return VideoRef(uri=str(path), version="1", name=path.name, size=len(data))


def clips_of(video: VideoRef, info: VideoInfo, frames: int, before: int = 0, after: int = 0) -> list[ClipRef]:
    """Tiles a video with clips of `frames` frames and halos: what planning does, without depending on it."""
    pts, clips = info.pts, []
    starts = range(0, len(pts), frames)
    for index, start in enumerate(starts):
        end = min(start + frames, len(pts))
        halo = min(before, start)
        key = [key for key in info.keys if key.pts <= pts[start - halo]][-1]
        clips.append(
            ClipRef(
                video=video, index=index, count=len(starts), start_frame=start, frames=end - start,
                start_pts=pts[start], end_pts=pts[end] if end < len(pts) else info.end_pts, time_base=info.time_base,
                halo_before=halo, halo_after=min(after, len(pts) - end), seek=key, origin_pts=pts[0],
            )
        )  # fmt: skip
    return clips
