"""The worker's account of a clip: when it was done, how long each part took, and how fast the model is alone."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import InterpolateConfig, load
from pipeline.plan.discover import discover
from pipeline.run import scratch
from pipeline.run.datasource import plan_video
from pipeline.run.rows import Receipt, receipt_from, to_table
from pipeline.run.speed import Clock
from pipeline.run.worker import ClipWorker, Pace, RunContext
from pipeline.storage import Storage
from pipeline.tasks.base import ClipOutput
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.types import VideoRef
from tests.media_factory import make_video


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    config = load(InterpolateConfig, None, ["model=blend", "clip.frames=12", "encode.preset=ultrafast"])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(make_video(frames=36))
    return RunContext(InterpolateTask(config).on("cpu"), Storage(config.retry), str(tmp_path / "out"), "session", "f")


def receipts_of(worker: ClipWorker, context: RunContext) -> list[Receipt]:
    source = str(Path(context.output).parent / "in")
    (video,) = discover(source, context.task.config.input, context.storage)
    assert isinstance(video, VideoRef)
    tables = [worker(to_table(row)) for row in plan_video(context, video, resume=False)]
    return [receipt_from(table["item"][0].as_py()) for table in tables]


def test_a_worker_begins_by_deleting_what_killed_ones_left(context: RunContext, tmp_path: Path) -> None:
    task = InterpolateTask(load(InterpolateConfig, None, ["model=blend", f"resources.scratch={tmp_path}"])).on("cpu")
    with scratch.folder(str(tmp_path)) as held:
        left = held.with_name(f"{held.name}-left")
        left.mkdir()
        (left / "clip.mp4").write_bytes(b"half")
        ClipWorker(replace(context, task=task), "cpu", 1)
        assert held.is_dir()
        assert not left.exists()


def test_a_receipt_says_when_and_how_long(context: RunContext) -> None:
    began = time.time()
    receipts = receipts_of(ClipWorker(context, "cpu", 1), context)
    ended = time.time()
    assert [(receipt.status, receipt.rows, receipt.tries) for receipt in receipts] == [("ok", 24, 1)] * 3
    for receipt in receipts:
        times = receipt.times
        assert times is not None
        assert began - 0.01 <= times.born <= times.ready <= times.began <= ended + 0.01
        assert 0 < times.first_s < times.span_s <= ended - began
        assert 0 < times.after_s < times.span_s
        assert times.span_s >= receipt.seconds["total"] - 0.001, "upload and commit included"
        assert times.work == 11 * 64 * 48 or times.work == 12 * 64 * 48
    assert len({receipt.times.worker for receipt in receipts if receipt.times}) == 1
    bare = [receipt.times.bare for receipt in receipts if receipt.times]
    assert bare[0][0] > 0, "the model was timed alone in the first clip"
    assert bare[0][1] > 0
    assert bare[1:] == [(0, 0)] * 2
    clock = Clock()
    for receipt in receipts:
        clock.add(receipt)
    speed = clock.speed(1, began, ended)
    assert speed is not None
    assert speed.calibrated
    assert sum(speed.shares.values()) == pytest.approx(1, abs=1e-3)


def test_tries_are_counted(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = ClipWorker(context, "cpu", 1)
    process, failures = worker._processor.process, iter([True, False, False, False])

    def unlucky(*arguments: object) -> ClipOutput:
        if next(failures):
            raise MemoryError("no room")
        return process(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(worker._processor, "process", unlucky)
    assert [receipt.tries for receipt in receipts_of(worker, context)] == [2, 1, 1]


def test_signs_of_life_are_passed_on_and_timed() -> None:
    seen: list[str] = []
    pace = Pace(seen.append)
    time.sleep(0.02)
    pace("decode")
    time.sleep(0.02)
    pace("model")
    pace("decode")
    time.sleep(0.02)
    whole, first, after = pace.ended()
    assert seen == ["decode", "model", "decode"]
    assert 0.02 <= first <= whole - 0.04
    assert 0.02 <= after <= whole - 0.04
    whole, first, after = Pace(seen.append).ended()
    assert first == whole, "a clip of which nothing was decoded"
    assert after == 0
