"""Flow records as .flo and KITTI files: what other tools read is what was stored."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputNotFound
from pipeline.layout import Layout
from pipeline.records.commit import DataObject, VideoCommit, commit_video
from pipeline.records.flow import read_flow
from pipeline.records.flow_export import export
from pipeline.records.flow_files import read_flow_image
from pipeline.records.flow_schema import FlowRow
from pipeline.records.flow_writer import FlowFileWriter
from pipeline.storage import Storage
from tests.tasks.flow_support import task_of


def stored(folder: Path, scale: str = "1", largest: float = 30.0) -> str:
    """A run of one video of two frames, 9 × 14 px, with pixels that are not valid."""
    task = task_of("unused", f"stored_scale={scale}")
    layout, storage = Layout(str(folder)), Storage()
    noise = np.random.default_rng(0)
    valid = noise.random((9, 14)) < 0.8
    path = "flow/a.mp4.parquet"
    (folder / "flow").mkdir(parents=True)
    writer: FlowFileWriter = task.writer(folder / path)
    with writer:
        for index in range(2):
            flow = noise.uniform(-largest, largest, (2, 9, 14)).astype(np.float32)
            here, there = (flow, None) if index == 0 else (None, flow)
            writer.write(
                FlowRow(
                    video_uri="in/a.mp4", video_version="1", member="", video_id="a-1-1", shot=0, clip_id="c",
                    frame_index=index, pts=index, time_base=Fraction(1, 25), height=9, width=14,
                    previous_pts=0 if index else None, next_pts=None if index else 1, flow_forward=here,
                    flow_backward=there, validity_forward=None if here is None else valid,
                    validity_backward=None if there is None else valid, model="m", weights_sha256="w", iterations=1,
                    precision="fp32",
                )
            )  # fmt: skip
    data = DataObject(path=path, size=1, sha256="", frames=2)
    commit = VideoCommit(
        video_id="a-1-1", uri="in/a.mp4", version="1", name="day/a.mp4", status="ok", attempt="a", fingerprint="f",
        provenance={"task": "flow", "model": "m", "configuration": "c", "code_version": "0"},  # type: ignore[arg-type]
        outputs=(data,),
    )  # fmt: skip
    commit_video(storage, layout, commit)
    return str(folder)


def test_each_field_becomes_a_file_named_after_video_direction_and_frame(tmp_path: Path) -> None:
    output = stored(tmp_path / "out")
    done = export(output, str(tmp_path / "files"), "flo")
    assert (done.files, done.out_of_range) == (2, 0)
    first, second = read_flow(output)
    forward = read_flow_image(str(tmp_path / "files/day/a.mp4/forward/000000.flo"))
    backward = read_flow_image(str(tmp_path / "files/day/a.mp4/backward/000001.flo"))
    assert np.array_equal(forward.flow, first.flow_forward)  # type: ignore[arg-type]
    assert np.array_equal(backward.flow, second.flow_backward)  # type: ignore[arg-type]
    assert forward.known.all()


def test_pixels_that_are_not_valid_become_unknown_where_asked(tmp_path: Path) -> None:
    output = stored(tmp_path / "out")
    (first, _) = read_flow(output)
    for form, suffix in (("flo", "flo"), ("kitti", "png")):
        export(output, str(tmp_path / "files"), form, video="day/a.mp4", only_valid=True)  # type: ignore[arg-type]
        found = read_flow_image(str(tmp_path / f"files/day/a.mp4/forward/000000.{suffix}"))
        assert np.array_equal(found.known, first.validity_forward)  # type: ignore[arg-type]
        difference = np.abs(found.flow - first.flow_forward)[:, found.known]
        assert difference.max() <= 1 / 128


def test_motion_that_kitti_cannot_hold_is_unknown_and_counted(tmp_path: Path) -> None:
    output = stored(tmp_path / "out", largest=900)
    done = export(output, str(tmp_path / "files"), "kitti")
    found = [
        read_flow_image(str(tmp_path / f"files/day/a.mp4/{name}.png")) for name in ("forward/000000", "backward/000001")
    ]
    assert done.out_of_range == sum(int((~one.known).sum()) for one in found) > 20
    (first, _) = read_flow(output)
    assert np.array_equal(found[0].known, (np.abs(first.flow_forward) < 511.98).all(0))  # type: ignore[arg-type]


def test_smaller_fields_are_in_pixels_of_their_own_size(tmp_path: Path) -> None:
    output = stored(tmp_path / "out", scale="1/2")
    export(output, str(tmp_path / "files"), "flo")
    found = read_flow_image(str(tmp_path / "files/day/a.mp4/forward/000000.flo"))
    (first, _) = read_flow(output)
    assert found.flow.shape == (2, 5, 7)
    assert np.array_equal(found.flow, first.flow_forward / 2)  # type: ignore[operator]


def test_where_there_is_nothing_to_export_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound, match="nowhere"):
        export(str(tmp_path / "nowhere"), str(tmp_path / "files"), "flo")
    with pytest.raises(InputNotFound, match=r"b\.mp4"):
        export(stored(tmp_path / "out"), str(tmp_path / "files"), "flo", video="b.mp4")
