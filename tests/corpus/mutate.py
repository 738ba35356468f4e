"""Mutations: cut, flipped, overwritten, lying headers, swapped and lost pieces, streams exchanged."""

from __future__ import annotations

import io
import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import av

from tests.corpus.seeds import Seed, seeds

BOXES = (
    b"stsz", b"stco", b"stts", b"ctts", b"stss", b"stsc", b"stsd", b"avcC", b"hvcC", b"mdhd", b"mvhd", b"tkhd",
    b"elst", b"hdlr", b"trun", b"tfhd", b"tfdt", b"av1C", b"moov", b"mdat", b"ftyp",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    number: int
    seed: Seed
    mutation: str
    data: bytes

    @property
    def name(self) -> str:
        return f"{self.number:05d}-{self.seed.name}-{self.mutation}".replace(" ", "_") + self.seed.suffix

    @property
    def first_change(self) -> int:
        """Byte from which it differs from its seed."""
        pairs = zip(self.data, self.seed.data, strict=False)
        shorter = min(len(self.data), len(self.seed.data))
        return next((place for place, (a, b) in enumerate(pairs) if a != b), shorter)


def mutant(number: int, seed: int = 0) -> Mutant:
    """The mutant of this number: always the same for the same seed."""
    draw = random.Random(f"{seed}/{number}")
    source = seeds()[number % len(seeds())]
    name = draw.choice(sorted(MUTATIONS))
    return Mutant(number, source, name, MUTATIONS[name](source.data, draw))


def _truncate(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def _flip_one(data: bytes, draw: random.Random) -> bytes:
    return _flipped(data, [draw.randrange(len(data))], draw)


def _flip_some(data: bytes, draw: random.Random) -> bytes:
    return _flipped(data, [draw.randrange(len(data)) for _ in range(draw.randrange(2, 60))], draw)


def _flip_head(data: bytes, draw: random.Random) -> bytes:
    """Bits in the first and last kilobyte, where most containers keep what they promise."""
    ends = [*range(min(1024, len(data))), *range(max(0, len(data) - 1024), len(data))]
    return _flipped(data, [draw.choice(ends) for _ in range(draw.randrange(1, 6))], draw)


def _flipped(data: bytes, places: list[int], draw: random.Random) -> bytes:
    changed = bytearray(data)
    for place in places:
        changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, draw: random.Random) -> bytes:
    start, length = draw.randrange(len(data)), draw.choice((4, 50, 500, 5000))
    filler = draw.choice((bytes(length), b"\xff" * length, draw.randbytes(length)))
    return data[:start] + filler[: len(data) - start] + data[start + length :]


def _remove(data: bytes, draw: random.Random) -> bytes:
    start, length = draw.randrange(len(data)), draw.choice((1, 17, 188, 2000))
    return data[:start] + data[start + length :]


def _insert(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + draw.randbytes(draw.choice((1, 17, 188, 2000))) + data[start:]


def _repeat(data: bytes, draw: random.Random) -> bytes:
    start, length = draw.randrange(len(data)), draw.choice((188, 1000, 4000))
    return data[: start + length] + data[start : start + length] + data[start + length :]


def _swap(data: bytes, draw: random.Random) -> bytes:
    """Two pieces of the same length exchanged: blocks written in the wrong place."""
    length = draw.choice((188, 512, 2048))
    if len(data) < 4 * length:
        return data[::-1]
    first = draw.randrange(len(data) // 2 - length)
    second = draw.randrange(len(data) // 2, len(data) - length)
    changed = bytearray(data)
    changed[first : first + length], changed[second : second + length] = (
        data[second : second + length],
        data[first : first + length],
    )
    return bytes(changed)


def _zero_tail(data: bytes, draw: random.Random) -> bytes:
    """The end as zeros: a file whose space was reserved and not written."""
    start = draw.randrange(len(data))
    return data[:start] + bytes(len(data) - start)


def _lie(data: bytes, draw: random.Random) -> bytes:
    """A number in a box or element of the header becomes another: sizes, counts, times, offsets."""
    places = [found.start() for box in BOXES for found in re.finditer(re.escape(box), data)]
    start = draw.choice(places) - 4 if places else draw.randrange(min(512, len(data) - 4))
    place = max(0, start + 4 * draw.randrange(8))
    value = draw.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, draw.getrandbits(32), draw.getrandbits(12)))
    return data[:place] + struct.pack(">I", value) + data[place + 4 :]


def _rename(data: bytes, draw: random.Random) -> bytes:
    """A box of another kind."""
    places = [found.start() for box in BOXES for found in re.finditer(re.escape(box), data)]
    if not places:
        return _flip_head(data, draw)
    place = draw.choice(places)
    return data[:place] + draw.choice((*BOXES, b"free", b"\0\0\0\0")) + data[place + 4 :]


def _other_payload(data: bytes, draw: random.Random) -> bytes:
    """The packets of one video with the headers of another codec, in the same container."""
    other = draw.choice(seeds()).data
    try:
        return _exchanged(data, other)
    except (av.FFmpegError, ValueError, StopIteration):
        return data[: len(data) // 2] + other[len(other) // 2 :]


def _exchanged(data: bytes, other: bytes) -> bytes:
    target = io.BytesIO()
    with av.open(io.BytesIO(data)) as head, av.open(io.BytesIO(other)) as body:
        stream = head.streams.video[0]
        name = head.format.name.partition(",")[0]
        with av.open(target, "w", format={"mov": "mp4"}.get(name, name)) as output:
            copy = output.add_stream_from_template(stream, opaque=True)
            for packet in body.demux(body.streams.video[0]):
                if packet.size:
                    packet.stream = copy
                    output.mux(packet)
    return target.getvalue()


def _drop_packets(data: bytes, draw: random.Random) -> bytes:
    """A valid container from which packets are missing."""
    target = io.BytesIO()
    try:
        with av.open(io.BytesIO(data)) as source:
            name = source.format.name.partition(",")[0]
            with av.open(target, "w", format={"mov": "mp4"}.get(name, name)) as output:
                copy = output.add_stream_from_template(source.streams.video[0], opaque=True)
                for packet in source.demux(source.streams.video[0]):
                    if packet.size and draw.random() > 0.1:
                        packet.stream = copy
                        output.mux(packet)
    except (av.FFmpegError, ValueError):
        return _remove(data, draw)
    return target.getvalue()


def _spliced(data: bytes, draw: random.Random) -> bytes:
    """Two files one after the other, or one inside the other."""
    other = draw.choice(seeds()).data
    place = draw.choice((len(data), draw.randrange(len(data))))
    return data[:place] + other + data[place:]


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": _truncate, "one bit": _flip_one, "some bits": _flip_some, "header bits": _flip_head,
    "overwritten": _overwrite, "removed": _remove, "inserted": _insert, "repeated": _repeat, "swapped": _swap,
    "zero tail": _zero_tail, "lying number": _lie, "renamed box": _rename, "other payload": _other_payload,
    "lost packets": _drop_packets, "spliced": _spliced,
}  # fmt: skip
