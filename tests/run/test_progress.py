"""The display: numbers and time left; plain lines where nobody watches a terminal."""

from __future__ import annotations

import io
import re
import time

import pytest

from pipeline.run import progress
from pipeline.run.progress import Display, Tally


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def tally() -> Tally:
    return Tally(
        videos=4, videos_done=1, videos_quarantined=1, clips=20, clips_done=10, frames=600, clips_fresh=5,
        videos_probed=2, started=time.monotonic() - 60,
    )  # fmt: skip


def test_the_line_has_videos_clips_frames_rate_quarantine_and_time_left(tally: Tally) -> None:
    line = tally.line()
    for part in ("videos 1/4", "clips 10/20", "600 frames", "10.0/s", "quarantined 1", "6 min 00 s left"):
        assert part in line


def test_time_left_comes_from_this_sessions_rate_and_counts_videos_not_yet_seen(tally: Tally) -> None:
    # 20 clips in 2 of 4 videos: 40 in all, 10 done, 5 of them in the last minute; 30 to go at 5 a minute.
    assert tally.seconds_left() == pytest.approx(360, rel=0.01)
    tally.videos_probed = 4
    assert tally.seconds_left() == pytest.approx(120, rel=0.01)
    tally.clips_done = tally.clips
    assert tally.seconds_left() == 0


@pytest.mark.parametrize("field", ["clips_fresh", "clips", "videos"])
def test_before_anything_is_done_no_time_is_promised(field: str, tally: Tally) -> None:
    setattr(tally, field, 0)
    assert tally.seconds_left() is None
    assert "left" not in tally.line()


def test_an_empty_tally_can_be_shown() -> None:
    assert "videos 0/0" in Tally().line()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.7, "1 min 00 s"), (3599.9, "1 h 00 min"), (7380, "2 h 03 min")],
)
def test_spans_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert progress._span(seconds) == text


def test_elsewhere_than_on_a_terminal_lines_are_plain_and_spaced_out(
    tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    stream = io.StringIO()
    display = Display("interpolate", tally, stream)
    display.update()
    assert stream.getvalue() == ""
    now += 11
    display.log("quarantined: [a].mp4")
    display.update()
    display.update()
    assert stream.getvalue().splitlines() == ["quarantined: [a].mp4", f"interpolate: {tally.line()}"]
    display.close()
    assert stream.getvalue().splitlines()[2:] == [f"interpolate: {tally.line()}"]
    assert "\x1b" not in stream.getvalue()


def test_messages_do_not_silence_the_progress_lines(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    stream = io.StringIO()
    display = Display("interpolate", tally, stream)
    for _ in range(4):
        now += 6
        display.log("clip failed")
        display.update()
    assert sum("videos 1/4" in line for line in stream.getvalue().splitlines()) == 2


def test_on_a_terminal_the_display_is_live_and_what_is_logged_stays(
    tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    display = Display("[a] job", tally, stream)
    display.update()
    display.log("quarantined: [b]/c.mp4")
    display.close()
    shown = stream.getvalue()
    assert "\x1b[" in shown
    assert "[a] job" in shown, "brackets are text, not markup"
    assert "quarantined: [b]/c.mp4" in shown
    assert "clips 10/20" in shown


@pytest.mark.parametrize("width", [30, 45, 60, 79, 99, 100, 140])
def test_the_display_keeps_to_the_terminal_s_width(tally: Tally, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    stream = Terminal()
    display = Display("interpolate", tally, stream)
    display.update()
    display.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    live = [line for line in re.split(r"[\r\n]+", shown) if line.startswith("interpolate ")]
    assert live
    assert max(map(len, live)) <= width
    assert all("…" not in line and "videos 1/4" in line for line in live if width >= 45)
    assert all("6 min 00 s left" in line for line in live if width >= 140)
    assert all("0:00:0" in line for line in live), "and the time is there"


def test_what_matters_least_goes_first_where_there_is_no_room(tally: Tally) -> None:
    whole = tally.line()
    assert tally.line(len(whole)) == whole
    assert "left" not in tally.line(len(whole) - 1)
    assert tally.line(30) == "videos 1/4 · quarantined 1"
    assert tally.line(1) == "videos 1/4"
    tally.videos_quarantined = 0
    assert "quarantined" not in tally.line(len(tally.line()) - 1), "none is no news"
