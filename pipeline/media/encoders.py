"""The encoders that motionmill can use: what each takes in, its options, and whether this machine really has it.

Options are chosen so that the same frames give the same bytes on any number of cores, that every group of pictures is
closed, and that nothing about the run (times, random identifiers) gets into the stream.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipeline.config import EncodeConfig
from pipeline.errors import ConfigError, EncoderUnavailable
from pipeline.types import HDR, Colour

os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints a banner for each segment otherwise; 1: errors only


def _planar(layouts: str, *depths: int) -> dict[str, tuple[str, int]]:
    return {layout + (f"{bits}le" if bits > 8 else ""): (layout, bits) for bits in depths for layout in layouts.split()}


YUV = "yuv420p yuv422p yuv444p"
FORMATS: dict[str, dict[str, tuple[str, int]]] = {
    "libx264": _planar(YUV + " gray", 8, 10),
    "libx265": _planar(YUV + " gray gbrp", 8, 10, 12),
    "libsvtav1": _planar("yuv420p", 8, 10),
    "h264_nvenc": _planar("yuv420p yuv444p", 8),
    "hevc_nvenc": _planar("yuv420p yuv444p", 8) | {"p010le": ("yuv420p", 10), "yuv444p10msble": ("yuv444p", 10)},
    "av1_nvenc": _planar("yuv420p", 8) | {"p010le": ("yuv420p", 10)},
}
"""Pixel formats that each encoder takes and keeps: name to (layout, bits)."""

_SVT_PRESETS = {
    "ultrafast": 12, "superfast": 11, "veryfast": 10, "faster": 9, "fast": 8, "medium": 6, "slow": 4, "slower": 3,
    "veryslow": 2, "placebo": 1,
}  # fmt: skip
_MAX_CRF = {"libsvtav1": 63, "av1_nvenc": 63}


@dataclass(frozen=True, slots=True)
class Choice:
    """An encoder's options, and what was decided that the configuration does not say literally."""

    options: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


_CUTREE_SIDE = 128
"""Smallest side in pixels at which x265's cutree is used: below, it writes past its buffers (seen at 48x32, 48x48)."""


def choose_options(config: EncodeConfig, bits: int, colour: Colour, hdr: HDR | None, size: tuple[int, int]) -> Choice:
    """Maps `encode.crf`, `preset`, `threads` and HDR metadata to the encoder's own options; `encode.options` win.

    `size`: coded width and height, pixels.

    Raises ConfigError where the encoder has no such quality or preset.
    """
    codec, notes = config.codec, []
    limit = _MAX_CRF.get(codec, 51)
    if config.crf > limit:
        raise ConfigError(f"encode.crf={config.crf:g}: {codec} takes 0 to {limit}")
    quality, preset = f"{config.crf:g}", config.preset
    params: dict[str, str] = {}
    if codec == "libx264":
        options = {"crf": quality, "preset": preset}
        params = {"open-gop": "0"} | _x26x_hdr(hdr, "mastering-display", "cll", colour)
    elif codec == "libx265":
        options = {"crf": quality, "preset": preset}
        params = {"log-level": "error", "open-gop": "0", "info": "0"}
        # Both default to the machine's cores, and frame threads change what is encoded.
        params |= {"frame-threads": str(config.threads), "pools": str(config.threads)}
        if min(size) < _CUTREE_SIDE:
            params["cutree"] = "0"
        params |= _x26x_hdr(hdr, "master-display", "max-cll", colour)
        if hdr is not None and colour.transfer == 16:
            params["hdr10"] = "1"
    elif codec == "libsvtav1":
        if config.crf != int(config.crf):
            quality = str(round(config.crf))
            notes.append(f"libsvtav1 takes whole crf: {config.crf:g} becomes {quality}")
        if not preset.isdigit():
            if preset not in _SVT_PRESETS:
                raise ConfigError(f"encode.preset={preset}: libsvtav1 takes 0 to 13, or {', '.join(_SVT_PRESETS)}")
            preset = str(_SVT_PRESETS[preset])
            notes.append(f"libsvtav1 preset {config.preset} is {preset}")
        options = {"crf": quality, "preset": preset}
        params = {"lp": str(config.threads)} | _svt_hdr(hdr, colour)
    else:
        options = {"preset": preset, "forced-idr": "1", "b": "0"}
        options |= {"rc": "constqp", "qp": "0"} if config.crf == 0 else {"rc": "vbr", "cq": quality}
        if hdr is not None:
            notes.append(f"HDR mastering metadata is not written by {codec}")
    key = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}.get(codec)
    own = dict(config.options)
    if key is not None and params:
        text = ":".join(f"{name}={value}" for name, value in params.items())
        own[key] = f"{text}:{own[key]}" if key in own else text
    if codec == "libx264" and config.crf == 0 and bits > 8:
        notes.append("libx264 at crf 0 is not lossless above 8 bits")
    return Choice(tuple(sorted((options | own).items())), tuple(notes))


def opened_with(codec: str, options: Mapping[str, str]) -> dict[str, str]:
    """The options as this machine's encoder is given them: what is encoded must not depend on what memory held before.

    x264's macroblock tree for AVX-512 reads numbers that it never wrote, at most widths (seen in the x264 of PyAV 18.1:
    pictures of 320x240 gave other bytes in memory that had been used). With AVX2 it gives what it gives on processors
    without AVX-512, in a tenth more time.
    """
    given = dict(options)
    if codec == "libx264" and _has_avx512():
        given["x264-params"] = ":".join(filter(None, ("asm=avx2", given.get("x264-params", ""))))  # the last one wins
    return given


@contextmanager
def usual_scheduling() -> Iterator[None]:
    """Around what opens an encoder: this thread, and those that begin within, keep the scheduling that this one has.

    SVT-AV1, opened by root, gives its caller and all its own threads the highest real-time priority. Processes that the
    caller starts inherit it: whole clusters would take the machine from everything else on it.
    """
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    threads = Path("/proc/self/task")
    earlier = {thread.name for thread in threads.iterdir()}
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != before[0]:
            os.sched_setscheduler(0, *before)
            for name in {thread.name for thread in threads.iterdir()} - earlier:
                with suppress(ProcessLookupError):  # it has ended
                    os.sched_setscheduler(int(name), *before)


@functools.cache
def _has_avx512() -> bool:
    try:
        return "avx512" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False


def _x26x_hdr(hdr: HDR | None, display: str, light: str, colour: Colour) -> dict[str, str]:
    """ST 2086 in units of 0.00002 and 0.0001 cd/m², CTA-861.3 in cd/m², chroma location from 0 (left)."""
    params = {}
    if colour.chroma_location > 1:
        params["chromaloc"] = str(colour.chroma_location - 1)
    if hdr is not None and hdr.primaries is not None and hdr.luminance is not None:
        rx, ry, gx, gy, bx, by, wx, wy = (round(value * 50000) for value in hdr.primaries)
        low, high = (round(value * 10000) for value in hdr.luminance)
        params[display] = f"G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({high},{low})"
    if hdr is not None and hdr.max_cll is not None:
        params[light] = f"{hdr.max_cll},{hdr.max_fall or 0}"
    return params


def _svt_hdr(hdr: HDR | None, colour: Colour) -> dict[str, str]:
    params = {}
    if colour.chroma_location in (1, 3):
        params["chroma-sample-position"] = "left" if colour.chroma_location == 1 else "topleft"
    if hdr is not None and hdr.primaries is not None and hdr.luminance is not None:
        rx, ry, gx, gy, bx, by, wx, wy = (f"{float(value):.5f}" for value in hdr.primaries)
        low, high = (f"{float(value):.4f}" for value in hdr.luminance)
        params["mastering-display"] = f"G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({high},{low})"
    if hdr is not None and hdr.max_cll is not None:
        params["content-light"] = f"{hdr.max_cll},{hdr.max_fall or 0}"
    return params


def check_encoder(config: EncodeConfig | str) -> None:
    """Opens the encoder with the configuration's options and encodes three small frames.

    Being compiled in says nothing: NVENC needs a driver and a GPU with an encoder. Raises EncoderUnavailable naming the
    encoder, this host and the remedy.
    """
    if isinstance(config, str):
        if config not in FORMATS:
            raise EncoderUnavailable(f"{config}: not an encoder that motionmill knows; use {', '.join(FORMATS)}")
        config = EncodeConfig.model_validate({"codec": config, "preset": "p4" if "nvenc" in config else "ultrafast"})
    name = config.pix_fmt if config.pix_fmt in FORMATS[config.codec] else "yuv420p"
    bits = FORMATS[config.codec][name][1]
    try:
        context = av.CodecContext.create(config.codec, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height, context.pix_fmt = 256, 256, name
        context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
        context.thread_count = config.threads
        context.options = opened_with(
            config.codec, dict(choose_options(config, bits, Colour(), None, (256, 256)).options)
        )
        packets = 0
        with usual_scheduling():
            for pts in range(3):
                frame = av.VideoFrame(256, 256, name)
                for plane in frame.planes:
                    plane.update(np.full(plane.buffer_size, 16 * pts, np.uint8).tobytes())
                frame.pts = pts
                packets += len(context.encode(frame))
            packets += len(context.encode(None))
    except (av.FFmpegError, ValueError, RuntimeError) as error:
        raise EncoderUnavailable(
            f"encoder {config.codec} does not work on host {socket.gethostname()}: {error}; "
            f"set encode.codec=libx264{_hint(config)}"
        ) from error
    if packets != 3:
        raise EncoderUnavailable(
            f"encoder {config.codec} on host {socket.gethostname()} gave {packets} packets for 3 frames; "
            f"set encode.codec=libx264"
        )


def _hint(config: EncodeConfig) -> str:
    if "nvenc" in config.codec:
        return ", or run on nodes whose GPU has NVENC (data-centre GPUs such as A100 and H100 have none)"
    return f", or correct encode.preset={config.preset} and encode.options" if config.options or config.preset else ""


def available_encoders() -> tuple[str, ...]:
    """Names of the encoders that work on this machine, each tried for real."""
    working = []
    for codec in FORMATS:
        try:
            check_encoder(codec)
        except EncoderUnavailable:
            continue
        working.append(codec)
    return tuple(working)
