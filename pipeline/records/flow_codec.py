"""Dense fields as bytes, under a declared bound of the error. Measured against its rivals: flow_codec_benchmark.py.

    flow [2,H,W] ─► nearest multiple of a power of two ─► difference to the row above ─► pcodec (that along x too)

The step is the largest power of two up to twice the bound, so that decoding is exact in float32 and rounding is the
only error: at most half a step. Motion that 16 bits of steps cannot hold takes 32 bits, and beyond that the float32
values themselves: nothing ever wraps around or saturates. Differences are taken modulo the word, which loses nothing.

A payload says itself what it is: 30 bytes (magic with version, kind, form, exponent of the step, H, W, declared bound,
CRC-32 of all the rest), then the compressed body. pcodec's format is stable, and libraries read it from Rust, C and
Python. Confidence takes the same way in steps of 1/255; validity goes in as bits.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec, standalone

from pipeline.errors import EncodeError, RecordDamaged

Codec = Literal["pcodec", "none"]
CODECS: tuple[Codec, ...] = ("pcodec", "none")
"""`none` is no payload at all but plain lists of float32 in Parquet (flow_schema.py)."""
DEFAULT_CODEC: Codec = "pcodec"
DEFAULT_MAX_ERROR_PX = Fraction(1, 64)
CONFIDENCE_MAX_ERROR = Fraction(1, 500)
"""Steps of 1/255, so 1/510 and what float32 adds to it."""

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

_HEADER = struct.Struct("<4sBBhIIdI")
_MAGIC = b"MMF1"
_CRC_AT = _HEADER.size - 4
_FLOW, _MASK, _CONFIDENCE = 0, 1, 2
_KINDS = {_FLOW: "flow", _MASK: "validity", _CONFIDENCE: "confidence"}
_FORMS: dict[int, Any] = {0: np.int16, 1: np.int32, 2: np.float32}
_ZSTD_LEVEL = 9
_CHUNK = 1 << 16
"""Numbers that pcodec fits one set of bins to: 34 rows at 1080p. Measured best of 2^14 … 2^20 in size."""


@dataclass(frozen=True, slots=True)
class Encoded:
    payload: bytes
    max_error: float
    """What decoding it gives, against what was put in; never above the declared bound. In the field's unit."""

    def __repr__(self) -> str:
        return f"Encoded({len(self.payload)} bytes, max_error={self.max_error:g})"


def encode(field: Floats, max_error_px: Fraction | float = DEFAULT_MAX_ERROR_PX, codec: str = DEFAULT_CODEC) -> Encoded:
    """A flow field as a payload that `decode` returns within `max_error_px` everywhere. The same bytes every time.

    field           float32 [2,H,W] px, finite, of any magnitude
    max_error_px    the bound, > 0; held by the float32 values that come out, not only in theory
    Raises EncodeError for values that are not finite (no bound can hold for them: replace them, and mark those pixels
    invalid), and should decoding the payload ever break the bound. ValueError for shapes, bounds and codecs.
    """
    if codec != "pcodec":
        raise ValueError(f"codec {codec!r}: payloads are made by {[name for name in CODECS if name != 'none']}")
    exponent = step_exponent(max_error_px)
    largest = check_flow(field)
    form = _form(math.ldexp(largest, -exponent))
    if form == 2:
        body = _compressed(field)
    else:
        body = _compressed_planes(np.rint(field * np.float32(2.0**-exponent)).astype(_FORMS[form]))
    payload = _pack(_FLOW, form, exponent, field.shape[1:], float(max_error_px), body)
    error = float(np.abs(decode(payload) - field).max())
    if error > max_error_px:
        raise EncodeError(
            f"the flow field [2,{field.shape[1]},{field.shape[2]}] comes back with an error of {error:g} px, above the "
            f"declared {float(max_error_px):g}; check this machine's memory, and report it"
        )
    return Encoded(payload, error)


def decode(payload: bytes) -> Floats:
    """The flow field of a payload: float32 [2,H,W] px. RecordDamaged if it is not one, or not whole."""
    form, exponent, (height, width), _, body = _unpack(payload, _FLOW)
    if form == 2:
        raw: Floats = _decompressed(body, np.float32, (2, height, width))
        return raw
    planes = _decompressed_planes(body, _FORMS[form], (2, height, width))
    # Exact: up to 2^24 steps float32 holds every number, and beyond that the steps came from a float32.
    field: Floats = np.multiply(planes, np.float32(2.0**exponent), dtype=np.float32, casting="same_kind")
    return field


def encode_mask(mask: Bools) -> Encoded:
    """bool [H,W], without loss: bits, each row's difference to the one above, zstd."""
    if mask.dtype != np.bool_ or mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"a validity mask is bool [H,W], this one is {mask.dtype} {list(mask.shape)}")
    bits = np.packbits(mask, axis=1)
    changes = bits.copy()
    np.bitwise_xor(bits[1:], bits[:-1], out=changes[1:])
    body: bytes = pa.Codec("zstd", _ZSTD_LEVEL).compress(changes.data, asbytes=True)
    return Encoded(_pack(_MASK, 0, 0, mask.shape, 0.0, body), 0.0)


def decode_mask(payload: bytes) -> Bools:
    """bool [H,W]. RecordDamaged as for `decode`."""
    _, _, (height, width), _, body = _unpack(payload, _MASK)
    across = -(-width // 8)
    bits = np.frombuffer(pa.Codec("zstd").decompress(body, height * across), np.uint8).reshape(height, across).copy()
    for above, row in itertools.pairwise(bits):
        np.bitwise_xor(row, above, out=row)
    return np.unpackbits(bits, axis=1, count=width).view(np.bool_)


def encode_confidence(confidence: Floats) -> Encoded:
    """float32 [H,W] in 0..1, to the nearest 1/255: within 1/500. EncodeError for values outside 0..1."""
    check_confidence(confidence)
    body = _compressed_planes(np.rint(confidence[None] * np.float32(255)).astype(np.int16))
    payload = _pack(_CONFIDENCE, 0, 0, confidence.shape, float(CONFIDENCE_MAX_ERROR), body)
    error = float(np.abs(decode_confidence(payload) - confidence).max())
    if error > CONFIDENCE_MAX_ERROR:
        raise EncodeError(f"the confidence map {list(confidence.shape)} comes back {error:g} off; check this machine")
    return Encoded(payload, error)


def decode_confidence(payload: bytes) -> Floats:
    """float32 [H,W] in 0..1. RecordDamaged as for `decode`."""
    _, _, (height, width), _, body = _unpack(payload, _CONFIDENCE)
    confidence: Floats = _decompressed_planes(body, np.int16, (1, height, width))[0] / np.float32(255)
    return confidence


def shape_of(payload: bytes) -> tuple[int, int]:
    """(H, W) of any payload, from its header."""
    return _unpack(payload, None)[2]


def declared_error(payload: bytes) -> float:
    """The bound that a payload was made under."""
    return _unpack(payload, None)[3]


def step_exponent(max_error_px: Fraction | float) -> int:
    """e of the largest step 2^e that is at most twice the bound. ValueError for bounds out of reason."""
    if not 2.0**-60 <= max_error_px <= 2.0**20:
        raise ValueError(f"max_error_px={max_error_px}: between 2^-60 and 2^20 px; the default is 1/64")
    exponent = math.frexp(2 * float(max_error_px))[1] - 1
    return exponent - (Fraction(2) ** exponent > 2 * Fraction(max_error_px))  # float() may have rounded up


def _form(largest: float) -> int:
    """The narrowest number that holds `largest` steps of either sign, by its place in _FORMS."""
    if largest < 2.0**15 - 1:
        return 0
    return 1 if largest < 2.0**31 - 1 else 2


def check_flow(field: Floats) -> float:
    """The largest magnitude of a component, px. ValueError unless float32 [2,H,W], EncodeError unless finite."""
    if field.dtype != np.float32 or field.ndim != 3 or field.shape[0] != 2 or 0 in field.shape:
        raise ValueError(f"a flow field is float32 [2,H,W], this one is {field.dtype} {list(field.shape)}")
    largest = float(np.abs(field).max())
    if math.isfinite(largest):
        return largest
    where = np.argwhere(~np.isfinite(field))
    component, y, x = (int(number) for number in where[0])
    raise EncodeError(
        f"the flow field [2,{field.shape[1]},{field.shape[2]}] has {len(where)} values that are not finite, the first "
        f"{field[component, y, x]} at x={x}, y={y} of component {'xy'[component]}; replace them (finite_only does) and "
        "mark those pixels invalid"
    )


def check_confidence(confidence: Floats) -> None:
    """ValueError unless float32 [H,W], EncodeError unless all in 0..1."""
    if confidence.dtype != np.float32 or confidence.ndim != 2 or 0 in confidence.shape:
        raise ValueError(f"a confidence map is float32 [H,W], this one is {confidence.dtype} {list(confidence.shape)}")
    low, high = float(confidence.min()), float(confidence.max())
    if not (low >= 0 and high <= 1):  # also NaN
        raise EncodeError(f"the confidence map {list(confidence.shape)} goes from {low:g} to {high:g}; it must be 0..1")


def finite_only(field: Floats) -> tuple[Floats, Bools]:
    """(flow [2,H,W] with zero vectors where a component is NaN or infinite, bool [H,W]: where none was)."""
    known: Bools = np.logical_and.reduce(np.isfinite(field), axis=0)
    return np.where(known, field, np.float32(0)), known


def _pack(kind: int, form: int, exponent: int, shape: tuple[int, ...], bound: float, body: bytes) -> bytes:
    height, width = shape
    header = _HEADER.pack(_MAGIC, kind, form, exponent, height, width, bound, 0)[:_CRC_AT]
    return header + struct.pack("<I", zlib.crc32(body, zlib.crc32(header))) + body


def _unpack(payload: bytes, kind: int | None) -> tuple[int, int, tuple[int, int], float, bytes]:
    """form, exponent, (H, W), bound, body; checked, so that a damaged header cannot ask for memory."""
    name = "" if kind is None else _KINDS[kind] + " "
    if len(payload) < _HEADER.size or payload[:4] != _MAGIC:
        raise RecordDamaged(
            f"no {name}payload of this version: {len(payload)} bytes beginning {bytes(payload[:4])!r}, not {_MAGIC!r}"
        )
    _, found, form, exponent, height, width, bound, crc = _HEADER.unpack_from(payload)
    body = payload[_HEADER.size :]
    if zlib.crc32(body, zlib.crc32(payload[:_CRC_AT])) != crc:
        raise RecordDamaged(f"a {name}payload of {len(payload)} bytes does not match its checksum; restore the file")
    if kind is not None and found != kind:
        raise RecordDamaged(f"a payload of {_KINDS.get(found, found)} stands where {name.strip()} belongs")
    return form, exponent, (height, width), bound, body


def _compressed_planes(numbers: NDArray[Any]) -> bytes:
    """Integers [planes,H,W], each less the one above it; pcodec takes the difference along x too."""
    changes = numbers.copy()
    np.subtract(numbers[:, 1:], numbers[:, :-1], out=changes[:, 1:])
    return _compressed(changes)


def _decompressed_planes(body: bytes, kind: Any, shape: tuple[int, int, int]) -> NDArray[Any]:
    planes = _decompressed(body, kind, shape)
    for plane in planes:
        for above, row in itertools.pairwise(plane):  # rows stay in cache: cumsum over axis 0 takes longer
            np.add(row, above, out=row)
    return planes


def _compressed(numbers: NDArray[Any]) -> bytes:
    config = ChunkConfig(
        compression_level=8,
        mode_spec=ModeSpec.classic(),
        delta_spec=DeltaSpec.try_consecutive(1),  # along x: smaller, and sooner found, than what `auto` chooses
        paging_spec=PagingSpec.equal_pages_up_to(_CHUNK),
    )
    return bytes(standalone.simple_compress(np.ascontiguousarray(numbers).reshape(-1), config))


def _decompressed(body: bytes, kind: Any, shape: tuple[int, int, int]) -> NDArray[Any]:
    numbers = np.empty(shape, kind)
    progress = standalone.simple_decompress_into(body, numbers.reshape(-1))
    if progress.n_processed != numbers.size or not progress.finished:
        raise RecordDamaged(f"a payload holds {progress.n_processed} numbers where {numbers.size} belong")
    return numbers
