"""The intact files that mutants are made from: every container and codec, and the sample clips made small."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import av

from tests.e2e.support import ROOT
from tests.media_factory import CODECS, faststart, make_codec, make_video

FRAMES = 30
X264 = {"preset": "ultrafast", "x264-params": "bframes=2:threads=1"}
SAMPLES = {"bigbuckbunny.mp4": "mp4", "cityCC0.mpg": "mpegts"}
CHECKED = "ffv1 with checksums"


@dataclass(frozen=True)
class Seed:
    name: str
    suffix: str
    data: bytes


@cache
def seeds() -> tuple[Seed, ...]:
    made = [Seed(name, _suffix(CODECS[name][0]), make_codec(name, FRAMES)) for name in CODECS if name != "ffv1"]
    # Key frames alone: what a lost packet does to those that refer to it, no checksum tells.
    checked = make_video(
        "ffv1", "matroska", frames=FRAMES, gop=1, options={"level": "3", "slicecrc": "1", "slices": "4"}
    )  # fmt: skip
    with_sound = make_video(frames=FRAMES, audio=True, options=X264)
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    return (
        *made,
        Seed(CHECKED, ".mkv", checked),
        Seed("h264 with sound", ".mp4", with_sound),
        Seed("h264 index first", ".mp4", faststart(frames=FRAMES, options=X264)),
        Seed("h264 fragments", ".mp4", make_video(frames=FRAMES, options=X264, container_options=fragments)),
        *(Seed(name, _suffix(container), _small(name, container)) for name, container in SAMPLES.items()),
    )


def _suffix(container: str) -> str:
    return {"matroska": ".mkv", "mpegts": ".ts", "mpeg": ".mpg", "h264": ".mp4"}.get(container, f".{container}")


def _small(name: str, container: str) -> bytes:
    """The first frames of a sample clip at 160 px across."""
    target = io.BytesIO()
    source = av.open(str(ROOT / "jobs" / "samples" / name))
    with source, av.open(target, "w", format=container) as output:
        stream = output.add_stream("libx264", rate=Fraction(25), options=X264)
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        stream.codec_context.thread_count, stream.codec_context.gop_size = 1, 12
        for index, frame in enumerate(source.decode(video=0)):
            if index == FRAMES:
                break
            small = frame.reformat(width=160, height=90, format="yuv420p", threads=1)
            small.pts, small.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(small))
        output.mux(stream.encode(None))
    return target.getvalue()
