"""What a run does at its end, and leaves undone where there was nothing to do: tried without machines."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.layout import Layout
from pipeline.records import quarantine
from pipeline.storage import Storage
from tests.scale.simulation import CLIPS, OUTPUT, CountingStore, simulate

LAYOUT = Layout(OUTPUT)


class Reports:
    """Stands for pipeline.report: remembers which videos it was asked to show."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.shown: list[set[str]] = []
        patch.setattr("pipeline.report.write", self.write)

    def write(self, storage: Storage, layout: Layout, recent: Any) -> str:
        self.shown.append(set(recent))
        storage.put(layout.report, b"<html>")
        return layout.report


def _again(store: CountingStore, patch: pytest.MonkeyPatch, videos: int) -> CountingStore:
    """Runs with so many videos in the input, over what the store has seen."""
    for number in range(videos):
        store.put(f"sim://bucket/in/{number:06d}.mp4", b"video")
    simulate(0, patch, store, report=True)
    return store


def test_the_report_is_of_what_the_session_did_and_stays_where_it_did_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = Reports(monkeypatch)
    store = simulate(3 * CLIPS, monkeypatch, report=True).store
    assert len(reports.shown[0]) == 3
    _again(store, monkeypatch, 3)
    assert len(reports.shown) == 1
    assert "report.html (of the last run that had something to do)" in capsys.readouterr().out
    _again(store, monkeypatch, 5)
    assert len(reports.shown[1]) == 2
    assert not reports.shown[0] & reports.shown[1]
    store.delete([LAYOUT.report])
    _again(store, monkeypatch, 5)
    assert reports.shown[2:] == [set()], "one that is missing is made"


def test_the_accounts_are_made_anew_after_a_session_that_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    Reports(monkeypatch)
    store = simulate(2 * CLIPS, monkeypatch, report=True).store
    store.delete([LAYOUT.quarantine])
    _again(store, monkeypatch, 2)
    assert quarantine.read(Storage(), LAYOUT).num_rows == 0, "a table that is missing is made"
    store.put(LAYOUT.quarantine, b"what a lost session did not replace")
    store.put(LAYOUT.begun("20200101T000000-lost"), b"{}")
    _again(store, monkeypatch, 2)
    assert quarantine.read(Storage(), LAYOUT).num_rows == 0
    assert not [info.uri for info in Storage().list(LAYOUT.all_attempts)]
