"""What is correct: each mutant's outcome against the intact file, and against a plain decoder's view of the mutant.

H.264 and most codecs have no checksums, so that a decoder may take changed bits for other pictures. So "correct" is:

1. A committed file has, in order, exactly the frames that PyAV decodes from the same bytes, and PyAV meets no error
   (from the first key packet on; how many frames were skipped before it is noted in the video's commit).
2. Frames whose packets end before the first changed byte are those of the intact file, committed or kept as the good
   beginning of a file in quarantine.
3. Where the codec has checksums (FFV1 here), every frame that is committed or kept is one of the intact file's.
4. Nothing else comes out than a commit or a VideoError; and the process lives, within its memory and time.

What was committed with other pictures than the intact file's is counted: no decoder could have noticed.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import av

from tests.corpus.mutate import Mutant
from tests.corpus.seeds import CHECKED, Seed
from tests.e2e.support import _pixels as pixels

FROM_ANYWHERE = ("h264 intra refresh",)
"""Decoded from any recovery point: after losses that nothing shows, pictures depend on where decoding began."""
LIMIT_S = 60.0
"""Seconds a file; the slowest takes about two on an idle machine."""
LIMIT_BYTES = 1 << 30
"""Resident memory of the process."""


@dataclass
class Verdict:
    outcome: str
    wrong: list[str] = field(default_factory=list)
    """Rules that were broken."""
    changed: bool = False
    """Committed, with other pictures than the intact file's."""


@cache
def clean_frames(seed: Seed) -> tuple[str, ...]:
    return tuple(plain_decode(seed.data)[0])


@cache
def _packets(seed: Seed) -> tuple[tuple[int, int, int], ...]:
    """(position, end, pts) of the intact file's video packets in decode order; () where positions are not known."""
    with av.open(io.BytesIO(seed.data)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        if any(packet.pos is None or packet.pos < 0 or packet.pts is None for packet in packets):
            return ()
        # Room for the heads of blocks, and of the packets of transport streams.
        return tuple((p.pos, p.pos + p.size + p.size // 16 + 400, p.pts) for p in packets)


def untouched(mutant: Mutant) -> int:
    """Frames, from the first on, that only depend on bytes before the first changed one. 0 where the change is in what
    comes before the packets, or after all of them."""
    if mutant.mutation == "spliced":  # two files in one: which stream is taken may change
        return 0
    packets, change = _packets(mutant.seed), mutant.first_change
    if not packets or not packets[0][0] <= change < max(end for _, end, _ in packets):
        return 0
    safe = set()
    for _, end, pts in packets:
        if end > change:
            break
        safe.add(pts)
    order = sorted(pts for _, _, pts in packets)
    return next((index for index, pts in enumerate(order) if pts not in safe), len(order))


def judge(mutant: Mutant, answer: dict[str, Any]) -> Verdict:
    verdict = Verdict(answer["outcome"])
    if answer["outcome"] not in ("committed", "refused"):
        verdict.wrong.append(answer["message"])
        return verdict
    if answer["seconds"] > LIMIT_S:
        verdict.wrong.append(f"took {answer['seconds']} s")
    if answer["peak_rss"] > LIMIT_BYTES:
        verdict.wrong.append(f"the process had {answer['peak_rss'] >> 20} MiB resident")
    committed = answer["outcome"] == "committed"
    if answer["outcome"] == "refused" and len(answer["message"]) < 20:
        verdict.wrong.append(f"no account of the error: {answer['message']!r}")
    if not answer.get("lossless"):
        return verdict
    found = [digest for _, digest in answer["frames"]][::2]  # the others are interpolated
    clean = clean_frames(mutant.seed)
    if committed:
        plain, failure = plain_decode(mutant.data)
        if failure:
            verdict.wrong.append(f"committed, but a plain decoder fails: {failure}")
        elif found != plain and mutant.seed.name not in FROM_ANYWHERE:
            verdict.wrong.append(f"committed {len(found)} frames that differ from a plain decoder's {len(plain)}")
        verdict.changed = found != list(clean)
    safe = untouched(mutant)
    if committed and len(found) < safe:
        verdict.wrong.append(f"{len(found)} frames committed of {safe} that no change touched")
    count = min(safe, len(found))
    if tuple(found[:count]) != clean[:count]:
        verdict.wrong.append(f"frames before the change (the first {safe}) are not the intact file's")
    if mutant.seed.name == CHECKED and not {*found} <= {*clean}:
        verdict.wrong.append("frames with checksums came out changed")
    return verdict


def plain_decode(data: bytes) -> tuple[list[str], str]:
    """Digests of the frames that PyAV gives, and why it stopped, if it did.

    From the first key packet on, and without leading pictures, which refer to what comes before it.
    """
    found: list[str] = []
    try:
        with av.open(io.BytesIO(data), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            first: int | None = None
            started = False
            for packet in container.demux(stream):
                if not started and packet.size and packet.is_keyframe:
                    started, first = True, packet.pts
                if started and not (packet.size and None not in (first, packet.pts) and packet.pts < first):
                    frames = stream.codec_context.decode(packet if packet.size else None)
                    found.extend(hashlib.sha256(pixels(frame)).hexdigest() for frame in frames)
    except (av.FFmpegError, EOFError, ValueError, IndexError) as error:
        return found, f"{type(error).__name__}: {error}"
    return found, ""
