"""Which container can hold a source's audio, subtitles and attachments by packet copy."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from pipeline.errors import UnsupportedVideo
from pipeline.types import VideoInfo

MUXERS = {"mp4": "mp4", "mov": "mov", "mkv": "matroska"}
TICK = {"mp4": Fraction(0), "mov": Fraction(0), "mkv": Fraction(1, 1000)}
"""Unit that video times are rounded to; 0: they are exact."""

_MP4 = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac", "mov_text"}
"""What players expect in MP4. Its muxer takes more (Vorbis, raw PCM) that few of them can play."""


@dataclass(frozen=True, slots=True)
class ContainerChoice:
    name: str
    dropped: tuple[str, ...]
    notes: tuple[str, ...]


def choose_container(source: InputContainer | None, wanted: str, info: VideoInfo, video: Stream) -> ContainerChoice:
    """The container for a source's streams: "mp4", "mov" or "mkv", and what is left out of it, with reasons.

    auto: the first of mp4, mov (only for PCM, which mp4 players lack), mkv that holds all audio and subtitles; mkv
    where none does. `video`: the encoded stream to go into it. Raises UnsupportedVideo where the container asked for
    by name cannot hold one of them.
    """
    media = [] if source is None else [s for s in source.streams if s.type in ("audio", "subtitle")]
    pcm = any(_codec(stream).startswith("pcm_") for stream in media)
    order = ["mp4", *(["mov"] if pcm else []), "mkv"]
    if wanted != "auto" and not _muxes(video, wanted):
        raise UnsupportedVideo(
            f"encode.container={wanted} cannot hold {_codec(video)} video; set it to mp4, mkv or auto", stage="finalise"
        )
    order = [name for name in order if _muxes(video, name)]
    misfits = {name: [s for s in media if not fits(s, name)] for name in (order if wanted == "auto" else [wanted])}
    name = next((name for name in misfits if not misfits[name]), order[-1] if wanted == "auto" else wanted)
    if wanted != "auto" and misfits[name]:
        unfit = ", ".join(describe(stream) for stream in misfits[name])
        raise UnsupportedVideo(
            f"encode.container={wanted} cannot hold {unfit} by packet copy; set it to mkv or auto", stage="finalise"
        )
    notes, dropped = [], [f"{describe(stream)}: {name} cannot hold it" for stream in misfits[name]]
    if wanted == "auto" and name != "mp4":
        reason = ", ".join(describe(stream) for stream in misfits["mp4"])
        notes.append(f"container is {name}: mp4 cannot hold {reason}")
    if name == "mkv":
        notes.append("times are rounded to 1 ms: mkv holds no finer ones")
    for stream in source.streams if source is not None else ():
        if stream.type == "video" and stream.index != info.stream_index:
            cover = Disposition.attached_pic in stream.disposition
            dropped.append(f"{describe(stream)}: {'cover art' if cover else 'a further video stream'}")
        elif stream.type == "attachment" and name != "mkv":
            dropped.append(f"{describe(stream)}: {name} holds no attachments")
        elif stream.type not in ("video", "audio", "subtitle", "attachment"):
            dropped.append(f"{describe(stream)}: timed data is not copied")
    return ContainerChoice(name, tuple(dropped), tuple(notes))


def pieces(source: InputContainer, name: str) -> list[Stream]:
    """The source's streams that container `name` gets a copy of, in their order."""
    return [
        stream
        for stream in source.streams
        if (stream.type in ("audio", "subtitle") and fits(stream, name))
        or (stream.type == "attachment" and name == "mkv")
    ]


def fits(stream: Stream, name: str) -> bool:
    """Whether `name` can hold the stream's packets: by what players know, then by asking the muxer itself."""
    codec = _codec(stream)
    if not codec or (name == "mp4" and codec not in _MP4):
        return False
    return _muxes(stream, name)


def _muxes(stream: Stream, name: str) -> bool:
    """Whether the muxer itself takes the stream: only writing a header tells."""
    trial = av.open(io.BytesIO(), "w", format=MUXERS[name])
    try:
        trial.add_stream_from_template(stream, opaque=True)
        trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with suppress(av.FFmpegError, ValueError):
            trial.close()
    return True


def describe(stream: Stream) -> str:
    """ "audio stream 1 (aac, eng)" """
    detail = ", ".join(part for part in (_codec(stream), stream.language) if part)
    return f"{stream.type} stream {stream.index}" + (f" ({detail})" if detail else "")


def _codec(stream: Stream) -> str:
    """FFmpeg's name of the codec itself, not of the decoder chosen for it ("opus", not "libopus")."""
    if stream.codec_context is None:
        return ""
    return str(stream.codec_context.codec.canonical_name)
