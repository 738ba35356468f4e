"""Contract 4: video as it really comes, through the whole job; the output looked at with PyAV alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.e2e.support import LOSSLESS, Cluster, Output, frames_of, packets_of, run, write
from tests.media.joining import VFR, make_source, pictures
from tests.media_factory import make_codec, make_video

X264 = {"preset": "ultrafast"}
HDR = {
    "x265-params": "log-level=none:pools=1:keyint=12:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:"
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
}


@dataclass(frozen=True)
class Case:
    make: Callable[[], bytes]
    output: str
    codec: str = "libx264"


def _joined(name: str, **more: object) -> Callable[[], bytes]:
    def make() -> bytes:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            even = [512 * number for number in range(14)]  # matroska's milliseconds hold no finer ones
            frames = pictures(even if name == "m.mkv" else VFR)
            return make_source(Path(folder) / name, frames, **more).read_bytes()  # type: ignore[arg-type]

    return make


def _x264(**more: object) -> Callable[[], bytes]:
    return lambda: make_video(options=X264, **{"frames": 14, **more})  # type: ignore[arg-type]


H264 = {
    "rotated.mp4": Case(_x264(rotation=90), "rotated.mp4"),
    "wide_pixels.mkv": Case(_x264(container="matroska", sample_aspect_ratio=Fraction(16, 11)), "wide_pixels.mkv.mp4"),
    "full_chroma.mp4": Case(_x264(pix_fmt="yuv444p"), "full_chroma.mp4"),
    "full_range.mp4": Case(_x264(pix_fmt="yuvj420p", colour=(1, 1, 1, 2)), "full_range.mp4"),
    "bt601.mp4": Case(_x264(colour=(6, 6, 6, 1)), "bt601.mp4"),
    "tiny.mp4": Case(_x264(size=(16, 16)), "tiny.mp4"),
    "odd.mkv": Case(lambda: make_video("ffv1", "matroska", frames=14, size=(61, 47)), "odd.mkv.mp4"),
    "one.mp4": Case(_x264(frames=1), "one.mp4"),
    "two.mp4": Case(_x264(frames=2), "two.mp4"),
    "silent.avi": Case(lambda: make_codec("mpeg4 avi", 14), "silent.avi.mp4"),
    "sound.mp4": Case(_joined("s.mp4"), "sound.mp4"),
    "late_sound.mp4": Case(_joined("l.mp4", audio_start=Fraction(1, 4)), "late_sound.mp4"),
    "much.mkv": Case(
        _joined("m.mkv", audio=("aac", "flac"), subtitles=True, attachment=True, container="matroska"), "much.mkv"
    ),
    "ntsc.ts": Case(lambda: make_codec("h264 ts", 14, rate=Fraction(30000, 1001)), "ntsc.ts.mp4"),
    "web.webm": Case(lambda: make_codec("vp9", 14), "web.webm.mp4"),
}  # fmt: skip
HEVC = {
    "hdr.mp4": Case(
        lambda: make_video(
            "libx265", frames=14, pix_fmt="yuv420p10le", options=HDR, colour=(9, 16, 9, 1), size=(64, 64)
        ),
        "hdr.mp4",
    ),
    "prores.mov": Case(lambda: make_codec("prores", 14), "prores.mov.mp4"),
}
INTERLACED = "interlaced.mp4"


@dataclass
class Results:
    sources: dict[str, bytes]
    output: Output

    def pair(self, name: str) -> tuple[bytes, bytes]:
        return self.sources[name], self.output.files[f"video/{({**H264, **HEVC})[name].output}"]


@pytest.fixture(scope="module")
def h264(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Results:
    folder = tmp_path_factory.mktemp("variety")
    sources = {name: case.make() for name, case in H264.items()}
    interlaced = {**X264, "x264-params": "tff=1", "flags": "+ildct+ilme"}
    source = write(folder / "in", sources | {INTERLACED: make_video(frames=14, options=interlaced)})
    done = run(source, folder / "out", [*LOSSLESS, "clip.frames=5"], env=cluster.job_env())
    assert done.code == 3, done.text
    output = Output.of(folder / "out")
    output.check_settled()
    return Results(sources, output)


@pytest.fixture(scope="module")
def hevc(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Results:
    folder = tmp_path_factory.mktemp("variety10")
    sources = {name: case.make() for name, case in HEVC.items()}
    sets = ["model=blend", "encode.codec=libx265", "encode.preset=ultrafast", "encode.crf=8", "clip.frames=5"]
    done = run(write(folder / "in", sources), folder / "out", sets, env=cluster.job_env())
    assert done.code == 0, done.text
    output = Output.of(folder / "out")
    output.check_settled()
    return Results(sources, output)


def _stream(data: bytes) -> av.VideoStream:
    container = av.open(io.BytesIO(data))
    return container.streams.video[0]


def _times(made: bytes, source: bytes, tick: Fraction) -> None:
    """Twice the frames; each source frame at its own time (from the first), each new one midway."""
    before = [time for time, _ in frames_of(source)]
    after = [time for time, _ in frames_of(made)]
    assert len(after) == 2 * len(before)
    for index, time in enumerate(before):
        assert abs((after[2 * index] - after[0]) - (time - before[0])) <= tick
        if index + 1 < len(before):
            assert abs((after[2 * index + 1] - after[0]) - ((time + before[index + 1]) / 2 - before[0])) <= tick


@pytest.mark.parametrize("name", list(H264))
def test_frames_times_shape_and_colour_are_kept(h264: Results, name: str) -> None:
    source, made = h264.pair(name)
    _times(made, source, Fraction(1, 1000) if made[:4] == b"\x1aE\xdf\xa3" else Fraction(0))
    old, new = _stream(source), _stream(made)
    width, height = old.width + old.width % 2, old.height + old.height % 2
    if name == "odd.mkv":
        assert (new.width, new.height) == (width, height)
    else:
        assert (new.width, new.height) == (old.width, old.height)
    assert (new.sample_aspect_ratio or 1) == (old.sample_aspect_ratio or 1)
    a, b = old.codec_context, new.codec_context
    assert (b.color_primaries, b.color_trc, b.colorspace) == (a.color_primaries, a.color_trc, a.colorspace)
    assert b.pix_fmt.replace("yuvj", "yuv") == (a.pix_fmt or "").replace("yuvj", "yuv")
    if name == "full_range.mp4":
        assert b.color_range == 2


def test_source_frames_of_a_lossless_run_are_the_source_s_own(h264: Results) -> None:
    for name in ("rotated.mp4", "full_chroma.mp4", "tiny.mp4", "sound.mp4", "ntsc.ts", "one.mp4", "web.webm"):
        source, made = h264.pair(name)
        assert [digest for _, digest in frames_of(made)][::2] == [digest for _, digest in frames_of(source)], name


def test_rotation_is_kept(h264: Results) -> None:
    source, made = h264.pair("rotated.mp4")
    turned = [next(av.open(io.BytesIO(data)).decode(video=0)).rotation for data in (source, made)]
    assert turned[0] == turned[1] != 0


@pytest.mark.parametrize("name", ["sound.mp4", "late_sound.mp4", "much.mkv"])
def test_sound_is_copied_bit_for_bit_at_its_distance_from_the_pictures(h264: Results, name: str) -> None:
    source, made = h264.pair(name)
    old, new = packets_of(source, "audio"), packets_of(made, "audio")
    assert len(old) == len(new) > 0
    tick = Fraction(2, 1000) if name.endswith("mkv") else Fraction(1, 48000)
    start, begin = frames_of(source)[0][0], frames_of(made)[0][0]
    for before, after in zip(old, new, strict=True):
        assert [data for _, data in after] == [data for _, data in before]
        for (was, _), (now, _) in zip(before, after, strict=True):
            assert abs((now - begin) - (was - start)) <= tick


def test_the_length_is_the_source_s(h264: Results) -> None:
    for name in ("sound.mp4", "rotated.mp4", "two.mp4", "bt601.mp4"):
        source, made = h264.pair(name)
        lengths = [stream.duration * stream.time_base for stream in map(_stream, (source, made))]
        assert lengths[0] == lengths[1], name


def test_subtitles_chapters_tags_and_attachments_are_kept(h264: Results) -> None:
    source, made = h264.pair("much.mkv")
    assert [[data for _, data in s] for s in packets_of(made, "subtitle")] == [
        [data for _, data in s] for s in packets_of(source, "subtitle")
    ]
    with av.open(io.BytesIO(source)) as old, av.open(io.BytesIO(made)) as new:
        assert [c["metadata"] for c in new.chapters()] == [c["metadata"] for c in old.chapters()] != []
        assert new.metadata.get("title") == "A drifting wave"
        assert [s.language for s in new.streams.audio] == ["eng", "deu"]
        assert {s.type for s in new.streams} == {s.type for s in old.streams}


def test_interlaced_video_is_refused_with_the_remedy(h264: Results) -> None:
    (row,) = h264.output.quarantine()
    assert row["uri"].endswith(INTERLACED)
    assert (row["stage"], row["error_type"]) == ("probe", "UnsupportedVideo")
    assert "decode.interlaced=deinterlace" in row["message"]


@pytest.mark.parametrize("name", list(HEVC))
def test_ten_bits_stay_ten_bits_with_their_colour(hevc: Results, name: str) -> None:
    source, made = hevc.pair(name)
    _times(made, source, Fraction(0))
    a, b = _stream(source).codec_context, _stream(made).codec_context
    assert b.pix_fmt == a.pix_fmt
    assert "10le" in (b.pix_fmt or "")
    assert (b.color_primaries, b.color_trc, b.colorspace) == (a.color_primaries, a.color_trc, a.colorspace)


def test_hdr_metadata_is_kept(hevc: Results) -> None:
    def side(data: bytes) -> dict[str, bytes]:
        frame = next(av.open(io.BytesIO(data)).decode(video=0))
        return {
            str(item.type): bytes(item)
            for item in frame.side_data
            if "DISPLAY" in str(item.type) or "LIGHT" in str(item.type)
        }

    source, made = hevc.pair("hdr.mp4")
    assert len(side(source)) == 2
    assert side(made) == side(source)
