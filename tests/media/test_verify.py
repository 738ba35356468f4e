"""Verification finds what is wrong with a finished file, and says what it found and what it wanted."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import OutputMismatch
from pipeline.media.mux import finalise
from pipeline.media.verify import ExpectedOutput, verify_output
from tests.media.joining import TB, VFR, encode, info_of, make_source, pictures


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExpectedOutput]:
    folder = tmp_path_factory.mktemp("finished")
    frames = pictures(VFR)
    source = make_source(folder / "source.mp4", frames)
    plan, segments = encode(folder, frames, info_of(frames))
    report = finalise(segments, str(source), info_of(frames), plan, "mp4", folder / "out.mp4")
    return folder / "out.mp4", ExpectedOutput.of(report, segments, VFR[-1], VFR)


def test_a_file_as_planned_passes_from_a_path_or_an_open_file(finished: tuple[Path, ExpectedOutput]) -> None:
    path, expected = finished
    found = verify_output(path, expected)
    assert (found.frames, found.first_time, found.last_time) == (14, 0, VFR[-1] * TB)
    assert found.duration == (VFR[-1] + 512) * TB
    with path.open("rb") as file:
        assert verify_output(file, expected).frames == 14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 15, "pts": None}, "14 video frames, expected 15"),
        ({"first_pts": 1, "pts": None}, "first video time is 0.000000 s, expected 0.000065 s"),
        ({"last_pts": 16001, "pts": None}, "last video time is 1.041667 s"),
        ({"duration": 16511}, "video duration is 1.075000 s, expected 1.074935 s"),
        ({"pts": (*VFR[:5], 3101, *VFR[6:])}, "time of video frame 5"),
        ({"streams": ()}, "audio and subtitle streams is 1, expected 0"),
    ],
)
def test_a_difference_of_one_frame_or_one_tick_is_found(
    finished: tuple[Path, ExpectedOutput], change: dict[str, Any], message: str
) -> None:
    path, expected = finished
    with pytest.raises(OutputMismatch, match=message):
        verify_output(path, replace(expected, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packets": 1}, "packets of audio stream 0"),
        ({"bytes": 7}, "bytes of audio stream 0"),
        ({"kind": "subtitle"}, "is audio, expected subtitle"),
        ({"start": Fraction(0)}, "start of audio stream 0 .* after the first video frame is -0.021333 s"),
    ],
)
def test_sound_that_is_short_or_shifted_is_found(
    finished: tuple[Path, ExpectedOutput], change: dict[str, Any], message: str
) -> None:
    path, expected = finished
    with pytest.raises(OutputMismatch, match=message):
        verify_output(path, replace(expected, streams=(replace(expected.streams[0], **change),)))


def test_a_file_that_ends_early_is_found(finished: tuple[Path, ExpectedOutput], tmp_path: Path) -> None:
    path, expected = finished
    data = path.read_bytes()
    for size in (100, len(data) // 2, len(data) - 200):
        (tmp_path / "short.mp4").write_bytes(data[:size])
        with pytest.raises(OutputMismatch, match=r"short\.mp4"):
            verify_output(tmp_path / "short.mp4", expected)
