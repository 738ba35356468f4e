"""Joining: pictures, times, sound and everything around them arrive as they were."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest

from pipeline.config import EncodeConfig
from pipeline.errors import OutputMismatch, UnsupportedVideo
from pipeline.media.frame import same_picture
from pipeline.media.mux import finalise
from pipeline.media.verify import ExpectedOutput, verify_output
from pipeline.types import Colour
from tests.media.joining import LOSSLESS, TB, VFR, decoded, encode, info_of, make_source, packets_of, pictures


def _times(path: Path) -> list[Fraction]:
    return [time for time, _ in decoded(path)]


@pytest.mark.parametrize(
    ("codec", "container"),
    [
        *((codec, name) for codec in ("libx264", "libx265") for name in ("mp4", "mov", "mkv")),
        ("libsvtav1", "mp4"),
        ("libsvtav1", "mkv"),
    ],
)
def test_joined_segments_show_every_frame_at_its_time_with_the_sources_sound(
    tmp_path: Path, container: str, codec: str
) -> None:
    frames = pictures(VFR)
    info = info_of(frames)
    source = make_source(tmp_path / "source.mp4", frames)
    configs = {
        "libx264": LOSSLESS,
        "libx265": EncodeConfig(codec="libx265", preset="ultrafast", options={"x265-params": "lossless=1:bframes=3"}),
        "libsvtav1": EncodeConfig(codec="libsvtav1", preset="12"),
    }
    plan, segments = encode(tmp_path, frames, info, configs[codec])
    out = tmp_path / f"out.{container}"
    report = finalise(segments, str(source), info, plan, container, out)
    verify_output(out, ExpectedOutput.of(report, segments, VFR[-1], VFR))
    shown = decoded(out)
    start = shown[0][0] if container == "mkv" else Fraction(0)
    bound = 2 * report.time_rounding
    assert [abs(time - start - pts * TB) <= bound for (time, _), pts in zip(shown, VFR, strict=True)] == [True] * 14
    if codec != "libsvtav1":
        assert all(same_picture(a, b) for a, (_, b) in zip(frames, shown, strict=True))
    before, after = packets_of(source)[0], packets_of(out)[0]
    assert [data for _, data in after] == [data for _, data in before]
    assert before[0][0] < 0, "the test wants an encoder delay"
    offset = after[0][0] - shown[0][0] - before[0][0]
    assert abs(offset) <= bound


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, container: str) -> None:
    frames = pictures(VFR)
    source = make_source(tmp_path / "source.mp4", frames)
    digests = set()
    for _ in range(2):
        plan, segments = encode(tmp_path, frames, info_of(frames))
        finalise(segments, str(source), info_of(frames), plan, container, tmp_path / "out")
        digests.add(hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_mp4_plays_before_it_is_read_whole(tmp_path: Path) -> None:
    frames = pictures(VFR)
    plan, segments = encode(tmp_path, frames, info_of(frames))
    finalise(segments, None, info_of(frames), plan, "auto", tmp_path / "out.mp4")
    data = (tmp_path / "out.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_where_the_cuts_between_segments_fall_changes_no_time(tmp_path: Path) -> None:
    frames = pictures(VFR)
    config = EncodeConfig(preset="veryfast")
    for lengths in ((), (1,) * 14, (7,), (13,)):
        plan, segments = encode(tmp_path, frames, info_of(frames), config, lengths)
        unknown = [replace(segment, reorder_depth=None) for segment in segments]
        finalise(unknown, None, info_of(frames), plan, "mp4", tmp_path / "out.mp4")
        assert _times(tmp_path / "out.mp4") == [pts * TB for pts in VFR]
        with av.open(str(tmp_path / "out.mp4")) as container:
            stream = container.streams.video[0]
            assert stream.duration == VFR[-1] + 512
            dts = [packet.dts for packet in container.demux(stream) if packet.dts is not None]
            assert dts == sorted(set(dts))


@pytest.mark.parametrize(
    ("audio", "subtitles", "expected"),
    [
        (("aac",), False, "mp4"),
        (("flac", "libopus"), False, "mp4"),
        (("pcm_s16le",), False, "mov"),
        (("aac", "ac3"), True, "mkv"),
        ((), False, "mp4"),
    ],
)
def test_auto_takes_the_first_container_that_holds_all_sound_and_text(
    tmp_path: Path, audio: tuple[str, ...], subtitles: bool, expected: str
) -> None:
    frames = pictures(VFR)
    info = info_of(frames)
    source = make_source(tmp_path / "source.mkv", frames, audio, subtitles=subtitles)
    plan, segments = encode(tmp_path, frames, info)
    report = finalise(segments, str(source), info, plan, "auto", tmp_path / "out")
    verify_output(tmp_path / "out", ExpectedOutput.of(report, segments, VFR[-1]))
    assert report.container == expected
    assert not [line for line in report.dropped if "stream" in line]
    assert bool(report.time_rounding) == (expected == "mkv")
    for kind in ("audio", "subtitle"):
        before, after = packets_of(source, kind), packets_of(tmp_path / "out", kind)
        assert [[data for _, data in stream] for stream in after] == [[data for _, data in s] for s in before]


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_sound_that_starts_later_than_the_picture_still_does(tmp_path: Path, container: str) -> None:
    frames = pictures(VFR)
    source = make_source(tmp_path / "source.mp4", frames, audio_start=Fraction(12345, 48000))
    plan, segments = encode(tmp_path, frames, info_of(frames))
    out = tmp_path / f"out.{container}"
    report = finalise(segments, str(source), info_of(frames), plan, container, out)
    before = packets_of(source)[0][0][0] - _times(source)[0]
    after = packets_of(out)[0][0][0] - _times(out)[0]
    assert abs(after - before) <= 2 * report.time_rounding
    assert before > Fraction(1, 5)


def test_a_time_line_that_starts_late_is_moved_to_zero_for_all_streams_alike(tmp_path: Path) -> None:
    frames = pictures([pts * 6 for pts in VFR])  # 1/90000 s, as transport streams have
    base = Fraction(1, 90000)
    source = make_source(
        tmp_path / "source.ts",
        pictures(VFR),
        video_start=Fraction(1, 4),
        audio_start=Fraction(1, 8),
        container="mpegts",
    )
    with av.open(str(source)) as original:
        start = min(packet.pts for packet in original.demux(video=0) if packet.pts is not None)
    frames = [replace(frame, pts=frame.pts + start) for frame in frames]
    info = info_of(frames, 3000, time_base=base, container="mpegts")
    plan, segments = encode(tmp_path, frames, info)
    report = finalise(segments, str(source), info, plan, "auto", tmp_path / "out.mp4")
    verify_output(tmp_path / "out.mp4", ExpectedOutput.of(report, segments, frames[-1].pts))
    assert report.container == "mp4"
    before, after = packets_of(source)[0], packets_of(tmp_path / "out.mp4")[0]
    assert len(after) == len(before)
    assert after[0][0] - _times(tmp_path / "out.mp4")[0] == before[0][0] - start * base
    assert after[0][0] == 0
    assert report.shift == before[0][0]


def test_a_good_prefix_ends_with_its_sound_and_chapters(tmp_path: Path) -> None:
    frames = pictures(VFR)
    source = make_source(tmp_path / "source.mkv", frames, ("aac", "ac3"), subtitles=True)
    plan, segments = encode(tmp_path, frames, info_of(frames), lengths=(4, 4))
    cut = segments[1].end * TB
    report = finalise(segments[:2], str(source), info_of(frames), plan, "auto", tmp_path / "out", cut)
    verify_output(tmp_path / "out", ExpectedOutput.of(report, segments[:2], VFR[7]))
    before, after = packets_of(source), packets_of(tmp_path / "out")
    for whole, part in zip(before, after, strict=True):
        assert [data for _, data in part] == [data for time, data in whole if time < cut]
        assert len(part) < len(whole)
    with av.open(str(tmp_path / "out")) as container:
        assert [chapter["end"] * chapter["time_base"] for chapter in container.chapters()][-1] <= cut


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_players_turn_the_output_as_the_source(tmp_path: Path, container: str, rotation: int) -> None:
    frames = pictures(VFR[:2])
    info = info_of(frames, rotation=rotation, sample_aspect_ratio=Fraction(4, 3), colour=Colour(9, 16, 9, False, True))
    plan, segments = encode(tmp_path, frames, info)
    finalise(segments, None, info, plan, container, tmp_path / "out")
    with av.open(str(tmp_path / "out")) as written:
        frame = next(written.decode(video=0))
        assert -frame.rotation % 360 == rotation
        assert written.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert (frame.color_primaries, frame.color_trc, frame.colorspace) == (9, 16, 9)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_tags_languages_and_chapters_are_kept_and_what_is_not_is_listed(tmp_path: Path, container: str) -> None:
    frames = pictures(VFR)
    source = make_source(tmp_path / "source.mkv", frames, ("aac", "ac3"), attachment=True)
    plan, segments = encode(tmp_path, frames, info_of(frames))
    report = finalise(segments, str(source), info_of(frames), plan, container, tmp_path / "out")
    with av.open(str(tmp_path / "out")) as written, av.open(str(source)) as original:
        tags = {key.lower(): value for key, value in written.metadata.items()}
        assert (tags["title"], tags["artist"]) == ("A drifting wave", "motionmill")
        assert [stream.language for stream in written.streams.audio] == ["eng", "deu"]
        assert [s.disposition for s in written.streams.audio] == [s.disposition for s in original.streams.audio]
        found = [(c["metadata"]["title"], c["start"] * c["time_base"]) for c in written.chapters()]
        assert found == [("One", 0), ("Two", Fraction(1, 2))]
        attached = [stream for stream in written.streams if stream.type == "attachment"]
    assert report.chapters == 2
    listed = [line for line in report.dropped if line.startswith("attachment stream 3")]
    assert (len(attached), len(listed)) == ((1, 0) if container == "mkv" else (0, 1))


def test_segments_that_do_not_tile_the_video_or_do_not_match_are_refused(tmp_path: Path) -> None:
    frames = pictures(VFR)
    info = info_of(frames)
    plan, segments = encode(tmp_path, frames, info)
    other = tmp_path / "other"
    other.mkdir()
    _, foreign = encode(other, pictures(VFR, "yuv444p"), info_of(pictures(VFR, "yuv444p")))
    out = tmp_path / "out.mp4"
    # The first segment a little shorter than the frames it holds, the last one much shorter.
    early = [replace(segment, offset_ticks=segment.offset_ticks - 412) for segment in segments[1:]]
    squeezed = [replace(segments[0], duration=100), *early[:-1], replace(early[-1], duration=10)]
    cases = {
        "must tile the video": [segments[0], *segments[2:]],
        "6 frames|5 frames, expected 6": [segments[0], replace(segments[1], frames=6), *segments[2:]],
        "decoder configuration differs": [segments[0], foreign[1], *segments[2:]],
        "lies outside": squeezed,
    }
    for message, wrong in cases.items():
        with pytest.raises(OutputMismatch, match=message):
            finalise(wrong, None, info, plan, "mp4", out)
        assert not out.exists()


def test_frames_closer_than_mkv_can_tell_apart_are_refused_there_and_exact_in_mp4(tmp_path: Path) -> None:
    times = (0, 512, 513, 1024)
    frames = pictures(times)
    plan, segments = encode(tmp_path, frames, info_of(frames), lengths=(2,))
    with pytest.raises(UnsupportedVideo, match=r"fall on one time in mkv.*encode.container to mp4"):
        finalise(segments, None, info_of(frames), plan, "mkv", tmp_path / "out.mkv")
    finalise(segments, None, info_of(frames), plan, "auto", tmp_path / "out.mp4")
    assert _times(tmp_path / "out.mp4") == [pts * TB for pts in times]


def test_av1_is_not_put_where_the_muxer_has_no_place_for_it(tmp_path: Path) -> None:
    frames = pictures(VFR[:3])
    source = make_source(tmp_path / "source.mov", frames, ("pcm_s16le",))
    config = EncodeConfig(codec="libsvtav1", preset="12")
    plan, segments = encode(tmp_path, frames, info_of(frames), config)
    with pytest.raises(UnsupportedVideo, match="container=mov cannot hold av1 video"):
        finalise(segments, None, info_of(frames), plan, "mov", tmp_path / "out.mov")
    report = finalise(segments, str(source), info_of(frames), plan, "auto", tmp_path / "out")
    assert report.container == "mkv"
