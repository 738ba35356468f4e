"""PNG of label maps and pictures, by zlib and numpy alone: 8 or 16 bits, grey, RGB or palette, no interlacing."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RecordDamaged

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3

Image = NDArray[np.uint8] | NDArray[np.uint16]


def encode_png(image: Image, palette: NDArray[np.uint8] | None = None, *, level: int = 6) -> bytes:
    """A PNG of `image`: [H,W] grey or [H,W,3] RGB, uint8 or uint16.

    With `palette` ([up to 256, 3] RGB) the values of an 8-bit [H,W] are shown in its colours and stay what they are.
    """
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype not in (np.uint8, np.uint16) or not shaped or 0 in image.shape:
        raise ValueError(f"no picture for PNG: {image.dtype} {list(image.shape)}")
    if palette is not None and (image.ndim != 2 or image.dtype != np.uint8 or image.max() >= len(palette)):
        raise ValueError(f"{image.dtype} {list(image.shape)}, largest {image.max()}: not for {len(palette)} colours")
    height, width = image.shape[:2]
    kind = _PALETTE if palette is not None else _GREY if image.ndim == 2 else _RGB
    rows = np.ascontiguousarray(image.astype(image.dtype.newbyteorder(">"))).view(np.uint8).reshape(height, -1)
    filtered = np.zeros((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 1:] = rows
    if kind == _RGB:  # differences from the row above: pictures pack better so, labels worse
        filtered[1:, 1:] = rows[1:] - rows[:-1]
        filtered[1:, 0] = 2
    header = struct.pack(">IIBBBBB", width, height, 8 * image.dtype.itemsize, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), level)), (b"IEND", b"")]
    if palette is not None:
        chunks.insert(1, (b"PLTE", palette.astype(np.uint8).tobytes()))
    return _SIGNATURE + b"".join(_chunk(name, data) for name, data in chunks)


def decode_png(data: bytes) -> Image:
    """The values: [H,W] of grey and palette images, [H,W,3] of RGB; uint8 or uint16. RecordDamaged for any other."""
    parts = list(_chunks(data))
    if not parts or parts[0][0] != b"IHDR":
        raise RecordDamaged("no PNG header; restore the file")
    width, height, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", parts[0][1])
    if bits not in (8, 16) or kind not in (_GREY, _RGB, _PALETTE) or interlaced:
        raise RecordDamaged(f"PNG of {bits} bits, colour type {kind}, interlacing {interlaced}: not one of ours")
    channels = 3 if kind == _RGB else 1
    pixel = channels * bits // 8
    try:
        plain = zlib.decompress(b"".join(data for name, data in parts if name == b"IDAT"))
        filtered = np.frombuffer(plain, np.uint8).reshape(height, 1 + width * pixel)
    except (zlib.error, ValueError) as error:
        raise RecordDamaged(f"PNG data are damaged ({error}); restore the file") from None
    rows = _unfiltered(filtered, pixel)
    image = rows.view(np.uint8 if bits == 8 else ">u2").astype(np.uint8 if bits == 8 else np.uint16)
    return image.reshape((height, width, 3) if channels == 3 else (height, width))


def _unfiltered(filtered: NDArray[np.uint8], pixel: int) -> NDArray[np.uint8]:
    height, length = filtered.shape[0], filtered.shape[1] - 1
    rows = np.zeros((height, length), np.uint8)
    above = np.zeros(length, np.uint8)
    for index in range(height):
        kind, row = int(filtered[index, 0]), filtered[index, 1:]
        if kind == 0:
            rows[index] = row
        elif kind == 1:
            rows[index] = np.cumsum(row.reshape(-1, pixel), axis=0, dtype=np.uint8).reshape(-1)
        elif kind == 2:
            rows[index] = row + above
        elif kind in (3, 4):
            rows[index] = _predicted(kind, row.tolist(), above.tolist(), pixel)
        else:
            raise RecordDamaged(f"PNG row {index} has filter {kind}; restore the file")
        above = rows[index]
    return rows


def _predicted(kind: int, row: list[int], above: list[int], pixel: int) -> list[int]:
    """Rows that depend on their own beginning in ways that numpy cannot sum: the mean (3) and Paeth's choice (4)."""
    for place in range(len(row)):
        left = row[place - pixel] if place >= pixel else 0
        corner = above[place - pixel] if place >= pixel else 0
        up = above[place]
        if kind == 3:
            guess = (left + up) // 2
        else:
            estimate = left + up - corner
            guess = min((left, up, corner), key=lambda value: abs(estimate - value))
        row[place] = (row[place] + guess) & 0xFF
    return row


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not data.startswith(_SIGNATURE):
        raise RecordDamaged(f"no PNG: begins with {data[:8]!r}; restore the file")
    place = len(_SIGNATURE)
    while place < len(data):
        try:
            (size,) = struct.unpack_from(">I", data, place)
            name, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
            (found,) = struct.unpack_from(">I", data, place + 8 + size)
        except struct.error:
            raise RecordDamaged(f"PNG is cut short after {len(data)} bytes; restore the file") from None
        if found != zlib.crc32(name + body):
            raise RecordDamaged(f"PNG chunk {name!r} is damaged (checksum); restore the file")
        yield name, body
        if name == b"IEND":
            return
        place += 12 + size
    raise RecordDamaged(f"PNG is cut short after {len(data)} bytes; restore the file")
