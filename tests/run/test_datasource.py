from __future__ import annotations

from pathlib import Path

from pipeline.config import InterpolateConfig, load
from pipeline.plan.discover import discover
from pipeline.run.datasource import VideoSource
from pipeline.run.rows import Row, row_from
from pipeline.run.worker import RunContext
from pipeline.storage import Storage
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.types import VideoRef
from tests.media_factory import make_video


def _rows(context: RunContext, videos: list[VideoRef]) -> list[Row]:
    tasks = VideoSource(context, videos, resume=False).get_read_tasks(1)
    return [row_from(item.as_py()) for task in tasks for table in task() for item in table["item"]]


def test_an_object_deleted_between_listing_and_probing_is_that_video_s_failure_alone(tmp_path: Path) -> None:
    config = load(InterpolateConfig, None, ["model=blend", "clip.frames=4"])
    for name in ("a.mp4", "gone.mp4", "z.mp4"):
        (tmp_path / name).write_bytes(make_video(frames=8, options={"preset": "ultrafast"}))
    storage = Storage(config.retry)
    videos = [video for video in discover(str(tmp_path), config.input, storage) if isinstance(video, VideoRef)]
    (tmp_path / "gone.mp4").unlink()
    context = RunContext(InterpolateTask(config).on("cpu"), storage, str(tmp_path / "out"), "session", "fingerprint")
    rows = _rows(context, videos)
    assert [(row.video.name, row.kind) for row in rows] == [
        ("a.mp4", "clip"), ("a.mp4", "clip"), ("gone.mp4", "refused"), ("z.mp4", "clip"), ("z.mp4", "clip"),
    ]  # fmt: skip
    refusal = rows[2].refusal
    assert refusal is not None
    assert (refusal.stage, refusal.error_type, refusal.attempts) == ("read", "UnreadableVideo", 1)
    assert "gone.mp4: not found" in refusal.message
