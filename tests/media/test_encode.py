"""Segments: lossless where asked to be, exact in time, the same every time, and joinable."""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.config import EncodeConfig
from pipeline.errors import ConfigError, EncoderUnavailable, UnsupportedVideo
from pipeline.media.encode import EncodePlan, SegmentEncoder, available_encoders, check_encoder
from pipeline.media.frame import Frame, PixelFormat, same_picture
from pipeline.types import HDR, Colour
from tests.media.joining import LOSSLESS, TB, VFR, decoded, encode, info_of, pictures

X265_LOSSLESS = EncodeConfig(codec="libx265", preset="ultrafast", options={"x265-params": "lossless=1"})
AV1 = EncodeConfig(codec="libsvtav1", crf=30, preset="12")
HDR10 = HDR(
    tuple(Fraction(n, 50000) for n in (35400, 14600, 8500, 39850, 6550, 2300, 15635, 16450)),
    (Fraction(5, 1000), Fraction(1000)), 1000, 400,
)  # fmt: skip


@pytest.mark.parametrize(
    ("pix_fmt", "config"),
    [
        ("yuv420p", LOSSLESS),
        ("yuv422p", LOSSLESS),
        ("yuv444p", LOSSLESS),
        ("yuv420p10le", X265_LOSSLESS),
        ("yuv444p12le", X265_LOSSLESS),
        ("gray", X265_LOSSLESS),
        ("gbrp", X265_LOSSLESS),
    ],
)
def test_frames_in_the_plans_format_come_back_bit_for_bit(tmp_path: Path, pix_fmt: str, config: EncodeConfig) -> None:
    frames = pictures(VFR, pix_fmt)
    plan, segments = encode(tmp_path, frames, info_of(frames), config, lengths=())
    assert plan.pix_fmt == plan.source_format == pix_fmt
    back = decoded(segments[0].path)
    assert len(back) == len(frames)
    assert all(same_picture(a, b) for a, (_, b) in zip(frames, back, strict=True))


@pytest.mark.parametrize("config", [EncodeConfig(preset="medium"), EncodeConfig(codec="libx265", preset="medium"), AV1])
def test_uneven_times_stay_exact_through_b_frames_and_the_same_frames_give_the_same_bytes(
    tmp_path: Path, config: EncodeConfig
) -> None:
    frames = pictures([pts + 777 for pts in VFR])
    digests = set()
    for _ in range(2):
        _, segments = encode(tmp_path, frames, info_of(frames), config, lengths=())
        digests.add(hashlib.sha256(Path(segments[0].path).read_bytes()).hexdigest())
    assert [time for time, _ in decoded(segments[0].path)] == [pts * TB for pts in VFR]
    assert segments[0].offset_ticks == 777
    assert len(digests) == 1
    with av.open(segments[0].path) as container:
        first = next(container.demux(video=0))
        assert (first.is_keyframe, first.pts, container.streams.video[0].time_base) == (True, 0, TB)
    if config.codec != "libsvtav1":
        assert segments[0].reorder_depth, "the test wants B-frames"


PERTURB = -6
"""mallopt's M_PERTURB: memory is handed out full of a byte, as if it had been used before."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_what_is_encoded_does_not_depend_on_what_memory_held_before(tmp_path: Path, codec: str) -> None:
    """x264 read numbers that it had not written (opened_with): a flow preview once came out in other bytes."""
    config = EncodeConfig(codec=codec, crf=23, preset="veryfast")
    blocks = np.random.default_rng(0).integers(0, 255, (40, 60)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    grey, form = np.full((120, 160), 128, np.uint8), PixelFormat.of("yuv420p")
    frames = [Frame(512 * n, (blocks[n // 2 : n // 2 + 240, n : n + 320].copy(), grey, grey), form) for n in range(20)]
    libc, digests = ctypes.CDLL(None), []
    try:
        for byte in (0, 1, 85):
            assert libc.mallopt(PERTURB, byte)
            _, segments = encode(tmp_path, frames, info_of(frames), config, lengths=())
            digests.append(hashlib.sha256(Path(segments[0].path).read_bytes()).hexdigest())
    finally:
        libc.mallopt(PERTURB, 0)
    assert len(set(digests)) == 1


@pytest.mark.parametrize("config", [LOSSLESS, X265_LOSSLESS, AV1], ids=lambda config: config.codec)
def test_segments_of_any_length_and_content_share_one_decoder_configuration(
    tmp_path: Path, config: EncodeConfig
) -> None:
    frames = pictures(VFR)
    _, segments = encode(tmp_path, frames, info_of(frames), config, lengths=(1, 9))
    extradata = set()
    for segment in segments:
        with av.open(segment.path) as container:
            extradata.add(container.streams.video[0].codec_context.extradata)
    assert len(segments) == 3
    assert len(extradata) == 1


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_hdr_metadata_and_colour_tags_and_pixel_aspect_are_in_the_stream(tmp_path: Path, codec: str) -> None:
    frames = pictures(VFR[:3], "yuv420p10le")
    info = info_of(frames, colour=Colour(9, 16, 9, False, True), hdr=HDR10, sample_aspect_ratio=Fraction(4, 3))
    preset = "12" if codec == "libsvtav1" else "ultrafast"
    _, segments = encode(tmp_path, frames, info, EncodeConfig(codec=codec, preset=preset), lengths=())
    with av.open(segments[0].path) as container:
        frame = next(container.decode(video=0))
        stream = container.streams.video[0]
        assert stream.sample_aspect_ratio == Fraction(4, 3)
        assert (frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range) == (9, 16, 9, 1)
        light = np.frombuffer(frame.side_data["CONTENT_LIGHT_LEVEL"], np.uint32)
        assert light.tolist() == [1000, 400]
        values = np.frombuffer(frame.side_data["MASTERING_DISPLAY_METADATA"], np.int32)[:20].reshape(10, 2)
        found = [Fraction(int(a), int(b)) for a, b in values]
    assert HDR10.primaries is not None
    assert HDR10.luminance is not None
    for got, wanted in zip(found, (*HDR10.primaries, *HDR10.luminance), strict=True):
        assert abs(got - wanted) <= (0 if codec != "libsvtav1" else Fraction(1, 16384))


def test_full_range_is_a_tag_and_not_a_conversion(tmp_path: Path) -> None:
    frames = pictures(VFR[:2])
    info = info_of(frames, pix_fmt="yuvj420p", colour=Colour(1, 1, 1, True, True))
    plan, segments = encode(tmp_path, frames, info, lengths=())
    assert plan.pix_fmt == "yuv420p"
    with av.open(segments[0].path) as container:
        assert next(container.decode(video=0)).color_range == 2
    assert same_picture(decoded(segments[0].path)[0][1], frames[0])


@pytest.mark.parametrize(("policy", "size"), [("pad", (102, 204)), ("crop", (100, 202))])
def test_odd_sizes_keep_every_pixel_that_the_policy_keeps(tmp_path: Path, policy: str, size: tuple[int, int]) -> None:
    frames = pictures(VFR[:2], width=101, height=203)
    config = LOSSLESS.model_copy(update={"odd_size": policy})
    plan, segments = encode(tmp_path, frames, info_of(frames), config, lengths=())
    luma = decoded(segments[0].path)[1][1].planes[0]
    assert luma.shape == size[::-1]
    rows, columns = min(203, size[1]), min(101, size[0])
    assert np.array_equal(luma[:rows, :columns], frames[1].planes[0][:rows, :columns])
    if policy == "pad":
        assert np.array_equal(luma[:203, 101], frames[1].planes[0][:, 100])
    assert f"{size[0]}x{size[1]}" in str(plan)


def test_odd_sizes_are_refused_on_request_and_kept_where_chroma_is_not_halved() -> None:
    config = LOSSLESS.model_copy(update={"odd_size": "refuse"})
    frames = pictures(VFR[:1], width=101, height=203)
    with pytest.raises(UnsupportedVideo, match=r"101x203 is odd.*encode.odd_size=pad or crop"):
        EncodePlan.build(info_of(frames), config, TB)
    plan = EncodePlan.build(info_of(frames, pix_fmt="yuv444p"), config, TB)
    assert (plan.width, plan.height) == (101, 203)


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "kept"),
    [
        ("nv12", "libx264", "yuv420p"),
        ("p010le", "libx264", "yuv420p10le"),
        ("p010le", "hevc_nvenc", "p010le"),
        ("yuv440p", "libx264", "yuv444p"),
        ("yuv420p9le", "libx265", "yuv420p10le"),
        ("gray10le", "libsvtav1", "yuv420p10le"),
        ("rgb24", "libx265", "gbrp"),
        ("rgb24", "libx264", "yuv444p"),
    ],
)
def test_auto_takes_the_smallest_format_that_holds_all_of_the_input(pix_fmt: str, codec: str, kept: str) -> None:
    info = info_of(pictures([0]), pix_fmt=pix_fmt)
    plan = EncodePlan.build(info, EncodeConfig.model_validate({"codec": codec}), TB)
    assert plan.pix_fmt == kept
    assert plan.as_record()["pix_fmt"] == kept


@pytest.mark.parametrize(("pix_fmt", "codec"), [("yuv422p", "libsvtav1"), ("yuv444p12le", "libx264")])
def test_a_format_that_the_encoder_would_reduce_is_refused_with_the_remedy(pix_fmt: str, codec: str) -> None:
    info = info_of(pictures([0]), pix_fmt=pix_fmt)
    with pytest.raises(UnsupportedVideo, match=rf"{pix_fmt} cannot be kept by {codec}.*encode.codec=libx265"):
        EncodePlan.build(info, EncodeConfig.model_validate({"codec": codec}), TB)
    plan = EncodePlan.build(info, EncodeConfig.model_validate({"codec": codec, "pix_fmt": "yuv420p"}), TB)
    assert "as configured" in str(plan)


def test_gray_and_rgb_stay_what_they_look_like_in_yuv(tmp_path: Path) -> None:
    gray = pictures(VFR[:2], "gray")
    _, segments = encode(tmp_path, gray, info_of(gray), AV1.model_copy(update={"crf": 1}), lengths=())
    back = decoded(segments[0].path)[0][1]
    assert np.abs(back.planes[0].astype(int) - gray[0].planes[0]).max() <= 3
    assert np.abs(back.planes[1].astype(int) - 128).max() <= 2
    rgb = pictures(VFR[:2], "gbrp")
    plan, segments = encode(tmp_path, rgb, info_of(rgb), lengths=())
    assert plan.colour.matrix == 1
    with av.open(segments[0].path) as container:
        seen = Frame.from_av(
            next(container.decode(video=0)).reformat(format="gbrp", src_colorspace=1, dst_color_range=2)
        )
    for a, b in zip(rgb[0].planes, seen.planes, strict=True):
        assert np.abs(a.astype(int) - b).mean() < 1.5


def _write(path: Path, plan: EncodePlan, frames: list[Frame]) -> None:
    with SegmentEncoder(path, plan) as encoder:
        for frame in frames:
            encoder.write(frame)


def test_an_error_while_encoding_leaves_no_file(tmp_path: Path) -> None:
    frames = pictures(VFR[:2])
    plan = EncodePlan.build(info_of(frames), LOSSLESS, TB)
    path = tmp_path / "broken.mp4"
    out_of_order = frames[::-1]
    with pytest.raises(ValueError, match="pts 0 after 512; they must increase"):
        _write(path, plan, out_of_order)
    assert not path.exists()
    with pytest.raises(ValueError, match="a segment of no frames"), SegmentEncoder(path, plan):
        pass
    assert not path.exists()


def test_a_frame_of_another_size_or_format_is_refused(tmp_path: Path) -> None:
    plan = EncodePlan.build(info_of(pictures([0])), LOSSLESS, TB)
    for wrong, message in ((pictures([0], width=50), "50x32"), (pictures([0], "yuv422p"), "yuv422p")):
        with pytest.raises(ValueError, match=message), SegmentEncoder(tmp_path / "x.mp4", plan) as encoder:
            encoder.write(wrong[0])


def test_no_encoder_makes_threads_real_time(tmp_path: Path) -> None:
    """SVT-AV1 does, where root opens it (usual_scheduling): clusters started by such a thread starved the machine."""

    def policies() -> set[int]:
        return {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}

    before = policies()
    for config in (LOSSLESS, X265_LOSSLESS, AV1):
        check_encoder(config)
        frames = pictures(range(3))
        with SegmentEncoder(tmp_path / "x.mp4", EncodePlan.build(info_of(frames), config, TB)) as encoder:
            for frame in frames:
                encoder.write(frame)
                assert policies() == before, config.codec


def test_an_encoder_that_does_not_work_here_is_named_with_host_and_remedy() -> None:
    working = available_encoders()
    assert {"libx264", "libx265", "libsvtav1"} <= set(working)
    broken = EncodeConfig(preset="no-such-preset")
    with pytest.raises(EncoderUnavailable, match=rf"libx264 does not work on host {socket.gethostname()}.*preset"):
        check_encoder(broken)
    if "h264_nvenc" not in working:  # compiled in, but there is no GPU with an encoder
        with pytest.raises(EncoderUnavailable, match=r"h264_nvenc.*encode.codec=libx264.*NVENC"):
            check_encoder("h264_nvenc")


def test_qualities_and_presets_that_an_encoder_lacks_are_configuration_errors() -> None:
    info = info_of(pictures([0]))
    for change in ({"crf": 60}, {"codec": "libsvtav1", "preset": "p4"}, {"pix_fmt": "yuv420p12le"}):
        with pytest.raises(ConfigError, match="encode"):
            EncodePlan.build(info, EncodeConfig.model_validate(change), TB)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_x265_segments_shorter_than_its_reordering_are_whole_and_always_the_same(tmp_path: Path, count: int) -> None:
    """x265 derives such packets' dts from memory that it never set."""
    frames = pictures(VFR[:count])
    digests = set()
    for _ in range(12):
        _, segments = encode(
            tmp_path, frames, info_of(frames), EncodeConfig(codec="libx265", preset="fast"), lengths=()
        )
        digests.add(hashlib.sha256(Path(segments[0].path).read_bytes()).hexdigest())
    assert len(digests) == 1
    assert [time for time, _ in decoded(segments[0].path)] == [pts * TB for pts in VFR[:count]]
