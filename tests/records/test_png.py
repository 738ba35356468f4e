"""PNG files that others read, and theirs that we read: FFmpeg is the other one here."""

from __future__ import annotations

import io
import zlib

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.errors import RecordDamaged
from pipeline.records.png import decode_png, encode_png

SIDES = st.integers(1, 20)
PALETTE = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)


def ffmpeg_reads(data: bytes, pix_fmt: str) -> np.ndarray:
    with av.open(io.BytesIO(data), format="png_pipe") as container:
        return next(container.decode(video=0)).to_ndarray(format=pix_fmt)


def ffmpeg_writes(image: np.ndarray, pix_fmt: str, predictor: str) -> bytes:
    height, width = image.shape[:2]
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = width, height, pix_fmt, 1
    codec.options = {"pred": predictor}
    frame = av.VideoFrame.from_ndarray(image, pix_fmt)
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


@given(st.data(), SIDES, SIDES, st.sampled_from([np.uint8, np.uint16]), st.booleans())
def test_what_is_written_comes_back_and_is_what_ffmpeg_sees(
    data: st.DataObject, height: int, width: int, kind: type, rgb: bool
) -> None:
    image = data.draw(arrays.arrays(kind, (height, width, 3) if rgb else (height, width)))
    written = encode_png(image)
    assert np.array_equal(decode_png(written), image)
    assert decode_png(written).dtype == kind
    name = ("rgb" if rgb else "gray") + {(True, 1): "24", (True, 2): "48le", (False, 1): "", (False, 2): "16le"}[
        (rgb, np.dtype(kind).itemsize)
    ]
    assert np.array_equal(ffmpeg_reads(written, name), image)


def test_a_palette_colours_the_values_and_leaves_them_as_they_are() -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    written = encode_png(labels, PALETTE)
    assert np.array_equal(decode_png(written), labels)
    assert np.array_equal(ffmpeg_reads(written, "rgb24"), PALETTE[labels])


@pytest.mark.parametrize("predictor", ["none", "sub", "up", "avg", "paeth", "mixed"])
@pytest.mark.parametrize("pix_fmt", ["gray", "rgb24", "gray16be"])
def test_every_filter_is_undone(predictor: str, pix_fmt: str) -> None:
    random = np.random.default_rng(1)
    ramp = np.add.outer(np.arange(19) * 5, np.arange(23) * 3)
    image = (ramp[..., None] + random.integers(0, 30, (19, 23, 3))).astype(np.uint8)
    image = (
        image if pix_fmt == "rgb24" else image[..., 0] if pix_fmt == "gray" else image[..., 0].astype(np.uint16) * 257
    )
    written = ffmpeg_writes(image, pix_fmt, predictor)
    assert np.array_equal(decode_png(written), image)


def test_damage_is_told_apart_from_pictures() -> None:
    whole = encode_png(np.zeros((5, 7), np.uint8))
    for place in (0, 20, 45, len(whole) - 3):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        with pytest.raises(RecordDamaged):
            decode_png(bytes(broken))
    for length in (3, 30, len(whole) - 1):
        with pytest.raises(RecordDamaged):
            decode_png(whole[:length])
    assert zlib.crc32(whole) == zlib.crc32(encode_png(np.zeros((5, 7), np.uint8))), "the same bytes every time"


@pytest.mark.parametrize(
    ("image", "palette"),
    [
        (np.zeros((3, 4), np.float32), None),
        (np.zeros((3, 4, 2), np.uint8), None),
        (np.zeros((0, 4), np.uint8), None),
        (np.full((3, 4), 9, np.uint8), PALETTE[:9]),
    ],
)
def test_what_png_cannot_hold_is_refused(image: np.ndarray, palette: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match=r"for PNG|colours"):
        encode_png(image, palette)
