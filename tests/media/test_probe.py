"""pipeline/media/probe.py: what a video holds is found from its packets; what it is not is said plainly."""

from __future__ import annotations

import io
import resource
import struct
from fractions import Fraction

import av
import pytest

from pipeline.config import DecodeConfig, InputConfig
from pipeline.errors import CorruptVideo, LimitExceeded, UnreadableVideo, UnsupportedVideo, VideoError
from pipeline.media import demux, headers, sidedata
from pipeline.media.probe import probe
from pipeline.types import VideoInfo
from tests.media_factory import (
    CODECS,
    as_video,
    claim_samples,
    claim_size,
    cut,
    faststart,
    make_codec,
    make_video,
    only_audio,
)


def probed(data: bytes, name: str = "video.mp4", limits: InputConfig | None = None, **decode: str) -> VideoInfo:
    video, file = as_video(data, name)
    return probe(file, video, limits or InputConfig(), DecodeConfig(**decode))  # type: ignore[arg-type]


def decoded_times(data: bytes) -> list[int | None]:
    with av.open(io.BytesIO(data)) as container:
        return [frame.pts for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", [name for name in CODECS if "raw" not in name and name != "h264 avi"])
def test_times_from_packets_are_those_that_the_decoder_gives(name: str) -> None:
    data = make_codec(name)
    info = probed(data)
    assert list(info.pts) == decoded_times(data)
    assert info.packets == 30
    assert info.keys[0].pts == info.pts[0]
    assert [key.pts for key in info.keys] == sorted({key.pts for key in info.keys})


@pytest.mark.parametrize("name", ["h264 avi", "h264 raw"])
def test_streams_without_stored_times_are_decoded_once_and_say_so(name: str) -> None:
    info = probed(make_codec(name))
    step = info.pts[1] - info.pts[0]
    assert [time - info.pts[0] for time in info.pts] == list(range(0, 30 * step, step))
    assert step * info.time_base == Fraction(1, 25)
    assert len(info.keys) == 1
    assert not info.keys[0].by_time
    assert any("decoding once" in note for note in info.notes)


def test_headers_are_kept_exactly() -> None:
    info = probed(
        make_video(
            rate=Fraction(30000, 1001), frames=12, rotation=90, sample_aspect_ratio=Fraction(4, 3), colour=(9, 16, 9, 2)
        )
    )
    assert (info.codec, info.width, info.height, info.pix_fmt) == ("h264", 64, 48, "yuv420p")
    assert info.average_rate == Fraction(30000, 1001)
    assert info.sample_aspect_ratio == Fraction(4, 3)
    assert info.rotation == 90
    assert info.display_matrix is not None
    colour = info.colour
    assert (colour.primaries, colour.transfer, colour.matrix) == (9, 16, 9)
    assert colour.full_range
    assert colour.range_tagged
    assert info.last_duration * info.time_base == Fraction(1001, 30000)
    assert (info.end_pts - info.pts[0]) * info.time_base == 12 * Fraction(1001, 30000)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_the_clockwise_turn_of_the_player(degrees: int) -> None:
    assert probed(make_video(frames=2, rotation=degrees)).rotation == degrees


def test_a_mirroring_or_oblique_display_matrix_is_noted() -> None:
    one = 1 << 16
    assert sidedata.rotation((-one, 0, 0, 0, one, 0, 0, 0, 1 << 30))[1] is not None
    turn, note = sidedata.rotation((46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30))
    assert note is not None
    assert "45.0°" in note
    assert turn in (0, 90)
    assert sidedata.rotation(None) == (0, None)


def test_static_hdr_metadata_is_exact() -> None:
    master = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    info = probed(
        make_video(
            "libx265", frames=3, pix_fmt="yuv420p10le", colour=(9, 16, 9, 1),
            options={"x265-params": f"log-level=none:pools=1:master-display={master}:max-cll=1000,400:hdr10=1"},
        )
    )  # fmt: skip
    assert info.pix_fmt == "yuv420p10le"
    assert info.hdr is not None
    assert info.hdr.primaries == tuple(
        Fraction(n, 50000) for n in (34000, 16000, 13250, 34500, 7500, 3000, 15635, 16450)
    )
    assert info.hdr.luminance == (Fraction(1, 10000), Fraction(1000))
    assert (info.hdr.max_cll, info.hdr.max_fall) == (1000, 400)


def test_full_range_jpeg_formats_become_a_colour_tag() -> None:
    info = probed(make_codec("mjpeg avi"))
    assert info.pix_fmt == "yuv420p"
    assert info.colour.full_range


def test_rgb_video_is_processed_as_rgb() -> None:
    info = probed(make_video("rawvideo", "avi", pix_fmt="bgr24", frames=3))
    assert info.pix_fmt == "gbrp"
    assert info.colour.matrix == 0
    assert info.colour.full_range


def test_interlaced_video_is_refused_or_accepted_by_configuration() -> None:
    data = make_video(options={"x264-params": "tff=1:threads=1"})
    with pytest.raises(UnsupportedVideo, match=r"memory://video\.mp4.*decode\.interlaced=deinterlace"):
        probed(data)
    info = probed(data, interlaced="deinterlace")
    assert info.interlaced
    assert len(info.pts) == 24
    assert any("bwdif" in note for note in info.notes)


def test_leading_pictures_of_a_stream_cut_within_an_open_group_are_skipped_and_noted() -> None:
    whole = make_codec("h264 open gop mkv", frames=36)
    target = io.BytesIO()
    with av.open(io.BytesIO(whole)) as source, av.open(target, "w", format="matroska") as output:
        copy = output.add_stream_from_template(source.streams.video[0])
        keys = 0
        for packet in source.demux(video=0):
            keys += packet.is_keyframe
            if packet.size and keys >= 3:
                packet.stream = copy
                output.mux(packet)
    info = probed(target.getvalue())
    assert any("leading picture(s) skipped" in note for note in info.notes)
    assert info.pts[0] == info.keys[0].pts
    assert 0 < len(info.pts) < info.packets


def test_frames_whose_times_jump_back_are_not_taken_for_leading_pictures() -> None:
    options = {"cluster_time_limit": "400"}  # ms: a cluster for each group of pictures
    data = make_video(container="matroska", frames=36, options={"preset": "ultrafast"}, container_options=options)
    head, *clusters = data.split(b"\x1f\x43\xb6\x75")
    tail, sep, cues = clusters[-1].partition(b"\x1c\x53\xbb\x6b")
    assert sep
    moved = [head, clusters[2], *clusters[:2], tail]  # its last whole group of pictures first
    with pytest.raises(CorruptVideo, match=r"its times jump back: it begins at pts \d+, and \d+ later frame"):
        probed(b"\x1f\x43\xb6\x75".join(moved) + sep + cues)


def test_a_single_frame_has_a_duration() -> None:
    info = probed(make_video(frames=1))
    assert len(info.pts) == 1
    assert info.last_duration * info.time_base == Fraction(1, 25)


def test_a_cover_picture_is_not_the_video() -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        cover = output.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 128, 128, "rgb24"
        cover.disposition = demux.Disposition.attached_pic
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        output.mux(cover.encode(av.VideoFrame(128, 128, "rgb24")))
        for index in range(5):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    info = probed(target.getvalue())
    assert (info.width, info.height, len(info.pts)) == (64, 48, 5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"This is a text file that someone named .mp4.\n" * 50, "not a video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "not a video"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "not a video"),
        (b"\0" * 5000, "not a video"),
    ],
    ids=["empty", "text", "playlist", "concat script", "zeros"],
)
def test_what_is_no_video_is_unreadable(data: bytes, message: str) -> None:
    with pytest.raises(UnreadableVideo, match=rf"memory://video\.mp4: {message}"):
        probed(data)


def test_a_missing_index_is_unreadable() -> None:
    with pytest.raises(UnreadableVideo, match="cut short before its index"):
        probed(cut(make_video(), 0.8))


def test_sound_alone_is_unreadable_and_says_what_was_found() -> None:
    with pytest.raises(UnreadableVideo, match="found: audio"):
        probed(only_audio())


def test_a_video_whose_first_frame_is_damaged_is_unreadable() -> None:
    data = make_video(frames=10)
    place = data.index(b"\x65\x88") + 2  # in the first slice of the first IDR picture
    data = data[:place] + b"\xff" * 400 + data[place + 400 :]
    with pytest.raises(VideoError, match="first frame cannot be decoded"):
        probed(data)


def test_the_frames_that_a_cut_file_promises_are_planned_as_one_that_cannot_be_decoded() -> None:
    data = faststart(frames=48)
    whole, info = probed(data), probed(cut(data, 0.7))
    assert 5 < len(info.pts) < 48
    assert info.pts[:-1] == whole.pts[: len(info.pts) - 1]
    assert any("promises 48 frames" in note for note in info.notes)


def test_a_header_that_claims_more_samples_than_there_are_is_noted_as_damage() -> None:
    data = make_video("mpeg4", "avi", frames=20)
    place = data.index(b"strh") + 8 + 32  # dwLength
    info = probed(data[:place] + struct.pack("<I", 50) + data[place + 4 :])
    assert any("promises 50 frames" in note for note in info.notes)
    assert len(info.pts) == 21


def test_a_header_that_claims_more_time_than_there_is_counts_as_damage() -> None:
    data = make_video("libx264", "matroska", frames=20)
    place = data.index(b"\x44\x89\x88") + 3  # Info/Duration, in milliseconds
    (stated,) = struct.unpack(">d", data[place : place + 8])
    assert stated == 800
    info = probed(data[:place] + struct.pack(">d", 60_000) + data[place + 8 :])
    assert any("promises 60.0 s, the data ends at 0.8 s" in note for note in info.notes)
    assert len(info.pts) == 21
    assert not probed(data).notes


def test_a_header_that_lies_about_the_picture_size_is_refused() -> None:
    data = make_video(frames=3)
    with pytest.raises(CorruptVideo, match=r"header says 320x240, its first frame has 64x48"):
        probed(claim_size(data, 320, 240))
    assert probed(claim_size(data, 64, 64)).height == 48  # whole blocks, as some writers state it


@pytest.mark.parametrize("container", ["mp4", "gif"])
def test_a_bomb_that_claims_a_huge_picture_is_over_the_limit(container: str) -> None:
    if container == "mp4":
        data = claim_size(make_video(), 30000, 30000)
    else:
        data = make_video("gif", "gif", pix_fmt="rgb8", frames=3)
        data = data[:6] + struct.pack("<HH", 30000, 30000) + data[10:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VideoError, match=r"over input\.max_width=8192"):
        probed(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_width": 48}, r"64 pixels wide \(64x48\), over input\.max_width=48"),
        ({"max_height": 32}, r"48 pixels high \(64x48\), over input\.max_height=32"),
        ({"max_frames": 10}, r"24 .*over input\.max_frames=10"),
        ({"max_bytes": 100}, r"bytes, over input\.max_bytes=100"),
    ],
)
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_limits_hold_and_name_the_key_to_raise(container: str, limits: dict[str, int], message: str) -> None:
    if container == "matroska" and "max_frames" in limits:
        message = r"packets or more, over input\.max_frames=10"
    with pytest.raises(LimitExceeded, match=message):
        probed(make_video(container=container), limits=InputConfig(**limits))  # type: ignore[arg-type]


def test_a_table_of_a_billion_samples_is_refused_before_an_index_is_built() -> None:
    with pytest.raises(LimitExceeded, match=r"1000000000 samples in its tables, over input\.max_frames"):
        probed(claim_samples(make_video(), 1_000_000_000))


@pytest.mark.parametrize("container", ["mp4", "matroska", "webm", "avi", "mov"])
def test_missing_bytes_are_counted_from_the_headers(container: str) -> None:
    codec = {"avi": "mpeg4", "webm": "libvpx"}.get(container, "libx264")
    data = make_video(codec, container)
    assert headers.missing_bytes(io.BytesIO(data)) == 0
    assert headers.missing_bytes(io.BytesIO(data + b"\0" * 100)) == 0
    short = headers.missing_bytes(io.BytesIO(data[:-500]))
    assert short == 500
