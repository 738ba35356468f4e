"""Our codec against its rivals, on real fields: size, error and speed, all on one core.

    python -m pipeline.records.flow_codec_benchmark FILES       records (best of codec none), .flo, KITTI PNG, .flo5

All rivals get the same bound where they can hold one. float16 has none: past 32 px its own steps are wider than 1/32.
zfp's tolerance is raised to the largest power of two that still keeps the bound, since it is wary. It is no dependency
of the project: without `pip install zfpy` its row is missing.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pcodec import ChunkConfig, ModeSpec, standalone

from pipeline.media.still import read_still
from pipeline.records import flow_codec
from pipeline.records.flow_codec import DEFAULT_MAX_ERROR_PX, Floats
from pipeline.records.png import encode_png

REFERENCE = "float16, bytes split, zstd"
OURS = "ours: fixed point, rows' difference, pcodec"
_FULL_HD = 1920 * 1080

Shape = tuple[int, ...]
Encode = Callable[[Floats], bytes]
Decode = Callable[[bytes, Shape], Floats]


@dataclass(frozen=True, slots=True)
class CodecRow:
    """One codec over all fields. Speeds are in 1080p fields (two components) a second of one core's time."""

    name: str
    bytes: int
    times_smaller: float
    """Than REFERENCE."""
    bits_per_pixel: float
    max_error_px: float
    keeps_bound: bool
    encoded_per_s: float
    decoded_per_s: float


def measure_codecs(
    fields: Iterable[Floats], max_error_px: Fraction | float = DEFAULT_MAX_ERROR_PX, repeats: int = 3
) -> list[CodecRow]:
    """A row a codec, over float32 [2,H,W] fields taken together; times are of the process (best of `repeats`).

    ValueError without fields, and for motion that 16 bits of steps do not hold: some rivals have no more.
    """
    kept = [np.ascontiguousarray(field, np.float32) for field in fields]
    if not kept:
        raise ValueError("no fields to measure codecs with")
    step = 2.0 ** flow_codec.step_exponent(max_error_px)
    largest = max(float(np.abs(field).max()) for field in kept)
    if not largest / step < 2**15 - 1:
        raise ValueError(f"motion of {largest:g} px takes more than 16 bits of {step:g} px; measure other fields")
    rows: list[CodecRow] = []
    for name, encode, decode in _rivals(float(max_error_px), step):
        size, error, encoding, decoding, pixels = 0, 0.0, 0.0, 0.0, 0
        for field in kept:
            seconds, payload = _timed(functools.partial(encode, field), 1)
            encoding += seconds
            seconds, again = _timed(functools.partial(decode, payload, field.shape), repeats)
            decoding += seconds
            error = max(error, float(np.abs(again.astype(np.float64) - field).max()))
            size += len(payload)
            pixels += field[0].size
        reference = next((row.bytes for row in rows if row.name == REFERENCE), size)
        speed = pixels / _FULL_HD
        rows.append(
            CodecRow(
                name=name,
                bytes=size,
                times_smaller=reference / size,
                bits_per_pixel=8 * size / pixels,
                max_error_px=error,
                keeps_bound=error <= max_error_px,
                encoded_per_s=speed / encoding,
                decoded_per_s=speed / decoding,
            )
        )
    return rows


def _timed(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    best, result = math.inf, None
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        best = min(best, time.process_time() - start)
    return best, result


def _rivals(bound: float, step: float) -> Iterator[tuple[str, Encode, Decode]]:
    """REFERENCE first."""

    def steps(field: Floats) -> NDArray[np.int16]:
        numbers: NDArray[np.int16] = np.rint(field / np.float32(step)).astype(np.int16)
        return numbers

    def flow(numbers: NDArray[Any]) -> Floats:
        field: Floats = np.multiply(numbers, np.float32(step), dtype=np.float32)
        return field

    yield (
        REFERENCE,
        lambda f: _zstd(_split(f.astype(np.float16))),
        lambda b, s: _joined(_unzstd(b, 2 * math.prod(s)), np.float16).reshape(s).astype(np.float32),
    )
    yield (
        "float16, zstd",
        lambda f: _zstd(f.astype(np.float16)),
        lambda b, s: np.frombuffer(_unzstd(b, 2 * math.prod(s)), np.float16).reshape(s).astype(np.float32),
    )
    yield (
        "PNG, 16 bits, both components side by side",
        lambda f: encode_png((np.concatenate(list(steps(f)), axis=1).astype(np.int32) + 2**15).astype(np.uint16)),
        lambda b, s: flow(np.stack(np.split(read_still(b, "png").astype(np.int32) - 2**15, 2, axis=1))),
    )
    yield from _zfp(bound)
    yield (
        "fixed point, difference along x, zstd",
        lambda f: _zstd(np.diff(steps(f), axis=2, prepend=np.int16(0))),
        lambda b, s: flow(np.cumsum(np.frombuffer(_unzstd(b, 2 * math.prod(s)), np.int16).reshape(s), 2, np.int16)),
    )
    yield (
        "fixed point, both differences, bytes split, zstd",
        lambda f: _zstd(_split(_folded(_differences(steps(f))))),
        lambda b, s: flow(_sums(_unfolded(_joined(_unzstd(b, 2 * math.prod(s)), np.uint16)).reshape(s))),
    )
    yield (
        "fixed point, pcodec",
        lambda f: standalone.simple_compress(steps(f).reshape(-1), ChunkConfig(mode_spec=ModeSpec.classic())),
        lambda b, s: flow(_unpcodec(b, s)),
    )
    yield OURS, lambda f: flow_codec.encode(f, bound).payload, lambda b, s: flow_codec.decode(b)


def _zfp(bound: float) -> Iterator[tuple[str, Encode, Decode]]:
    try:
        import zfpy
    except ImportError:
        return

    def encode(field: Floats) -> bytes:
        tolerance, best = bound, b""
        while True:
            payload: bytes = zfpy.compress_numpy(field, tolerance=tolerance)
            if best and np.abs(zfpy.decompress_numpy(payload) - field).max() > bound:
                return best
            tolerance, best = 2 * tolerance, payload

    yield "zfp, at the widest tolerance", encode, lambda b, s: zfpy.decompress_numpy(b)


def _differences(numbers: NDArray[np.int16]) -> NDArray[np.int16]:
    down = np.diff(numbers, axis=1, prepend=np.int16(0))
    return np.diff(down, axis=2, prepend=np.int16(0))


def _sums(changes: NDArray[np.int16]) -> NDArray[np.int16]:
    planes = np.cumsum(changes, axis=2, dtype=np.int16)
    for plane in planes:
        for above, row in itertools.pairwise(plane):
            np.add(row, above, out=row)
    return planes


def _folded(numbers: NDArray[np.int16]) -> NDArray[np.uint16]:
    """0, -1, 1, -2, … as 0, 1, 2, 3, …: small differences of either sign have an empty high byte."""
    return ((numbers << 1) ^ (numbers >> 15)).view(np.uint16)


def _unfolded(numbers: NDArray[np.uint16]) -> NDArray[np.int16]:
    return ((numbers >> 1) ^ -(numbers & 1)).view(np.int16)


def _split(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, 2).T)


def _joined(data: bytes, kind: Any) -> NDArray[Any]:
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(2, -1).T).view(kind)


def _zstd(numbers: NDArray[Any]) -> bytes:
    return bytes(pa.Codec("zstd", 3).compress(np.ascontiguousarray(numbers).data.cast("B"), asbytes=True))


def _unzstd(data: bytes, size: int) -> bytes:
    return bytes(pa.Codec("zstd").decompress(data, size, asbytes=True))


def _unpcodec(data: bytes, shape: Shape) -> NDArray[np.int16]:
    numbers = np.empty(shape, np.int16)
    standalone.simple_decompress_into(data, numbers.reshape(-1))
    return numbers


def table(rows: Sequence[CodecRow]) -> str:
    """As Markdown, for the README."""
    lines = [
        "| codec | bits a pixel | times smaller | largest error, px | encodes | decodes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        error = f"1/{1 / row.max_error_px:.0f}" if row.max_error_px else "0"
        broken = "" if row.keeps_bound else " (breaks the bound)"
        lines.append(
            f"| {row.name} | {row.bits_per_pixel:.2f} | {row.times_smaller:.1f} | {error}{broken} "
            f"| {row.encoded_per_s:.0f}/s | {row.decoded_per_s:.0f}/s |"
        )
    return "\n".join(lines)


def fields_of(paths: Iterable[str]) -> Iterator[Floats]:
    """Every flow field in files of records, or in other people's flow files."""
    from pipeline.records.flow import SUFFIX, read_flow_file
    from pipeline.records.flow_files import read_flow_image

    for path in paths:
        if not path.endswith(SUFFIX):
            yield read_flow_image(path).flow
            continue
        for record in read_flow_file(path):
            yield from (field for field in (record.flow_forward, record.flow_backward) if field is not None)


if __name__ == "__main__":
    print(table(measure_codecs(fields_of(sys.argv[1:]))))
