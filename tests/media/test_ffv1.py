"""Checksums of FFV1: damage that FFmpeg mentions in its log alone is found, and intact files are never refused."""

from __future__ import annotations

import io

import av
import pytest

from pipeline.config import DecodeConfig, InputConfig
from pipeline.errors import CorruptVideo
from pipeline.media.decode import decode_clip
from pipeline.media.ffv1 import is_damaged
from pipeline.media.probe import probe
from tests.media_factory import as_video, clips_of, make_video


def ffv1(frames: int = 6, **options: str) -> bytes:
    return make_video("ffv1", "matroska", frames=frames, size=(130, 70), gop=3, options=options)


def packets(data: bytes) -> list[bytes]:
    with av.open(io.BytesIO(data)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("slices", ["4", "9", "24"])
@pytest.mark.parametrize("coder", ["0", "1", "2"])
def test_intact_packets_are_not_damaged_and_a_flipped_bit_shows(slices: str, coder: str) -> None:
    for checksums in ("0", "1"):
        intact = packets(ffv1(level="3", slices=slices, coder=coder, slicecrc=checksums))
        assert not any(map(is_damaged, intact))
        if checksums == "1":
            for place in (0, len(intact[2]) // 3, len(intact[2]) - 1):
                flipped = bytearray(intact[2])
                flipped[place] ^= 4
                assert is_damaged(bytes(flipped)), place


def test_a_size_that_points_elsewhere_is_damage_with_or_without_checksums() -> None:
    for checksums, footer in (("1", 8), ("0", 3)):
        packet = bytearray(packets(ffv1(level="3", slices="4", slicecrc=checksums))[0])
        packet[-footer + 1] ^= 0x40
        assert is_damaged(bytes(packet))


def test_a_damaged_slice_ends_the_clip_there_and_concealing_keeps_the_frame() -> None:
    data = ffv1(level="3", slices="4", slicecrc="1")
    place = data.index(packets(data)[4]) + 200
    data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    video, file = as_video(data, "a.mkv")
    info = probe(file, video, InputConfig(), DecodeConfig())
    (clip,) = clips_of(video, info, 6)
    seen: list[int] = []
    with pytest.raises(CorruptVideo, match="does not match its checksums"):
        seen.extend(frame.pts for frame in decode_clip(file, clip, DecodeConfig()))
    assert seen == list(info.pts[:4])
    assert len(list(decode_clip(file, clip, DecodeConfig(corruption="conceal")))) == 6


@pytest.mark.parametrize("level", ["0", "1"])
def test_versions_without_slices_are_decoded_as_before(level: str) -> None:
    video, file = as_video(ffv1(level=level), "a.mkv")
    info = probe(file, video, InputConfig(), DecodeConfig())
    (clip,) = clips_of(video, info, 6)
    assert len(list(decode_clip(file, clip, DecodeConfig()))) == 6
