"""A run's cost in requests, driver time and memory grows with its clips, and not faster: tried without machines."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest

from pipeline.layout import Layout
from pipeline.records import catalogue
from pipeline.records.commit import load_video_commits
from pipeline.run.worker import ClipWorker
from pipeline.storage import Storage
from tests.scale.simulation import CLIPS, OUTPUT, PAGE, Measured, add_input, simulate

SMALL, LARGE, HUGE = 500, 5_000, 100_000


@pytest.fixture(scope="module")
def runs() -> Iterator[tuple[Measured, Measured]]:
    with pytest.MonkeyPatch.context() as patch:
        small = simulate(SMALL, patch)
    with pytest.MonkeyPatch.context() as patch:
        yield small, simulate(LARGE, patch)


def _complete(run: Measured) -> None:
    assert run.code == 0
    assert len(run.driver_s) == run.clips
    keys = run.store._keys
    assert sum(key.startswith(f"{OUTPUT}/_motionmill/videos/") for key in keys) == run.clips // CLIPS
    assert not [key for key in keys if "/commit/" in key or "/segments/" in key or "/attempts/" in key]


def _flat(run: Measured) -> None:
    """What holds at any size."""
    _complete(run)
    store = run.store
    # By the design: four writes a clip (mark, data, commit, and its share of the video's), one read when it is joined.
    assert run.per_clip["put"] < 3 + 5 / CLIPS
    assert run.per_clip["get"] < 1 + 3 / CLIPS
    # The driver itself asks the store for nothing while clips come in.
    assert not store.driver
    # A clip's commit is found by asking for it; a video's clips by listing theirs; the whole only once, at the end.
    assert store.listed["commit"] == 0
    assert store.listed["commit/*"] <= 2 * run.clips
    assert store.listed["segments/*"] <= 2 * run.clips
    assert store.listed["videos"] <= 4 * run.clips // CLIPS
    assert store.requests["list"] <= 3 * run.clips // CLIPS + 4 * (run.clips // PAGE + 1) + 30


def test_requests_are_flat_and_the_driver_makes_none_for_a_clip(runs: tuple[Measured, Measured]) -> None:
    for run in runs:
        print(run)
        _flat(run)
    small, large = (run.per_clip for run in runs)
    assert large == pytest.approx(small, rel=0.1, abs=0.02)


def test_a_receipt_costs_the_driver_as_much_at_the_end_as_at_the_beginning(runs: tuple[Measured, Measured]) -> None:
    _even(runs[1])


def _even(run: Measured) -> None:
    tenth = run.clips // 10
    first, last = (statistics.median(part) for part in (run.driver_s[tenth : 2 * tenth], run.driver_s[-tenth:]))
    assert last < 3 * first, f"{first} s at first, {last} s at last"


def test_the_real_worker_asks_for_no_more_than_one_look_at_what_it_wrote(
    runs: tuple[Measured, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = simulate(10 * CLIPS, monkeypatch, actor=ClipWorker)
    print(real)
    _complete(real)
    light = runs[0].per_clip
    assert real.per_clip["head"] == pytest.approx(light["head"] + 1, abs=0.02)
    assert [real.per_clip[kind] for kind in ("put", "get")] == pytest.approx(
        [light[kind] for kind in ("put", "get")], abs=0.05
    )


def test_a_rerun_with_nothing_to_do_reads_no_commit(
    runs: tuple[Measured, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = simulate(LARGE, monkeypatch, runs[1].store)
    print(again)
    assert again.code == 0
    assert again.driver_s == []
    assert again.store.requests["get"] <= 5, "the run, and the quarantine table that is there"
    assert again.store.requests["list"] <= 30
    assert again.store.requests["put"] <= 10
    assert len(load_video_commits(Storage(), Layout(OUTPUT))) == LARGE // CLIPS


def test_a_night_reads_no_commit_of_the_nights_before(monkeypatch: pytest.MonkeyPatch) -> None:
    videos, worth = SMALL // CLIPS, 10
    monkeypatch.setattr(catalogue, "WORTH", worth)
    first = simulate(SMALL, monkeypatch)
    asked = []
    for night in range(worth + 1):
        add_input(first.store, videos + night)
        one = simulate(CLIPS, monkeypatch, first.store)
        _complete_night(one)
        asked.append(one.store.requests["get"])
    least = asked[0]
    # Each night's own video is read once more on the nights after it, until a new catalogue has taken it in.
    assert asked == [*(least + night for night in range(worth)), least]
    assert least < CLIPS + 10 < videos + CLIPS, "a clip, its commit, and the run's own few objects"
    assert len(load_video_commits(Storage(), Layout(OUTPUT))) == videos + worth + 1


def _complete_night(run: Measured) -> None:
    assert run.code == 0
    assert len(run.driver_s) == CLIPS


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    run = simulate(HUGE, monkeypatch)
    print(run)
    _flat(run)
    _even(run)
    assert run.rss < 200 << 20
