"""Checksums of FFV1 slices, which FFmpeg's decoder only mentions in its log: it hands out such a frame all the same.

RFC 9043: from version 3 on, each slice of a frame ends with its size (24 bits) and, with error correction, a status
byte and a CRC-32 of the whole slice (generator 0x04C11DB7, most significant bit first), which leaves no remainder.
"""

from __future__ import annotations

import zlib

_PLAIN, _CHECKED = 3, 8
"""Bytes of a slice's footer without and with error correction."""
_STARTS = (0x00000000, 0x7A8C4079)
"""What the CRC starts from, and must end with: RFC 9043's, and that of FFmpeg's second kind of error correction."""
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def is_damaged(packet: bytes) -> bool:
    """Whether an FFV1 packet, of version 3 or later, is no chain of slices, or a slice does not fit its checksum.

    Versions before 3, which have no slices, are those without extradata.
    """
    slices = _slices(packet, _CHECKED)
    if not slices:
        return not _slices(packet, _PLAIN)
    # zlib counts bits from the other end; all slices of a stream have one kind of checksum.
    mirrored = [piece.translate(_REVERSED) for piece in slices]
    return not any(all(_crc(piece, start) == start for piece in mirrored) for start in map(_mirror, _STARTS))


def _slices(packet: bytes, footer: int) -> list[bytes]:
    """The slices, last first; [] where the packet is not a chain of slices with such footers."""
    found, end = [], len(packet)
    while end:
        size = int.from_bytes(packet[end - footer : end - footer + 3], "big") if end >= footer else end
        start = end - footer - size
        if start < 0:
            return []
        found.append(packet[start:end])
        end = start
    return found


def _crc(mirrored: bytes, start: int) -> int:
    return zlib.crc32(mirrored, start ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _mirror(number: int) -> int:
    return int(f"{number:032b}"[::-1], 2)
