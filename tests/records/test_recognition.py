"""Recognition records: what is written comes back, anywhere; only commits count; rows that contradict are refused."""

from __future__ import annotations

import json
import tempfile
import uuid
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faster_coco_eval.core import mask as coco
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.errors import EncodeError, InputNotFound, RecordDamaged
from pipeline.layout import Layout
from pipeline.plan.key_frames import Carried
from pipeline.records import read_recognition, read_recognition_file
from pipeline.records.commit import Failure
from pipeline.records.joining import Grouped
from pipeline.records.recognition_schema import (
    Detections,
    RecognitionRecord,
    RecognitionRow,
    carried_columns,
    recognition_schema,
)
from pipeline.records.recognition_writer import concatenate
from pipeline.records.rle import VOID
from pipeline.storage import Storage
from tests.records.flow_samples import committed
from tests.records.recognition_samples import CLASSES, TICKS, detections, row, write_file

SETTINGS = [
    {"kind": "segmentation", "labels": "rle"}, {"kind": "segmentation", "labels": "png"},
    {"kind": "segmentation", "labels": "zstd"}, {"kind": "detection"},
]  # fmt: skip
MAPS = arrays.array_shapes(min_dims=2, max_dims=2, max_side=24)


@pytest.fixture(params=["local", "memory"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    return Layout(str(tmp_path / "out") if request.param == "local" else f"memory://{uuid.uuid4().hex}/out")


def same(record: RecognitionRecord, written: RecognitionRow) -> None:
    for name in ("video_uri", "video_version", "member", "video_id", "clip_id", "frame_index", "pts", "time_base",
                 "height", "width", "previous_pts", "is_key", "promoted", "key_pts", "gap", "side", "other_key_pts",
                 "flops", "model", "weights_sha256", "precision"):  # fmt: skip
        assert getattr(record, name) == getattr(written, name), name
    assert record.residual == (None if written.residual is None else np.float32(written.residual))
    assert record.share == np.float32(written.share)
    assert record.classes == CLASSES
    if written.labels is not None:
        assert record.kind == "segmentation"
        np.testing.assert_array_equal(record.labels, written.labels)
        assert record.detections is None
    else:
        assert record.kind == "detection"
        assert record.labels is None
        for name in ("boxes", "scores", "classes"):
            found, expected = getattr(record.detections, name), getattr(written.detections, name)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("stored", SETTINGS, ids=str)
def test_what_is_read_is_what_was_written(layout: Layout, tmp_path: Path, stored: dict[str, str]) -> None:
    storage = Storage()
    rows = [row(frame, kind=stored["kind"], starts=(0, 4)) for frame in range(9)]
    path = write_file(tmp_path / "a.parquet", rows, groups=Grouped(rows=4), **stored)
    committed(storage, layout, "a", [("recognition/a.mp4.parquet", path, 9, False)], task="recognize")
    records = list(read_recognition(layout.output, storage=storage))
    assert len(records) == 9
    for record, written in zip(records, rows, strict=True):
        same(record, written)
    (one,) = read_recognition(layout.output, "a.mp4", 5, storage=storage)
    same(one, rows[5])
    assert "pts 2560" in repr(one)


@settings(max_examples=30)
@given(
    arrays.arrays(np.uint8, MAPS, elements=st.sampled_from([0, 1, 4, VOID])), st.sampled_from(["rle", "png", "zstd"])
)
def test_any_label_map_comes_back(labels: np.ndarray, encoding: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / "a.parquet", [row(0, labels=labels)], labels=encoding)
        (record,) = read_recognition_file(str(path))
    assert record.labels is not None
    np.testing.assert_array_equal(record.labels, labels)
    record.labels[0, 0] = 3  # its own memory: it outlives the file


def test_reduced_label_maps_say_their_size_and_grow_to_the_frame(tmp_path: Path) -> None:
    small = np.array([[0, 1], [2, VOID]], np.uint8)
    path = write_file(tmp_path / "a.parquet", [row(0, labels=small, height=5, width=4)])
    (record,) = read_recognition_file(str(path))
    assert record.full_labels().tolist() == [[0, 0, 1, 1]] * 3 + [[2, 2, VOID, VOID]] * 2
    table = pq.read_table(path)
    assert (table["labels_height"][0].as_py(), table["labels_width"][0].as_py()) == (2, 2)


def test_the_files_open_without_our_code(tmp_path: Path) -> None:
    rows = [row(frame) for frame in range(3)]
    path = write_file(tmp_path / "s.parquet", rows)
    found = duckdb.sql(f"SELECT frame_index, unnest(segments, recursive := true) FROM '{path}' ORDER BY ALL").df()
    assert set(found["class_name"]) == {"sky", "road", "car"}
    first = found[(found.frame_index == 1) & (found.class_name == "car")].iloc[0]
    mask = coco.decode({"size": [24, 40], "counts": first["rle"].encode()})
    np.testing.assert_array_equal(mask, rows[1].labels == 2)
    assert first["area"] == mask.sum()
    path = write_file(tmp_path / "d.parquet", [row(f, kind="detection") for f in range(3)], kind="detection")
    frame = pd.read_parquet(path)
    assert [len(boxes) for boxes in frame["boxes"]] == [0, 1, 2]
    assert frame["class_names"][2][0] in CLASSES
    notes = pq.read_schema(path).metadata
    assert json.loads(notes[b"classes"]) == list(CLASSES)
    assert notes[b"coordinates"].startswith(b"px of the full frame")


def test_files_depend_on_their_rows_alone_and_clips_join_into_the_file_of_one_piece(tmp_path: Path) -> None:
    def made(name: str, frames: range) -> Path:
        # A clip knows no shots but its own, and counts them from 0.
        starts = [frame for frame in (0, 7, 30) if frame in frames]
        shots = {frame: sum(start <= frame for start in starts if start > frames.start) for frame in frames}
        return write_file(tmp_path / name, [row(f, starts=(0, 7, 30), shot=shots[f]) for f in frames])

    groups = Grouped(rows=8, bytes=600)
    outputs = []
    for number, cut in enumerate(([50], [10, 20, 30, 40, 50], [1, 7, 50], [49, 50])):
        parts = [made(f"{number}-{end}", range(start, end)) for start, end in zip([0, *cut], cut, strict=False)]
        (file,) = concatenate(parts, tmp_path / f"{number}.parquet", groups)
        assert (file.rows, file.bytes) == (50, file.path.stat().st_size)
        outputs.append(file.path.read_bytes())
    assert len({*outputs}) == 1
    shots = [record.shot for record in read_recognition_file(str(tmp_path / "0.parquet"))]
    assert shots == [0] * 7 + [1] * 23 + [2] * 20
    sizes = [pq.ParquetFile(tmp_path / "0.parquet").metadata.row_group(g).num_rows for g in range(7)]
    assert max(sizes) <= 8


def test_long_outputs_are_split_and_one_frame_is_found_in_the_right_file(layout: Layout, tmp_path: Path) -> None:
    storage = Storage()
    rows = [row(frame) for frame in range(60)]
    part = write_file(tmp_path / "part.parquet", rows)
    files = list(concatenate([part], tmp_path / "a.parquet", Grouped(rows=5), file_bytes=2000))
    assert len(files) >= 3
    assert sum(file.rows for file in files) == 60
    outputs = [(f"recognition/a.{n}.parquet", file.path, file.rows, False) for n, file in enumerate(files)]
    committed(storage, layout, "a", outputs, task="recognize")
    for wanted in ([0], [59], [7, 31, 55], range(10, 50)):
        records = list(read_recognition(layout.output, "a.mp4", wanted, storage=storage))
        assert [record.frame_index for record in records] == list(wanted)
    with pytest.raises(InputNotFound, match="1 of the 2 frames asked for"):
        list(read_recognition(layout.output, "a.mp4", [59, 60], storage=storage))


def test_videos_that_share_a_file_are_told_apart(layout: Layout, tmp_path: Path) -> None:
    storage = Storage()
    rows = [*(row(f, video="a") for f in range(3)), *(row(f, video="b") for f in range(4))]
    path = write_file(tmp_path / "g.parquet", rows)
    for video in ("a", "b"):
        committed(storage, layout, video, [("recognition/group-0.parquet", path, 7, True)], task="recognize")
    found = list(read_recognition(layout.output, "s3://in/b.mp4", storage=storage))
    assert [(record.video_id, record.frame_index) for record in found] == [("b-id", f) for f in range(4)]
    assert len(list(read_recognition(layout.output, storage=storage))) == 7


def test_what_no_commit_names_and_what_is_none_of_recognition_is_not_found(layout: Layout, tmp_path: Path) -> None:
    storage = Storage()
    path = write_file(tmp_path / "a.parquet", [row(0)])
    storage.put_file(path, layout.uri("recognition/orphan.parquet"))
    with pytest.raises(InputNotFound, match=r"jobs/recognize\.py"):
        list(read_recognition(layout.output, storage=storage))
    committed(storage, layout, "a", [("flow/a.parquet", path, 1, False)], task="flow")
    with pytest.raises(InputNotFound, match="'flow'; recognition records are made by"):
        list(read_recognition(layout.output, storage=storage))


def test_a_failed_video_is_named_with_its_reason(layout: Layout) -> None:
    storage = Storage()
    failure = Failure(stage="decode", error_type="CorruptVideo", message="broken at 3")
    committed(storage, layout, "a", [], task="recognize", failure=failure)
    with pytest.raises(InputNotFound, match="has no recognition records, because it failed"):
        list(read_recognition(layout.output, "a.mp4", storage=storage))


def test_damage_is_reported_with_its_place(tmp_path: Path) -> None:
    for stored in SETTINGS[:3]:
        path = write_file(tmp_path / f"{stored['labels']}.parquet", [row(0)], **stored)
        table = pq.read_table(path)
        name = "segments" if stored["labels"] == "rle" else "label_map"
        if name == "segments":
            broken = [{**one, "rle": "1" + one["rle"]} for one in table[name][0].as_py()]
        else:
            broken = table[name][0].as_py()[:-9]
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        changed = table.set_column(place, field, pa.array([broken], field.type))
        pq.write_table(changed, tmp_path / "broken.parquet")
        with pytest.raises(RecordDamaged, match="frame 0 of a-id"):
            list(read_recognition_file(str(tmp_path / "broken.parquet")))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(RecordDamaged, match="no file of recognition records; its columns are x"):
        list(read_recognition_file(str(tmp_path / "other.parquet")))
    with pytest.raises(RecordDamaged, match=r"no file of motionmill\.recognition"):
        list(concatenate([tmp_path / "other.parquet"], tmp_path / "out.parquet"))


def test_files_of_different_classes_do_not_join(tmp_path: Path) -> None:
    first = write_file(tmp_path / "1.parquet", [row(0)])
    second = write_file(tmp_path / "2.parquet", [row(1)], classes=(*CLASSES, "more"))
    with pytest.raises(RecordDamaged, match="join like with like"):
        list(concatenate([first, second], tmp_path / "out.parquet"))


def one_box(corner: float, class_id: int) -> RecognitionRow:
    boxes, scores = np.full((1, 4), corner, np.float32), np.ones(1, np.float32)
    return row(0, kind="detection", detections=Detections(boxes, scores, np.full(1, class_id, np.int32)))


@pytest.mark.parametrize(
    ("kind", "made", "reason"),
    [
        ("segmentation", row(0, labels=np.full((2, 2), 5, np.uint8)), "label 5 is none of the 5 classes"),
        ("segmentation", row(0, kind="detection"), "does not belong into a table of segmentation"),
        ("detection", row(0), "does not belong into a table of detection"),
        ("detection", one_box(np.nan, 0), "not finite"),
        ("detection", one_box(1, 7), "class 7"),
    ],
)
def test_results_that_cannot_be_right_are_refused_with_their_frame(
    tmp_path: Path, kind: str, made: RecognitionRow, reason: str
) -> None:
    with pytest.raises(EncodeError, match=rf"a\.mp4 frame 0: .*{reason}") as caught:
        write_file(tmp_path / "a.parquet", [made], kind=kind)
    assert caught.value.pts == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_key": True}, "side='before'"),
        ({"side": "after"}, "side='after'"),
        ({"side": "both"}, "side='both'"),
        ({"side": "left"}, "side='left'"),
        ({"gap": 0}, "gap=0"),
        ({"residual": float("nan")}, "residual=nan"),
        ({"share": 0.0}, "share=0"),
        ({"labels": None}, "give labels, or detections"),
        ({"detections": detections(1)}, "give labels, or detections"),
        ({"labels": np.zeros((25, 40), np.uint8)}, "at most 24 x 40"),
        ({"labels": np.zeros((24, 40), np.int32)}, "int32"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        row(3, **changes)


def test_the_schema_and_detections_refuse_what_they_cannot_hold() -> None:
    with pytest.raises(ValueError, match="different names"):
        recognition_schema("segmentation", ["a", "a"])
    with pytest.raises(ValueError, match="256 classes"):
        recognition_schema("segmentation", [str(n) for n in range(256)])
    with pytest.raises(ValueError, match="kind='depth'"):
        recognition_schema("depth", ["a"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"boxes is float32 \[2, 4\]"):
        Detections(np.zeros((2, 4), np.float32), np.zeros(1, np.float32), np.zeros(1, np.int32))
    assert len(Detections.none()) == 0


def test_a_schedule_becomes_the_columns_that_say_where_features_came_from() -> None:
    pts = [frame * TICKS for frame in range(9)]
    for carried in (
        Carried(4, 4, 0.0, promoted=True), Carried(3, 1, 0.25), Carried(3, 7, None), Carried(3, 1, 0.1, 7, 0.75),
    ):  # fmt: skip
        made = row(carried.frame, **carried_columns(carried, pts))
        assert (made.side, made.gap, made.is_key) == (carried.side, carried.gap, carried.is_key)
        assert made.key_pts == carried.key * TICKS
        assert made.other_key_pts == (None if carried.other is None else carried.other * TICKS)
