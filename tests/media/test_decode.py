"""pipeline/media/decode.py: a clip's frames are the same wherever the cuts are, and damage is found, not shown."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest

from pipeline.config import DecodeConfig, InputConfig
from pipeline.errors import CorruptVideo, StorageError, UnsupportedVideo
from pipeline.media.decode import decode_clip
from pipeline.media.frame import Frame, PixelFormat, luma8, same_picture, working_format
from pipeline.media.probe import probe
from pipeline.types import ClipRef, VideoInfo, VideoRef
from tests.media_factory import (
    CODECS,
    as_video,
    clips_of,
    cut,
    faststart,
    make_codec,
    make_video,
    scramble,
)

CONFIG = DecodeConfig()


def opened(data: bytes, config: DecodeConfig = CONFIG) -> tuple[VideoRef, io.BytesIO, VideoInfo]:
    video, file = as_video(data)
    return video, file, probe(file, video, InputConfig(), config)


def digest(frame: Frame) -> str:
    return hashlib.md5(b"".join(plane.tobytes() for plane in frame.planes)).hexdigest()


def decoded(file: io.BytesIO, clip: ClipRef, config: DecodeConfig = CONFIG) -> list[tuple[int, str]]:
    return [(frame.pts, digest(frame)) for frame in decode_clip(file, clip, config)]


def sequential(data: bytes) -> list[str]:
    """What FFmpeg gives from end to end, with none of our code but the copy."""
    with av.open(io.BytesIO(data)) as container:
        return [digest(Frame.from_av(frame, 0)) for frame in container.decode(video=0)]


def until_error(frames: Iterator[Frame]) -> tuple[list[int], CorruptVideo]:
    pts: list[int] = []
    with pytest.raises(CorruptVideo) as caught:
        pts.extend(frame.pts for frame in frames)
    return pts, caught.value


@pytest.mark.parametrize("name", CODECS)
def test_clips_and_halos_hold_the_same_bits_as_decoding_from_end_to_end(name: str) -> None:
    data = make_codec(name)
    video, file, info = opened(data)
    expected = list(zip(info.pts, sequential(data), strict=True))
    assert len(expected) == 30
    for frames, before, after in ((7, 2, 1), (30, 0, 0), (11, 0, 0)):
        for clip in clips_of(video, info, frames, before, after):
            first = clip.start_frame - clip.halo_before
            last = clip.start_frame + clip.frames + clip.halo_after
            assert decoded(file, clip) == expected[first:last], clip


@pytest.mark.parametrize("name", ["h264", "mpeg2 ts"])
def test_deinterlaced_frames_do_not_depend_on_where_the_clips_are_cut(name: str) -> None:
    options = {"x264-params": "tff=1:threads=1"} if name == "h264" else {"flags": "+ilme+ildct", "bf": "2"}
    data = make_codec(name, options=options)
    config = DecodeConfig(interlaced="deinterlace")
    video, file, info = opened(data, config)
    assert info.interlaced
    (whole,) = clips_of(video, info, len(info.pts))
    expected = decoded(file, whole, config)
    assert [pts for pts, _ in expected] == list(info.pts)
    assert [bits for _, bits in expected] != sequential(data)
    for clip in clips_of(video, info, 7, 1, 1):
        first = clip.start_frame - clip.halo_before
        assert decoded(file, clip, config) == expected[first : clip.start_frame + clip.frames + clip.halo_after]


def test_interlaced_frames_that_the_headers_hide_are_refused_while_decoding() -> None:
    video, file, info = opened(
        make_video(options={"x264-params": "tff=1:threads=1"}), DecodeConfig(interlaced="deinterlace")
    )
    (clip,) = clips_of(video, info, len(info.pts))
    with pytest.raises(UnsupportedVideo, match=r"decode\.interlaced=deinterlace"):
        next(decode_clip(file, clip, CONFIG))


def test_variable_frame_rate_keeps_every_time() -> None:
    pts = [0, 3, 4, 10, 11, 30, 31, 32, 60, 61]
    data = make_video("libx264", "matroska", pts=pts, time_base=Fraction(1, 1000))
    video, file, info = opened(data)
    assert list(info.pts) == pts
    frames = [pts for clip in clips_of(video, info, 3) for pts, _ in decoded(file, clip)]
    assert frames == pts


def test_threads_do_not_change_a_bit() -> None:
    video, file, info = opened(make_codec("h264"))
    clips = clips_of(video, info, 11, 1, 1)
    assert [decoded(file, clip) for clip in clips] == [decoded(file, clip, DecodeConfig(threads=3)) for clip in clips]


def test_a_cut_file_keeps_every_good_frame_and_names_the_last() -> None:
    data = cut(faststart(frames=48), 0.75)
    video, file, info = opened(data)
    assert any("promises 48 frames" in note for note in info.notes)
    good = 0
    clips = clips_of(video, info, 12)
    for clip in clips[:-1]:
        good += len(decoded(file, clip))
    pts, error = until_error(decode_clip(file, clips[-1], CONFIG))
    assert good == 12 * (len(clips) - 1) > 0
    assert pts == list(info.pts[good : good + len(pts)])
    assert error.pts == (pts[-1] if pts else None)


@pytest.mark.parametrize("container", ["matroska", "avi"])
def test_a_cut_file_that_still_demuxes_cleanly_is_found(container: str) -> None:
    codec = "mpeg4" if container == "avi" else "libx264"
    video, file, info = opened(cut(make_video(codec, container, frames=40, size=(128, 96)), 0.8))
    assert any(note.startswith("damaged") for note in info.notes)
    (clip,) = clips_of(video, info, len(info.pts))
    pts, error = until_error(decode_clip(file, clip, CONFIG))
    assert 5 < len(pts) < 40
    assert error.pts == pts[-1] == info.pts[len(pts) - 1]
    assert video.uri in str(error)


def test_overwritten_bytes_end_the_clip_before_the_first_bad_frame() -> None:
    clean = make_video(frames=48, size=(128, 96))
    expected = sequential(clean)
    video, file, info = opened(scramble(clean, 0.6))
    (clip,) = clips_of(video, info, 48)
    got: list[str] = []
    with pytest.raises(CorruptVideo) as caught:
        got.extend(digest(frame) for frame in decode_clip(file, clip, CONFIG))
    assert 5 < len(got) < 48
    assert got == expected[: len(got)]
    assert caught.value.pts == info.pts[len(got) - 1]


def test_concealment_keeps_the_planned_times_when_it_is_asked_for() -> None:
    config = DecodeConfig(corruption="conceal")
    video, file, info = opened(scramble(make_video(frames=48, size=(128, 96)), 0.6), config)
    (clip,) = clips_of(video, info, 48)
    assert [pts for pts, _ in decoded(file, clip, config)] == list(info.pts)


def change(clip: ClipRef, **fields: object) -> ClipRef:
    return dataclasses.replace(clip, **fields)  # type: ignore[arg-type]


def test_a_plan_that_does_not_match_the_file_is_found() -> None:
    video, file, info = opened(make_codec("h264"))
    clips = clips_of(video, info, 10)
    step = info.pts[1] - info.pts[0]
    wrong = [
        (change(clips[1], frames=9, end_pts=clips[1].end_pts, halo_after=1), "where the next clip starts"),
        (change(clips[1], frames=11), "1 of 11 frames are missing"),
        (change(clips[1], start_pts=clips[1].start_pts + 1), "planned at"),
        (change(clips[2], frames=9, end_pts=info.end_pts - step), "after the last one planned"),
        (change(clips[2], frames=11, end_pts=info.end_pts + step), "the video ends after 10"),
        (change(clips[2], halo_before=30), "before it, 30 needed"),
    ]
    for clip, message in wrong:
        with pytest.raises(CorruptVideo, match=message):
            decoded(file, clip)


def test_a_wrong_key_packet_costs_time_but_changes_nothing() -> None:
    video, file, info = opened(make_codec("h264"))
    clip = clips_of(video, info, 10)[1]
    expected = decoded(file, clip)
    late = change(clip, seek=info.keys[-1])
    unknown = change(clip, seek=dataclasses.replace(clip.seek, pts=clip.seek.pts + 1, size=-1))
    assert decoded(file, late) == decoded(file, unknown) == expected


def test_a_second_video_behind_the_first_gives_no_frame_twice() -> None:
    video, file, info = opened(make_codec("vp8", 30) + make_codec("vp9", 30), CONFIG)
    for clip in clips_of(video, info, 11, after=1):
        frames = decode_clip(file, clip, CONFIG)
        if clip.is_last:
            pts, error = until_error(frames)
            assert "twice" in str(error)
        else:
            pts = [frame.pts for frame in frames]
        assert pts == sorted({*pts})


def test_a_read_error_is_raised_as_it_is() -> None:
    class Failing(io.BytesIO):
        armed = False

        def read(self, size: int | None = -1, /) -> bytes:
            if self.armed and self.tell() > 4000:
                raise StorageError("memory://video.mp4: the store is unwell")
            return super().read(size)

    data = make_video("libx264", "matroska", frames=60)
    video, _, info = opened(data)
    file = Failing(data)
    file.armed = True
    (clip,) = clips_of(video, info, 60)
    with pytest.raises(StorageError, match="unwell"):
        decoded(file, clip)


def test_closing_early_leaves_the_file_usable() -> None:
    video, file, info = opened(make_codec("h264"))
    (clip,) = clips_of(video, info, 30)
    frames = decode_clip(file, clip, CONFIG)
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert len(decoded(file, clip)) == 30


@pytest.mark.parametrize(
    ("given", "expected", "noted"),
    [
        ("yuv420p", "yuv420p", False),
        ("yuvj422p", "yuv422p", False),
        ("nv12", "yuv420p", False),
        ("p010le", "yuv420p10le", False),
        ("yuyv422", "yuv422p", False),
        ("y210le", "yuv422p10le", False),
        ("rgb24", "gbrp", False),
        ("rgb48be", "gbrp16le", False),
        ("bgra", "gbrp", True),
        ("yuva444p10le", "yuv444p10le", True),
        ("ya8", "gray", True),
        ("gray12le", "gray12le", False),
        ("yuv411p", "yuv422p", True),
        ("gbrpf32le", "gbrp16le", True),
    ],
)
def test_the_working_format_loses_no_bits_and_says_what_it_drops(given: str, expected: str, noted: bool) -> None:
    name, note = working_format(given)
    assert name == expected
    assert (note is not None) == noted
    assert PixelFormat.of(name).name == name


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "yuv440p", "yuv444p12le", "gray", "gray16le", "gbrp10le"])
@pytest.mark.parametrize("size", [(64, 48), (33, 17), (1, 1)])
def test_a_frame_goes_to_ffmpeg_and_back_unchanged(name: str, size: tuple[int, int]) -> None:
    form = PixelFormat.of(name)
    rng = np.random.default_rng(3)
    planes = tuple(rng.integers(0, form.peak + 1, shape, form.dtype) for shape in form.plane_shapes(*size))
    frame = Frame(7, planes, form)
    again = Frame.from_av(frame.to_av())
    assert same_picture(frame, again)
    assert again.pts == 7
    assert all(plane.flags.c_contiguous for plane in again.planes)


@pytest.mark.parametrize("packed", ["rgb24", "nv12", "p010le", "yuyv422", "bgra"])
def test_repacking_to_the_working_format_is_exact(packed: str) -> None:
    name, _ = working_format(packed)
    form = PixelFormat.of(name)
    rng = np.random.default_rng(3)
    planes = tuple(rng.integers(0, form.peak + 1, shape, form.dtype) for shape in form.plane_shapes(64, 48))
    frame = Frame(0, planes, form)
    assert same_picture(frame, Frame.from_av(frame.to_av().reformat(format=packed)))


def test_a_frame_prints_its_shape_and_not_its_pixels() -> None:
    form = PixelFormat.of("yuv420p")
    frame = Frame(5, tuple(np.zeros(shape, np.uint8) for shape in form.plane_shapes(6, 4)), form)
    assert repr(frame) == "Frame(pts=5, yuv420p, 6x4, planes 4x6 2x3 2x3)"
    with pytest.raises(ValueError, match="expected"):
        Frame(5, (frame.planes[0],), form)


def test_luma_is_the_mean_of_its_area_on_the_8_bit_scale() -> None:
    form = PixelFormat.of("gray10le")
    plane = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60) % 1024
    small = luma8(Frame(0, (plane,), form), 6, 4)
    assert small.shape == (4, 6)
    assert small[1, 2] == pytest.approx(plane[10:20, 20:30].mean() / 4, abs=1e-3)
    assert luma8(Frame(0, (plane,), form), 500, 500).shape == (40, 60)
