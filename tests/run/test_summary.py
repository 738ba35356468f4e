"""The account of a run: sums, rates, and one text and one JSON with the same numbers."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import pytest

from pipeline import __version__
from pipeline.config import InterpolateConfig, load
from pipeline.layout import Layout
from pipeline.run import summary as module
from pipeline.run.cluster import Placement
from pipeline.run.rows import Receipt, Row, Times
from pipeline.run.summary import SHOWN, Account, StartUp, Summary
from pipeline.run.worker import RunContext
from pipeline.storage import Storage
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.types import ClipRef, KeyPacket, VideoRef

VIDEO = VideoRef("s3://in/a.mp4", "1", "a.mp4", 10)
CLIP = ClipRef(VIDEO, 0, 1, 0, 8, 0, 8, Fraction(1, 24), 0, 1, KeyPacket(0, 0, 0), 0)
ROW = Row("clip", VIDEO, clip=CLIP)
PLACEMENT = Placement(actors=2, gpus=0.0, threads=1, cpus=0.5)


def receipt(**changes: Any) -> Receipt:
    base = Receipt(
        ROW, "ok", 16, {"total": 10.0, "model": 8.0, "decode": 1.0}, {"source": 8, "synthesised": 8}, bytes=500_000
    )
    return replace(base, **changes)


def summary_of(account: Account, output: str = "s3://out/smooth", in_quarantine: int = 0) -> Summary:
    config = load(InterpolateConfig, None, ["model=blend"])
    context = RunContext(InterpolateTask(config), Storage(config.retry), output, "session-1", "f" * 64)
    return Summary.of(context, PLACEMENT, account, time.time() - 40, in_quarantine)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    """Two clips of 16 frames made by two actors in 16 seconds, one resumed; a video done, one quarantined."""
    now = time.time()
    start_up = StartUp(now - 40, now - 36, now - 35)
    account = Account(committed=1, quarantined=1, skipped=2, skipped_quarantined=1, start_up=start_up)
    clock = iter([now - 6.0, now])
    monkeypatch.setattr(module.time, "time", lambda: next(clock, now))
    account.add(receipt(times=Times("a", now - 33, now - 30, now - 16, 10, 0.5, 0, 16, (2, 0.75))))
    times = Times("b", now - 33, now - 29, now - 10, 10, 0.5, 0, 16)
    account.add(receipt(retries=3, tries=2, seconds={"total": 10.0, "model": 8.0, "encode": 2.0}, times=times))
    account.add(receipt(fresh=False))
    account.add(Receipt(Row("refused", VIDEO), "refused"))
    account.finished(["s3://out/smooth/video/a.mp4"], {"max_t_error": "1/30", "notes": ["padded"], "dropped": ["data"]})
    account.finished([], {"max_t_error": "1/40", "notes": ["padded"]})
    return account


def test_what_this_session_made_is_added_up_and_what_it_found_is_not(account: Account) -> None:
    assert (account.clips, account.clips_resumed, account.clips_failed) == (2, 1, 0)
    assert (account.frames, account.bytes, account.retries) == (32, 1_000_000, 3)
    assert account.kinds == {"source": 16, "synthesised": 16}
    assert account.seconds == {"total": 20.0, "model": 16.0, "decode": 1.0, "encode": 2.0}
    assert account.max_t_error == "1/30"
    assert account.remarks == {"padded": 2, "not copied: data": 1}


def test_a_failed_clip_is_counted(account: Account) -> None:
    account.add(receipt(status="error", rows=0, message="CorruptVideo: x"))
    assert account.clips_failed == 1


def test_speed_is_counted_from_when_the_first_clip_was_begun(account: Account) -> None:
    found = summary_of(account)
    assert found.frames_per_second == pytest.approx(32 / 16, rel=1e-3)
    assert found.start_up_s == pytest.approx(40 - 16, abs=1), "and what came before is start-up"


def test_of_clips_that_overlap_the_earliest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now)
    account = Account()
    account.add(receipt(seconds={"total": 1.0}))  # the short clip is back first
    account.add(receipt(seconds={"total": 9.0}))
    assert account.first_clip == pytest.approx(now - 9)


def test_the_ceiling_is_what_the_actors_would_reach_with_the_model_alone(account: Account) -> None:
    found = summary_of(account)
    assert found.model_ceiling == pytest.approx(32 / (32 * 0.75 / 2) * 2, rel=1e-3), "0.75 s for 2 of 32 units of work"
    assert found.speed is not None
    assert found.speed.reached == pytest.approx(32 / 40, rel=1e-3), "start-up included"
    assert sum(found.speed.shares.values()) == pytest.approx(1, abs=1e-3)


def test_start_up_is_measured_in_its_parts(account: Account) -> None:
    found = summary_of(account).start_up
    expected = {"cluster": 4, "checks": 1, "actors": 5, "first_clip": 14, "first_frame": 0.5, "load": 3}
    assert found == pytest.approx(expected, abs=0.01)


def test_the_timeline_has_the_totals(account: Account) -> None:
    (first, *_, last) = summary_of(account).timeline
    assert (first["t"], first["frames"]) == (0, 0)
    assert (last["t"], last["frames"], last["clips"]) == (pytest.approx(40, abs=0.1), 32, 2)
    assert last["seconds"]["model"] == 16.0


def test_the_text_has_the_numbers(account: Account) -> None:
    text = summary_of(account, in_quarantine=4).text()
    for part in (
        "1 done, 1 quarantined, 3 done before",
        "2 made, 1 taken from an earlier run, 0 failed",
        "32 made (16 source, 16 synthesised), 1.0 MB",
        "0.80 frames/s from start to end (2.00 while clips were made); the model alone: 5.33 (15% reached)",
        "lost       start-up 68%, tail",
        "start-up: cluster 4.0, checks 1.0, actors 5.0 (loading the model 3.0), first clip 14.0, first frame 0.5",
        "model 16.0",
        "wall       40.0 s",
        "at most 1/30 of a source interval",
        "3 calls repeated",
        "padded (x2)",
        "not copied: data",
        f"4 entries: {Layout('s3://out/smooth').quarantine}",
        "output     s3://out/smooth/video/a.mp4",
    ):
        assert part in text, part


def test_a_run_that_did_nothing_has_an_account_too() -> None:
    found = summary_of(Account())
    assert (found.frames_per_second, found.model_ceiling) == (None, None)
    text = found.text()
    assert "0 made (none)" in text
    assert found.start_up == {}
    for absent in ("speed", "lost", "t_error", "quarantine ", "store", "note"):
        assert absent not in text


def test_a_run_of_failed_clips_only_has_no_speed() -> None:
    account = Account()
    account.add(receipt(status="error", rows=0))
    assert "speed" not in summary_of(account).text()


def test_the_json_says_the_same_as_the_summary(account: Account) -> None:
    found = summary_of(account)
    document = json.loads(found.to_json())
    assert document == asdict(found)
    assert asdict(Summary(**document)) == document
    assert document["placement"]["actors"] == 2
    assert document["code_version"] == __version__


def test_outputs_and_notes_are_shown_up_to_a_bound_and_the_rest_is_counted() -> None:
    account = Account(committed=SHOWN + 5)
    for index in range(SHOWN + 5):
        account.finished([f"s3://out/video/{index}.mp4"], {})
    found = summary_of(account)
    assert len(found.outputs) == SHOWN
    assert "and 5 more" in found.text()


def test_no_secret_of_an_address_is_written(account: Account) -> None:
    secret = "https://user:hunter2@host/out"
    account.finished([f"{secret}/video/b.mp4"], {})
    found = summary_of(account, output=secret, in_quarantine=1)
    assert "hunter2" not in found.text()
    assert b"hunter2" not in found.to_json()
