"""Features carried by flow records that are there already: a pan whose flow is known, and records that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.dff import DeepFeatureFlow
from models.dff.bundle import Bundle
from pipeline.errors import ConfigError, UnsupportedVideo
from pipeline.layout import Layout
from pipeline.plan.key_frames import Carried
from pipeline.records.commit import DataObject, Provenance, VideoCommit, commit_video, identity, new_attempt
from pipeline.records.recognition_schema import RecognitionRecord
from pipeline.records.session import open_run
from pipeline.storage import Storage
from pipeline.tasks.recognize import RecognizeTask
from pipeline.tasks.recognize_flow import path_of
from tests.media_factory import RGB, make_video
from tests.models.test_dff_protocol import Brightness, moved_by
from tests.records.flow_samples import flow_row, write_file
from tests.tasks.clip_support import probed
from tests.tasks.recognize_support import records, task_of

SPEED = 6  # px to the right a frame: no whole cell of 8 px, until the fourth
FRAMES = 9
SIZE = (160, 64)
SETS = ("key_frames.budget=1/9", "key_frames.window=9", "key_frames.promote_above=null", "cuts.detect=false")


def standing() -> Bundle:
    """A network whose own flow says that nothing moves."""
    model = DeepFeatureFlow(Brightness(), moved_by(0, 0))  # type: ignore[arg-type]
    return Bundle(model, "segmentation", ("red", "green", "blue"))


def panned(index: int, width: int, height: int) -> RGB:
    """Broad stripes of pure colour that move to the right."""
    columns = (np.arange(width) - SPEED * index) // 32 % 3
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, np.arange(width), columns] = 220
    return picture


VIDEO = make_video(frames=FRAMES, image=panned, size=SIZE, options={"crf": "4"})


def write_flow(folder: Path, task: RecognizeTask, **changes: Any) -> str:
    """A flow run's output for VIDEO, its motion known."""
    layout, storage = Layout(str(folder)), Storage()
    open_run(storage, layout, {"task": "flow"})
    video, info = probed(VIDEO, task)
    still = np.zeros((2, SIZE[1], SIZE[0]), np.float32)
    right = still.copy()
    right[0] = SPEED
    valid = np.ones(SIZE[::-1], bool)
    rows = [
        flow_row(
            frame, count=FRAMES, size=SIZE[::-1], video_id=video.video_id, time_base=info.time_base,
            **{
                "pts": info.pts[frame],
                "flow_forward": None if frame == FRAMES - 1 else right, "flow_backward": None if frame == 0 else -right,
                "validity_forward": None if frame == FRAMES - 1 else valid,
                "validity_backward": None if frame == 0 else valid,
            } | changes,
        )
        for frame in range(FRAMES)
    ]  # fmt: skip
    size = storage.put_file(write_file(folder / "rows.parquet", rows), layout.uri("flow/a.parquet")).size
    outputs = (DataObject(path="flow/a.parquet", size=size, sha256="00", frames=FRAMES),)
    commit = VideoCommit(
        **identity(video), attempt=new_attempt(), status="ok", failure=None, fingerprint="f",
        time_base=str(info.time_base), outputs=outputs,
        provenance=Provenance(task="flow", model="m", configuration="c", code_version="0"),
    )  # fmt: skip
    commit_video(storage, layout, commit)
    return str(folder)


def recognised(folder: Path, *sets: str) -> list[RecognitionRecord]:
    task = task_of("python:tests.tasks.test_recognize_flow:standing", *SETS, *sets).on("cpu")
    return records(task, VIDEO, folder)


@pytest.fixture
def flow(tmp_path: Path) -> str:
    return write_flow(tmp_path / "flow", task_of("python:tests.tasks.test_recognize_flow:standing", *SETS))


@pytest.mark.parametrize("schedule", ["fixed", "lookahead"])
def test_features_follow_a_known_pan_through_several_neighbours(tmp_path: Path, flow: str, schedule: str) -> None:
    sets = (f"key_frames.schedule={schedule}",)
    truth = recognised(tmp_path / "truth", "key_frames.budget=1")
    carried = recognised(tmp_path / "carried", *sets, "flow=records", f"records.output={flow}")
    unmoved = recognised(tmp_path / "unmoved", *sets)
    gaps = [record.gap for record in carried]
    assert max(gaps) >= 4
    assert [record.is_key for record in carried] == [record.is_key for record in unmoved]
    inner = (slice(None), slice(56, SIZE[0] - 56))  # what has come into view since, no key frame has
    for one, other, still in zip(truth, carried, unmoved, strict=True):
        assert one.labels is not None
        assert other.labels is not None
        assert still.labels is not None
        right = (one.labels == other.labels)[inner].mean()
        assert right > 0.8, f"frame {one.frame_index}, {other.gap} from its key frame"
        if other.gap in (3, 4, 5):
            assert right > (one.labels == still.labels)[inner].mean() + 0.2
    assert all(record.flops == 0 for record in carried if not record.is_key), "nothing is computed"


def test_records_do_not_depend_on_how_the_video_is_cut_into_clips(tmp_path: Path, flow: str) -> None:
    sets = ("flow=records", f"records.output={flow}")
    whole = recognised(tmp_path / "whole", *sets, "clip.frames=1000")
    parts = recognised(tmp_path / "parts", *sets, "clip.frames=2")
    assert all((a.labels == b.labels).all() for a, b in zip(whole, parts, strict=True))  # type: ignore[union-attr]


def test_a_video_without_records_or_with_others_is_quarantined(tmp_path: Path) -> None:
    task = task_of("python:tests.tasks.test_recognize_flow:standing", *SETS)
    for name, changes, says in (
        ("times", {"pts": 77}, "its flow record at 77"),
        ("sides", {"flow_backward": None, "validity_backward": None, "confidence_backward": None}, "no backward flow"),
    ):
        output = write_flow(tmp_path / name, task, **changes)
        with pytest.raises(UnsupportedVideo, match=says) as caught:
            recognised(
                tmp_path / f"{name}-out", "flow=records", f"records.output={output}", "key_frames.schedule=fixed"
            )
        assert caught.value.stage == "flow"
    open_run(Storage(), Layout(str(tmp_path / "empty")), {"task": "flow"})
    with pytest.raises(UnsupportedVideo, match=r"run jobs/flow\.py on the same input first"):
        recognised(tmp_path / "empty-out", "flow=records", f"records.output={tmp_path / 'empty'}")


def test_what_is_no_flow_run_is_refused_before_any_work(tmp_path: Path, flow: str) -> None:
    named = "python:tests.tasks.test_recognize_flow:standing"
    with pytest.raises(ConfigError, match=r"no run of jobs/flow\.py there"):
        task_of(named, "flow=records", f"records.output={tmp_path / 'nothing'}").fingerprint()
    open_run(Storage(), Layout(str(tmp_path / "other")), {"task": "interpolate"})
    with pytest.raises(ConfigError, match="of the task 'interpolate'"):
        task_of(named, "flow=records", f"records.output={tmp_path / 'other'}").fingerprint()
    with pytest.raises(ConfigError, match=r"records\.output"):
        task_of(named, "flow=records")
    with pytest.raises(ConfigError, match=r"records\.output"):
        task_of(named, f"records.output={flow}")
    document = task_of(named, "flow=records", f"records.output={flow}").fingerprint()
    assert len(document["flow.run"]) == 64


def test_the_way_to_a_key_frame_goes_from_neighbour_to_neighbour() -> None:
    assert path_of(Carried(5, 2, 0.0), 2) == [(5, -1), (4, -1), (3, -1)]
    assert path_of(Carried(5, 7, 0.0), 7) == [(5, 1), (6, 1)]
    assert path_of(Carried(5, 5, 0.0), 5) == []
