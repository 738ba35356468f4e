"""Between decoded planes and R'G'B' tensors (non-linear, as the models take them), on any torch device.

Matrices and ranges after ITU-T H.273; chroma positions by `chroma_location` (FFmpeg's numbering), unspecified as
left, which is where MPEG puts it. An unspecified matrix is BT.709 from 720 lines up and BT.601 below, as players do.
Each sample depends on its neighbours in the same frame only, in a fixed order of arithmetic: batches change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.errors import UnsupportedVideo
from pipeline.media.frame import Frame, PixelFormat, Plane
from pipeline.types import Colour

_RGB, _UNSPECIFIED, _YCGCO = 0, 2, 8
_KR_KB = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.470BG, BT.601 625
    6: (0.299, 0.114),  # SMPTE 170M, BT.601 525
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
}

_HD_LINES = 720


def matrix_of(colour: Colour, height: int) -> int:
    """The matrix that is used: the stream's own, or the usual one for its height where it names none."""
    if colour.matrix in _KR_KB or colour.matrix in (_RGB, _YCGCO):
        return colour.matrix
    if colour.matrix == _UNSPECIFIED:
        return 1 if height >= _HD_LINES else 6
    raise UnsupportedVideo(
        f"colour matrix {colour.matrix} (ITU-T H.273) is not supported, only {sorted([0, 8, *_KR_KB])}; convert the "
        "video to BT.709 (ffmpeg -vf colorspace=bt709)"
    )


def to_rgb(frame: Frame, colour: Colour, device: torch.device | str = "cpu", *, clamp: bool = True) -> torch.Tensor:
    """R'G'B' of a frame: float32 [3, H, W], 0..1 (beyond it for out-of-gamut YUV when `clamp` is off).

    Gray gives three equal channels. Raises UnsupportedVideo for matrices that are no fixed 3×3 (BT.2020 constant
    luminance, ICtCp, …).
    """
    form = frame.format
    planes = [_upload(plane, device) for plane in frame.planes]
    if form.is_rgb:
        green, blue, red = (_normalise(plane, form, colour, chroma=False) for plane in planes)
    else:
        luma = _normalise(planes[0], form, colour, chroma=False)
        if form.is_gray:
            red = green = blue = luma
        else:
            across, down = _phases(colour.chroma_location)
            matrix = matrix_of(colour, frame.height)
            # Before upsampling, which is linear: a quarter of the work.
            small = (_normalise(plane, form, colour, chroma=matrix != _RGB) for plane in planes[1:])
            cb, cr = (
                _upsample(
                    _upsample(plane, frame.height, 0, form.log2_chroma[1], down),
                    frame.width, 1, form.log2_chroma[0], across,
                )
                for plane in small
            )  # fmt: skip
            red, green, blue = (cr, luma, cb) if matrix == _RGB else _to_primaries(luma, cb, cr, matrix)
    rgb = torch.stack((red, green, blue))  # (3, H, W)
    return rgb.clamp_(0, 1) if clamp else rgb


def from_rgb(rgb: torch.Tensor, form: PixelFormat, colour: Colour) -> tuple[Plane, ...]:
    """The planes of R'G'B' float [3, H, W] (clamped to 0..1) in a working format; rounded to the nearest step."""
    if rgb.ndim != 3 or rgb.shape[0] != 3:
        raise ValueError(f"rgb has shape {tuple(rgb.shape)}, expected (3, H, W)")
    red, green, blue = rgb.to(torch.float32).clamp(0, 1)
    if form.is_rgb:
        return tuple(_download(_quantise(plane, form, colour, chroma=False), form) for plane in (green, blue, red))
    height = int(rgb.shape[1])
    matrix = matrix_of(colour, height)
    if form.is_gray:
        # RGB-tagged gray has no matrix of its own.
        luma = _from_primaries(red, green, blue, matrix_of(Colour(), height) if matrix == _RGB else matrix)[0]
        return (_download(_quantise(luma, form, colour, chroma=False), form),)
    if matrix == _RGB:
        luma, cb, cr = green, blue, red
    else:
        luma, cb, cr = _from_primaries(red, green, blue, matrix)
    across, down = _phases(colour.chroma_location)
    halved = (
        _downsample(_downsample(plane, 0, form.log2_chroma[1], down), 1, form.log2_chroma[0], across)
        for plane in (cb, cr)
    )
    chroma = (_quantise(plane, form, colour, chroma=matrix != _RGB) for plane in halved)
    return tuple(_download(plane, form) for plane in (_quantise(luma, form, colour, chroma=False), *chroma))


def frame_from_rgb(rgb: torch.Tensor, pts: int, form: PixelFormat, colour: Colour) -> Frame:
    """`from_rgb` as a frame at time `pts`."""
    return Frame(pts, from_rgb(rgb, form, colour), form)


def _to_primaries(
    luma: torch.Tensor, cb: torch.Tensor, cr: torch.Tensor, matrix: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if matrix == _YCGCO:  # Cb carries Cg, Cr carries Co
        rest = luma - cb
        return rest + cr, luma + cb, rest - cr
    kr, kb = _KR_KB[matrix]
    kg = 1 - kr - kb
    red = torch.add(luma, cr, alpha=2 * (1 - kr))
    blue = torch.add(luma, cb, alpha=2 * (1 - kb))
    green = luma.add(cb, alpha=-2 * kb * (1 - kb) / kg).add_(cr, alpha=-2 * kr * (1 - kr) / kg)
    return red, green, blue


def _from_primaries(
    red: torch.Tensor, green: torch.Tensor, blue: torch.Tensor, matrix: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if matrix == _YCGCO:
        mean = (red + blue) / 2
        return (green + mean) / 2, (green - mean) / 2, (red - blue) / 2
    kr, kb = _KR_KB[matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    return luma, (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))


def _scale(form: PixelFormat, colour: Colour, chroma: bool) -> tuple[float, float]:
    """(sample value of 0, steps per 1.0)"""
    if colour.full_range:
        return (float(1 << (form.bits - 1)) if chroma else 0.0), float(form.peak)
    step = 1 << (form.bits - 8)
    return (128.0 * step, 224.0 * step) if chroma else (16.0 * step, 219.0 * step)


def _normalise(plane: torch.Tensor, form: PixelFormat, colour: Colour, *, chroma: bool) -> torch.Tensor:
    zero, steps = _scale(form, colour, chroma)
    return plane.sub(zero).div_(steps)


def _quantise(plane: torch.Tensor, form: PixelFormat, colour: Colour, *, chroma: bool) -> torch.Tensor:
    zero, steps = _scale(form, colour, chroma)
    return (plane * steps).add_(zero).round_().clamp_(0, form.peak)


def _upload(plane: Plane, device: torch.device | str) -> torch.Tensor:
    """Samples as float32 on `device`; what crosses the bus is 8 or 16 bits wide."""
    if plane.dtype == np.uint8:
        return torch.from_numpy(plane).to(device).to(torch.float32)
    # torch has few kernels for uint16: carried as int16, its sign undone.
    signed = torch.from_numpy(plane.view(np.int16)).to(device)
    return (signed.to(torch.int32) & 0xFFFF).to(torch.float32)


def _download(plane: torch.Tensor, form: PixelFormat) -> Plane:
    if form.bits == 8:
        return np.ascontiguousarray(plane.to(torch.uint8).cpu().numpy())
    return np.ascontiguousarray(plane.to(torch.int32).to(torch.int16).cpu().numpy()).view(np.uint16)


def _phases(location: int) -> tuple[float, float]:
    """Where a chroma sample lies between its two luma samples (0: on the first, 1: on the second), (across, down).

    1 left, 2 centre, 3 top left, 4 top, 5 bottom left, 6 bottom; 0 (unspecified) is left.
    """
    across = 0.5 if location in (2, 4, 6) else 0.0
    down = {3: 0.0, 4: 0.0, 5: 1.0, 6: 1.0}.get(location, 0.5)
    return across, down


def _upsample(plane: torch.Tensor, size: int, dim: int, halvings: int, phase: float) -> torch.Tensor:
    """Twice the samples along `dim` (cut to `size`), bilinear; edges repeat."""
    if not halvings:
        return plane
    count = plane.shape[dim]
    before = torch.cat((plane.narrow(dim, 0, 1), plane.narrow(dim, 0, count - 1)), dim)
    after = torch.cat((plane.narrow(dim, 1, count - 1), plane.narrow(dim, count - 1, 1)), dim)
    # A luma sample at j lies (j - phase) / 2 chroma samples in: the even ones before sample j / 2, the odd ones after.
    pairs = plane.new_empty([*plane.shape[:dim], count, 2, *plane.shape[dim + 1 :]])
    torch.lerp(before, plane, 1 - phase / 2, out=pairs.select(dim + 1, 0))  # stacking both takes four times as long
    torch.lerp(plane, after, (1 - phase) / 2, out=pairs.select(dim + 1, 1))
    return pairs.flatten(dim, dim + 1).narrow(dim, 0, size)


def _downsample(plane: torch.Tensor, dim: int, halvings: int, phase: float) -> torch.Tensor:
    """Half the samples along `dim` (rounded up): the mean of two between them, [1 2 1] / 4 on one of them."""
    if not halvings:
        return plane
    size = plane.shape[dim]
    even = torch.arange(0, size, 2, device=plane.device)

    def at(index: torch.Tensor) -> torch.Tensor:
        return plane.index_select(dim, index.clamp(0, size - 1))

    if phase == 0.5:
        return _sum((at(even), at(even + 1)), (0.5, 0.5))
    centre = even + int(phase)
    return _sum((at(centre - 1), at(centre), at(centre + 1)), (0.25, 0.5, 0.25))


def _sum(planes: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    total = planes[0] * weights[0]
    for plane, weight in zip(planes[1:], weights[1:], strict=True):
        total = total + plane * weight
    return total
