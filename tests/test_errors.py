"""The exception tree: as drawn, and whole after travelling between processes."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import pytest

from pipeline import errors
from pipeline.errors import CorruptVideo, MotionmillError, UsageError, VideoError

EVERY = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, MotionmillError) and value.__module__ == errors.__name__
]
VIDEO_ERRORS = [kind for kind in EVERY if issubclass(kind, VideoError)]


def test_the_drawing_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    parents: dict[int, str] = {}
    for line in errors.__doc__.splitlines():
        match = re.match(r"^    ([│├└─ ]*)(\w+)(?:\s{2,}.*)?$", line)
        if match:
            depth = len(match[1]) // 4
            parents[depth] = match[2]
            drawn[match[2]] = parents[depth - 1] if depth else ""
    found = {kind.__name__: kind.__mro__[1].__name__ if kind is not MotionmillError else "" for kind in EVERY}
    assert drawn == found


@pytest.mark.parametrize("kind", VIDEO_ERRORS)
def test_a_videos_error_keeps_its_stage_and_place_between_processes(kind: type[VideoError]) -> None:
    error = kind("a.mp4: frame 7 is damaged", stage="verify", pts=-42)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.stage, again.pts) == ("a.mp4: frame 7 is damaged", "verify", -42)


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind not in VIDEO_ERRORS])
def test_other_errors_keep_their_message_between_processes(kind: type[MotionmillError]) -> None:
    again = pickle.loads(pickle.dumps(kind("s3://bucket: no rights")))
    assert type(again) is kind
    assert str(again) == "s3://bucket: no rights"


@pytest.mark.parametrize("kind", VIDEO_ERRORS)
def test_every_videos_error_knows_its_usual_stage(kind: type[VideoError]) -> None:
    assert kind("x").stage == kind.stage != ""
    assert kind("x").pts is None


def test_a_stage_given_to_one_error_does_not_stick_to_the_next() -> None:
    CorruptVideo("x", stage="read")
    assert CorruptVideo("y").stage == "decode"


def test_no_error_of_one_video_counts_as_wrong_usage() -> None:
    assert not any(issubclass(kind, UsageError) for kind in VIDEO_ERRORS)


def test_the_readme_has_a_remedy_for_every_error() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    table = text.partition("### Errors and their remedies")[2].partition("\n## ")[0]
    rows = {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    bases = {"MotionmillError", "VideoError"}
    assert {kind.__name__ for kind in EVERY} - bases == {name for name in rows if hasattr(errors, name)}
