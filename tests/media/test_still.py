from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from pipeline.errors import UnreadableVideo
from pipeline.media.still import read_still
from pipeline.records.png import encode_png

NOISE = np.random.default_rng(0).integers(0, 65536, (30, 40, 3)).astype(np.uint16)


@pytest.mark.parametrize("image", [NOISE, (NOISE >> 8).astype(np.uint8), NOISE[..., 0], NOISE[..., 1].astype(np.uint8)])
def test_pictures_keep_their_depth_and_their_channels(image: np.ndarray) -> None:
    found = read_still(encode_png(image), "a.png")
    assert found.dtype == image.dtype
    np.testing.assert_array_equal(found, image)


def test_palettes_become_their_colours() -> None:
    colours = np.array([[1, 2, 3], [250, 0, 9]], np.uint8)
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2
    np.testing.assert_array_equal(read_still(encode_png(labels, colours), "a.png"), colours[labels])


def test_other_formats_are_read_too() -> None:
    smooth = np.add.outer(np.arange(32), np.arange(48))[..., None] + np.array([0, 40, 90])
    for header in (b"P6\n48 32\n255\n", b"P6 \n48 32 \n255\n"):  # the second as FlyingChairs has it
        np.testing.assert_array_equal(read_still(header + smooth.astype(np.uint8).tobytes(), "a.ppm"), smooth)
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 48, 32, "yuvj444p", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(smooth.astype(np.uint8), format="rgb24").reformat(format="yuvj444p")
    jpeg = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    assert np.abs(read_still(jpeg, "a.jpg").astype(int) - smooth).mean() < 4


def test_damaged_pictures_are_named() -> None:
    whole = encode_png(NOISE)
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    for data in (whole[: len(whole) // 2], bytes(changed), b"", b"no picture at all" * 100):
        with pytest.raises(UnreadableVideo, match=r"a\.png: no readable picture"):
            read_still(data, "a.png")
