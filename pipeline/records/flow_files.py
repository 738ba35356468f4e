"""Flow in other people's files: Middlebury and Sintel .flo, KITTI and HD1K PNG, Spring .flo5, FlyingThings .pfm, .npy.

                     read    written   values                                            unknown pixels
    .flo             yes     yes       float32 px, exact                                 1e10 (read: NaN, or above 1e9)
    .png (KITTI)     yes     yes       1/64 px within ±512 px: at most 1/128 px off      third channel 0
    .flo5 (Spring)   yes     no        float32 px of the frame, at twice its size        NaN
    .pfm (Things)    yes     no        float32 px, exact; third channel unused           NaN, or above 1e9
    .npy (TartanAir) yes     no        float32 px [H,W,2], exact                         NaN, or above 1e9

In memory flow is float32 [2,H,W] px, x right, y down, as everywhere else; unknown pixels are 0 there, and False in
`known`. Formats: vision.middlebury.edu/flow/code/flow-code/README.txt, the KITTI 2015 development kit's readme,
spring-benchmark.org (whose ground truth has 2×2 values a pixel, of which evaluations take the first).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError, EncodeError, RecordDamaged
from pipeline.media.still import read_still
from pipeline.records.flow_codec import Bools, Floats, finite_only
from pipeline.records.png import encode_png
from pipeline.storage import Storage, absolute, redact

FLO_TAG = b"PIEH"  # float32 202021.25, little endian
UNKNOWN = 1e10
UNKNOWN_ABOVE = 1e9
KITTI_STEPS = 64.0
KITTI_ZERO = 32768


@dataclass(frozen=True, slots=True, eq=False)
class KnownFlow:
    """flow float32 [2,H,W] px, 0 where unknown; known bool [H,W]."""

    flow: Floats
    known: Bools

    def __repr__(self) -> str:
        return f"KnownFlow({list(self.flow.shape)}, {self.known.mean():.1%} known)"


def read_flow_image(uri: str, *, invalid: str | None = None, storage: Storage | None = None) -> KnownFlow:
    """A flow file, by its suffix: .flo, .png (KITTI), .flo5, .pfm or .npy.

    `invalid` is a picture that is not black where the flow is unknown (Sintel's `invalid/`), or an .npy of that shape
    that is not 0 there (TartanAir's masks). Both may be any fsspec URL. RecordDamaged or UnreadableVideo for damaged
    files, ConfigError for other suffixes and where .flo5 needs h5py.
    """
    storage = storage or Storage()
    uri, name = absolute(uri), redact(uri)
    suffix = uri.rpartition(".")[2].lower()
    parse = PARSERS.get(suffix)
    if parse is None:
        raise ConfigError(f"{name}: no flow file; .flo, KITTI .png, Spring .flo5, .pfm and .npy are read")
    found = parse(storage.read_bytes(uri), name)
    if invalid is None:
        return found
    known = found.known & ~_marked(storage.read_bytes(absolute(invalid)), redact(invalid), found.known.shape)
    return KnownFlow(np.where(known, found.flow, np.float32(0)), known)


def flo_bytes(flow: Floats, known: Bools | None = None) -> bytes:
    """A .flo file of flow [2,H,W] px. ValueError for another type or shape."""
    _check(flow, known)
    height, width = flow.shape[1:]
    values = flow if known is None else np.where(known, flow, np.float32(UNKNOWN))
    return FLO_TAG + struct.pack("<ii", width, height) + values.transpose(1, 2, 0).astype("<f4").tobytes()


def parse_flo(data: bytes, name: str) -> KnownFlow:
    if data[:4] != FLO_TAG or len(data) < 12:
        raise RecordDamaged(f"{name}: no .flo file: it begins {data[:4]!r}, not {FLO_TAG!r}")
    width, height = struct.unpack_from("<ii", data, 4)
    if width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise RecordDamaged(f"{name}: {len(data)} bytes, where {width}×{height} px take {12 + 8 * width * height}")
    values = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).transpose(2, 0, 1)
    return _known(values)


def kitti_bytes(flow: Floats, known: Bools | None = None) -> bytes:
    """A KITTI PNG of flow [2,H,W] px. EncodeError for motion that the format cannot hold; ValueError as `flo_bytes`."""
    _check(flow, known)
    steps = np.rint(flow * np.float32(KITTI_STEPS)) + KITTI_ZERO
    outside = ~((steps >= 0) & (steps <= 0xFFFF)).all(axis=0)  # also NaN
    if known is not None:
        outside &= known
    if outside.any():
        y, x = (int(place) for place in np.argwhere(outside)[0])
        raise EncodeError(
            f"flow ({flow[0, y, x]:g}, {flow[1, y, x]:g}) px at x={x}, y={y}: KITTI's PNG holds -512 to 511.98 px; "
            "use .flo"
        )
    image = np.zeros((*flow.shape[1:], 3), np.uint16)
    inside = np.ones(flow.shape[1:], np.bool_) if known is None else known
    image[inside, :2] = steps.transpose(1, 2, 0)[inside].astype(np.uint16)
    image[..., 2] = inside
    return encode_png(image, level=3)


def parse_kitti(data: bytes, name: str) -> KnownFlow:
    image = read_still(data, name)
    if image.dtype != np.uint16 or image.ndim != 3:
        raise RecordDamaged(
            f"{name}: {image.dtype} {list(image.shape)}; KITTI's flow is a PNG of 16 bits and 3 channels"
        )
    known = image[..., 2] > 0
    values = (image[..., :2].astype(np.float32) - KITTI_ZERO) / np.float32(KITTI_STEPS)
    return KnownFlow(np.where(known, values.transpose(2, 0, 1), np.float32(0)), known)


def parse_flo5(data: bytes, name: str) -> KnownFlow:
    """Spring's ground truth: the first of the 2×2 values of each pixel."""
    try:
        import h5py
    except ImportError:
        raise ConfigError(f"{name}: reading .flo5 needs h5py; pip install h5py") from None
    try:
        with h5py.File(io.BytesIO(data)) as file:
            values = file["flow"][()]
    except (OSError, KeyError, ValueError) as error:
        raise RecordDamaged(f"{name}: no .flo5 file ({error}); restore it") from error
    if values.ndim != 3 or values.shape[2] != 2:
        raise RecordDamaged(f"{name}: its flow is {list(values.shape)}; a .flo5 file has [2H,2W,2]")
    return _known(values[::2, ::2].transpose(2, 0, 1))


def parse_pfm(data: bytes, name: str) -> KnownFlow:
    """A colour PFM, rows from the bottom up: x, y, and a channel that is not used."""
    kind, _, rest = data.partition(b"\n")
    size, _, rest = rest.partition(b"\n")
    scale, _, body = rest.partition(b"\n")
    try:
        width, height = (int(number) for number in size.split())
        order = "<" if float(scale) < 0 else ">"
    except ValueError:
        width = height = 0
    if kind.strip() != b"PF" or width < 1 or height < 1 or len(body) != 12 * width * height:
        raise RecordDamaged(
            f"{name}: no .pfm file of 3 channels: it begins {data[:16]!r} and has {len(data)} bytes; restore it"
        )
    values = np.frombuffer(body, order + "f4").reshape(height, width, 3)[::-1, :, :2]
    return _known(values.transpose(2, 0, 1))


def parse_npy(data: bytes, name: str) -> KnownFlow:
    values = _npy(data, name)
    if values.ndim != 3 or values.shape[2] != 2 or values.dtype.kind != "f":
        raise RecordDamaged(f"{name}: {values.dtype} {list(values.shape)}; a flow's .npy is float [H,W,2]")
    return _known(values.transpose(2, 0, 1))


def _npy(data: bytes, name: str) -> np.ndarray:
    try:
        values: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RecordDamaged(f"{name}: no .npy file ({error}); restore it") from error
    return values


def _marked(data: bytes, name: str, size: tuple[int, ...]) -> Bools:
    """Where a picture or an .npy is not 0: bool [H,W]."""
    mask = _npy(data, name) if name.lower().endswith(".npy") else read_still(data, name)
    if mask.shape[:2] != size:
        raise RecordDamaged(f"{name}: {list(mask.shape[:2])} px, its flow {list(size)}; restore it")
    marked: Bools = (mask != 0).reshape(*size, -1).any(-1)
    return marked


PARSERS: dict[str, Callable[[bytes, str], KnownFlow]] = {
    "flo": parse_flo,
    "png": parse_kitti,
    "flo5": parse_flo5,
    "pfm": parse_pfm,
    "npy": parse_npy,
}
"""By suffix: the bytes of a file and its name in messages. RecordDamaged or UnreadableVideo."""


def _known(values: np.ndarray) -> KnownFlow:
    flow = np.ascontiguousarray(values, np.float32)
    flow, finite = finite_only(flow)
    known: Bools = finite & np.logical_and.reduce(np.abs(flow) <= UNKNOWN_ABOVE, axis=0)
    return KnownFlow(np.where(known, flow, np.float32(0)), known)


def _check(flow: Floats, known: Bools | None) -> None:
    if flow.dtype != np.float32 or flow.ndim != 3 or flow.shape[0] != 2 or 0 in flow.shape:
        raise ValueError(f"a flow field is float32 [2,H,W], this one is {flow.dtype} {list(flow.shape)}")
    if known is not None and (known.dtype != np.bool_ or known.shape != flow.shape[1:]):
        raise ValueError(f"known pixels are bool {list(flow.shape[1:])}, not {known.dtype} {list(known.shape)}")
