"""Which repeats are replaced: short runs that end in a new picture, decided from close by."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan.duplicates import replaced

RUNS = st.integers(1, 4)
REPEATS = st.lists(st.booleans(), max_size=30).map(lambda flags: [False, *flags])


def flags(text: str) -> list[bool]:
    """ "A..B" is a picture, two repeats of it, and a new one."""
    return [letter == "." for letter in text]


def replaced_in(text: str, max_run: int) -> str:
    return "".join("x" if gone else "o" for gone in replaced(flags(text), max_run))


def test_short_runs_go_and_long_ones_stay() -> None:
    assert replaced_in("A.B..C...D", 2) == "oxoxxooooo"
    assert replaced_in("A.B..C...D", 3) == "oxoxxoxxxo"


def test_a_run_that_ends_the_video_stays() -> None:
    assert replaced_in("A.B.", 3) == "oxoo"


def test_telecine_and_stills_and_nothing_at_all() -> None:
    assert replaced_in("ABC.DEFG.H", 3) == "oooxoooox" + "o"
    assert replaced_in("ABCD", 3) == "oooo"
    assert replaced([], 3) == []


@given(repeats=REPEATS, max_run=RUNS)
def test_only_repeats_go_in_runs_no_longer_than_allowed_between_kept_frames(repeats: list[bool], max_run: int) -> None:
    gone = replaced(repeats, max_run)
    assert len(gone) == len(repeats)
    assert not gone[0]
    assert not gone[-1]
    assert all(repeat for repeat, lost in zip(repeats, gone, strict=True) if lost)
    assert max((len(run) for run in "".join("x" if lost else " " for lost in gone).split()), default=0) <= max_run


@given(repeats=REPEATS, max_run=RUNS, data=st.data())
def test_max_run_and_one_frames_on_either_side_decide(repeats: list[bool], max_run: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(repeats) - 1))
    low = max(0, index - max_run - 1)
    near = [False, *repeats[low + 1 : index + max_run + 2]] if low else repeats[: index + max_run + 2]
    assert replaced(near, max_run)[index - low] == replaced(repeats, max_run)[index]
