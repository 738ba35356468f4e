"""pipeline/media/colour.py: there and back within a rounding step, the same as FFmpeg's swscale, nothing batch-made."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation

from pipeline.errors import UnsupportedVideo
from pipeline.media.colour import frame_from_rgb, from_rgb, matrix_of, to_rgb
from pipeline.media.frame import Frame, PixelFormat
from pipeline.types import Colour

MATRICES = (1, 4, 5, 6, 7, 8, 9)


def smooth(height: int = 48, width: int = 64) -> torch.Tensor:
    """R'G'B' [3, H, W] without sharp edges, inside the gamut."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    return torch.stack([x.sin() * y.cos(), (x + y).cos(), (x - 2 * y).sin()]) * 0.35 + 0.5


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", ["yuv444p", "yuv444p10le", "yuv444p16le"])
def test_rgb_to_444_and_back_is_within_a_rounding_step(name: str, full: bool, matrix: int) -> None:
    form, colour = PixelFormat.of(name), Colour(matrix=matrix, full_range=full)
    rgb = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(1))
    error = (to_rgb(frame_from_rgb(rgb, 0, form, colour), colour) - rgb).abs().max()
    # Half a step of luma and of chroma, the latter times at most 2 (1 - kb).
    steps = form.peak if full else 219 << (form.bits - 8)
    assert error <= 1.6 / steps + 1e-5


@pytest.mark.parametrize("name", ["gbrp", "gbrp10le", "gbrp16le"])
def test_every_rgb_value_survives_exactly(name: str) -> None:
    form, colour = PixelFormat.of(name), Colour(matrix=0, full_range=True)
    values = np.arange(form.peak + 1).astype(form.dtype).reshape(-1, 16)
    frame = Frame(0, (values, values[::-1].copy(), np.roll(values, 3)), form)
    for before, after in zip(frame.planes, from_rgb(to_rgb(frame, colour), form, colour), strict=True):
        assert np.array_equal(before, after)


def test_planes_are_green_blue_red_in_gbrp() -> None:
    rgb = torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1).expand(3, 2, 2)
    green, blue, red = from_rgb(rgb, PixelFormat.of("gbrp"), Colour(matrix=0, full_range=True))
    assert (red[0, 0], green[0, 0], blue[0, 0]) == (255, 128, 0)


@pytest.mark.parametrize("location", range(7))
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv440p", "yuv420p10le", "yuv422p12le"])
@pytest.mark.parametrize("size", [(16, 24), (17, 25), (1, 1)])
def test_flat_colours_survive_subsampling_exactly(name: str, location: int, size: tuple[int, int]) -> None:
    form, colour = PixelFormat.of(name), Colour(matrix=1, chroma_location=location)
    for sample in itertools.product((16, 90, 235), (100, 128, 140), (110, 128, 150)):
        planes = tuple(
            np.full(shape, value << (form.bits - 8), form.dtype)
            for shape, value in zip(form.plane_shapes(size[1], size[0]), sample, strict=True)
        )
        rgb = to_rgb(Frame(0, planes, form), colour, clamp=False)
        assert (rgb - rgb[:, :1, :1]).abs().max() == 0
        if rgb.min() >= 0 and rgb.max() <= 1:
            for before, after in zip(planes, from_rgb(rgb, form, colour), strict=True):
                assert np.array_equal(before, after)


@pytest.mark.parametrize("location", [1, 2, 3])
def test_chroma_lies_where_its_location_says(location: int) -> None:
    """A ramp in chroma, sampled where `chroma_location` puts the samples, comes back as the same ramp."""
    across = 0.5 if location == 2 else 0.0
    down = 0.0 if location == 3 else 0.5
    form = PixelFormat.of("yuv420p16le")
    y, x = np.mgrid[0:12, 0:16].astype(np.float64)
    ramp = 20000 + (2 * x + across) * 400 + (2 * y + down) * 300
    flat = np.full((24, 32), 30000, np.uint16)
    frame = Frame(0, (flat, np.full((12, 16), 32768, np.uint16), ramp.astype(np.uint16)), form)
    red = to_rgb(frame, Colour(matrix=1, chroma_location=location), clamp=False)[0]
    y, x = np.mgrid[0:24, 0:32].astype(np.float64)
    cr = (20000 + x * 400 + y * 300 - 32768) / (224 << 8)
    expected = (30000 - (16 << 8)) / (219 << 8) + 2 * (1 - 0.2126) * cr
    assert np.abs(red.numpy() - expected)[2:-2, 2:-2].max() < 1e-4


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("matrix", "name"), [(1, "ITU709"), (6, "ITU601"), (9, "BT2020"), (7, "SMPTE240M")])
@pytest.mark.parametrize("form", ["yuv420p", "yuv422p10le", "yuv444p"])
def test_a_smooth_picture_looks_as_swscale_shows_it(form: str, matrix: int, name: str, full: bool) -> None:
    # swscale takes chroma to lie in the centre where a frame does not say.
    colour = Colour(matrix=matrix, full_range=full, chroma_location=2)
    frame = frame_from_rgb(smooth(), 0, PixelFormat.of(form), colour)
    exact = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    theirs = frame.to_av().reformat(
        format="rgb24", src_colorspace=name, dst_colorspace=name, interpolation=exact,
        src_color_range="JPEG" if full else "MPEG", dst_color_range="JPEG", threads=1,
    ).to_ndarray()  # fmt: skip
    ours = to_rgb(frame, colour).permute(1, 2, 0).numpy() * 255
    difference = np.abs(ours - theirs)[2:-2, 2:-2]
    assert difference.max() < 1.2
    assert difference.mean() < 0.4


def test_gray_has_three_equal_channels_and_its_own_levels() -> None:
    plane = np.array([[16, 235], [126, 0]], np.uint8)
    rgb = to_rgb(Frame(0, (plane,), PixelFormat.of("gray")), Colour())
    assert torch.equal(rgb[0], rgb[1])
    assert torch.equal(rgb[0], rgb[2])
    assert rgb[0, 0].tolist() == [0.0, 1.0]
    assert rgb[0, 1, 1] == 0
    again = from_rgb(rgb, PixelFormat.of("gray"), Colour())
    assert again[0].tolist() == [[16, 235], [126, 16]]


def test_an_unspecified_matrix_is_601_below_720_lines_and_709_from_there() -> None:
    assert matrix_of(Colour(), 719) == 6
    assert matrix_of(Colour(), 720) == 1
    assert matrix_of(Colour(matrix=9), 480) == 9


@pytest.mark.parametrize("matrix", [10, 13, 14])
def test_matrices_that_are_not_linear_are_refused(matrix: int) -> None:
    with pytest.raises(UnsupportedVideo, match=f"colour matrix {matrix} "):
        matrix_of(Colour(matrix=matrix), 1080)


def test_out_of_gamut_is_clamped_only_when_asked() -> None:
    form, colour = PixelFormat.of("yuv444p"), Colour(matrix=1)
    frame = Frame(0, tuple(np.full((2, 2), value, np.uint8) for value in (250, 240, 240)), form)
    assert to_rgb(frame, colour).max() == 1
    loud = to_rgb(frame, colour, clamp=False)
    assert loud.max() > 1.5
    assert all(plane.max() <= 235 for plane in from_rgb(loud, form, colour))


def test_a_frame_of_16_bits_keeps_its_upper_half() -> None:
    form, colour = PixelFormat.of("gray16le"), Colour(full_range=True)
    plane = np.array([[0, 32767, 32768, 65535]], np.uint16)
    rgb = to_rgb(Frame(0, (plane,), form), colour)
    assert np.array_equal(from_rgb(rgb, form, colour)[0], plane)
    assert rgb[0, 0, 3] == 1
