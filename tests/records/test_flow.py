from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputNotFound, ObjectNotFound, RecordDamaged
from pipeline.layout import Layout
from pipeline.records import read_flow, read_flow_file
from pipeline.records.commit import Failure
from pipeline.records.flow import Directions
from pipeline.records.flow_schema import FlowRecord, FlowRow, flow_schema
from pipeline.records.flow_writer import concatenate
from pipeline.storage import Storage
from tests.records.flow_samples import TIME_BASE, committed, flow_row, write_file

FRAME_INDEX = flow_schema("pcodec").get_field_index("frame_index")


class Counting(Storage):
    """Notes what is read, range by range."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[str, int, int]] = []

    def read_range(self, uri: str, start: int, end: int, *, version: str | None = None) -> bytes:
        self.ranges.append((uri.rpartition("/")[2], start, end))
        return super().read_range(uri, start, end, version=version)


@pytest.fixture(params=["local", "memory"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Layout]:
    if request.param == "local":
        yield Layout(str(tmp_path / "out"))
    else:
        yield Layout(f"memory://{uuid.uuid4().hex}/out")


def same(record: FlowRecord, row: FlowRow, bound: float = 1 / 64) -> None:
    """The record says what the row said."""
    for name in ("video_uri", "video_version", "video_id", "clip_id", "frame_index", "pts", "time_base", "previous_pts",
                 "next_pts", "height", "width", "model", "weights_sha256", "iterations", "precision"):  # fmt: skip
        assert getattr(record, name) == getattr(row, name), name
    for name in ("flow_forward", "flow_backward", "confidence_forward", "confidence_backward"):
        found, given = getattr(record, name), getattr(row, name)
        assert (found is None) == (given is None)
        if given is not None:
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, given, rtol=0, atol=bound)
    for name in ("validity_forward", "validity_backward"):
        np.testing.assert_array_equal(getattr(record, name), getattr(row, name))


def split_video(
    layout: Layout, storage: Storage, tmp_path: Path, frames: int = 40, size: tuple[int, int] = (24, 40)
) -> list[FlowRow]:
    """Video "a", in files of some row groups each, committed; beside it an orphan of a lost try."""
    rows = [flow_row(frame, count=frames, size=size) for frame in range(frames)]
    part = write_file(tmp_path / "part.parquet", rows)
    files = list(concatenate([part], tmp_path / "a.parquet", row_group_rows=2, file_bytes=part.stat().st_size // 4))
    assert len(files) >= 3
    outputs = [(f"flow/a.mp4.{n}.parquet", file.path, file.rows, False) for n, file in enumerate(files)]
    storage.put_file(part, layout.uri("flow/orphan.parquet"))
    committed(storage, layout, "a", outputs)
    return rows


@pytest.mark.parametrize("codec", ["pcodec", "none"])
def test_what_is_read_is_what_was_written(layout: Layout, tmp_path: Path, codec: str) -> None:
    storage = Storage()
    rows = [flow_row(frame, count=6, starts=(0, 3)) for frame in range(6)]
    path = write_file(tmp_path / "a.parquet", rows, codec=codec, row_group_rows=4)
    committed(storage, layout, "a", [("flow/a.mp4.parquet", path, 6, False)])
    records = list(read_flow(layout.output, storage=storage))
    assert len(records) == 6
    for record, row in zip(records, rows, strict=True):
        same(record, row, 0 if codec == "none" else 1 / 64)
        assert (record.codec, record.max_error_px) == (codec, 0 if codec == "none" else 1 / 64)
        assert (record.stored_scale, record.stored_height, record.stored_width) == (1, 24, 40)
    assert [record.direction for record in records] == ["forward", "both", "backward", "forward", "both", "backward"]
    assert records[0].time_base == TIME_BASE
    assert repr(records[0]).endswith("frame 0, pts 0, flow_forward=[2, 24, 40], flow_backward=None)")


def test_one_frame_of_a_long_video_costs_its_files_footer_and_its_row_group(tmp_path: Path) -> None:
    layout, storage = Layout(f"memory://{uuid.uuid4().hex}"), Counting()
    rows = split_video(layout, storage, tmp_path, size=(192, 320))
    sizes = {info.uri.rpartition("/")[2]: info.size for info in storage.list(layout.uri("flow"))}
    storage.ranges.clear()
    (record,) = read_flow(layout.output, "a.mp4", 21, storage=storage)
    same(record, rows[21])
    ranges = list(storage.ranges)
    (name,) = {name for name, *_ in ranges}
    metadata = pq.ParquetFile(storage.open(layout.uri(f"flow/{name}"))).metadata
    starts = [metadata.row_group(n).column(0).dictionary_page_offset for n in range(metadata.num_row_groups)]
    footer = sizes[name] - metadata.serialized_size - 8
    frames = [metadata.row_group(n).column(FRAME_INDEX).statistics.min for n in range(metadata.num_row_groups)]
    group = max(n for n, first in enumerate(frames) if first <= 21)
    low, high = starts[group], [*starts, footer][group + 1]
    needed = (high - low) + (sizes[name] - footer)
    assert any(start <= low < end for _, start, end in ranges)
    # pyarrow reads the last 64 KiB for the footer.
    assert len(ranges) <= 3
    assert sum(end - start for _, start, end in ranges) <= needed + (64 << 10)
    assert sizes[name] > 2 * (needed + (64 << 10)), "or it proves little"


def test_only_the_row_groups_asked_for_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_file(tmp_path / "a.parquet", map(flow_row, range(20)), row_group_rows=2)
    read: list[int] = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, n, *a, **k: (read.append(n), original(self, n, *a, **k))[1]
    )
    found = [record.frame_index for record in read_flow_file(str(path), frames=(17, 3, 2, 17))]
    assert found == [2, 3, 17]
    assert read == [1, 8]


@pytest.mark.parametrize("codec", ["pcodec", "none"])
@pytest.mark.parametrize("asked", ["forward", "backward"])
def test_one_direction_costs_half_and_leaves_the_other_out(tmp_path: Path, codec: str, asked: Directions) -> None:
    layout, storage = Layout(f"memory://{uuid.uuid4().hex}"), Counting()
    rows = [flow_row(frame, count=3, size=(480, 640)) for frame in range(3)]
    path = write_file(tmp_path / "a.parquet", rows, codec=codec, row_group_rows=1)
    committed(storage, layout, "a", [("flow/a.mp4.parquet", path, 3, False)])
    metadata = pq.ParquetFile(path).metadata
    columns = [metadata.row_group(1).column(n) for n in range(metadata.num_columns)]
    fields = {
        way: sum(one.total_compressed_size for one in columns if one.path_in_schema.split(".")[0].endswith(f"_{way}"))
        for way in ("forward", "backward")
    }
    other = "backward" if asked == "forward" else "forward"
    fetched = {}
    for directions in ("both", asked):
        storage.ranges.clear()
        (record,) = read_flow(layout.output, "a.mp4", 1, directions=directions, storage=storage)
        fetched[directions] = sum(end - start for _, start, end in storage.ranges)
        assert (record.direction, record.previous_pts, record.next_pts) == (
            "both",
            rows[1].previous_pts,
            rows[1].next_pts,
        )
        for name in ("flow", "validity", "confidence"):
            left_out = directions == asked
            assert (getattr(record, f"{name}_{other}") is None) == left_out
            np.testing.assert_allclose(
                getattr(record, f"{name}_{asked}"), getattr(rows[1], f"{name}_{asked}"), rtol=0, atol=1 / 64
            )
    assert fetched["both"] - fetched[asked] >= fields[other]
    assert fetched[asked] < fields[asked] + (80 << 10), "the footer, the small columns, and nothing else"


def test_damage_in_the_direction_that_is_not_asked_for_is_not_met(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.parquet", [flow_row(1)])
    column = next(
        one
        for n in range(99)
        if (one := pq.ParquetFile(path).metadata.row_group(0).column(n)).path_in_schema == "flow_backward"
    )
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    (record,) = read_flow_file(str(path), directions="forward")
    same_forward = record.flow_forward
    assert same_forward is not None
    with pytest.raises(RecordDamaged):
        list(read_flow_file(str(path)))
    with pytest.raises(ValueError, match="directions='up': one of both, forward, backward"):
        read_flow_file(str(path), directions="up")  # type: ignore[arg-type]


def test_videos_are_found_by_name_uri_and_id(layout: Layout, tmp_path: Path) -> None:
    storage = Storage()
    for video in ("a", "b"):
        path = write_file(tmp_path / f"{video}.parquet", [flow_row(frame, video=video) for frame in range(3)])
        committed(storage, layout, video, [(f"flow/{video}.mp4.parquet", path, 3, False)])
    for name in ("b.mp4", "s3://in/b.mp4", "b-id", "s3://in/b.mp4#"):
        assert {record.video_id for record in read_flow(layout.output, name, storage=storage)} == {"b-id"}
    assert [record.video_id for record in read_flow(layout.output, storage=storage)] == ["a-id"] * 3 + ["b-id"] * 3
    assert [record.video_id for record in read_flow(layout.output, frames=1, storage=storage)] == ["a-id", "b-id"]
    with pytest.raises(InputNotFound, match=r"no finished video 'c\.mp4'; it has a\.mp4, b\.mp4"):
        list(read_flow(layout.output, "c.mp4", storage=storage))


def test_frames_that_are_not_there_are_named_after_those_that_are(tmp_path: Path) -> None:
    layout, storage = Layout(str(tmp_path / "out")), Storage()
    split_video(layout, storage, tmp_path)
    assert [r.frame_index for r in read_flow(layout.output, "a.mp4", range(5, 40, 9))] == [5, 14, 23, 32]
    assert [r.frame_index for r in read_flow(layout.output, "a.mp4", range(32, 4, -9))] == [5, 14, 23, 32]
    assert list(read_flow(layout.output, "a.mp4", [])) == []
    reading = read_flow(layout.output, "a.mp4", [39, 40, 10**12])
    assert next(reading).frame_index == 39
    with pytest.raises(InputNotFound, match=r"a\.mp4: 2 of the 3 frames .*it has frames 0 to 39"):
        next(reading)
    with pytest.raises(InputNotFound, match="frame -1"):
        next(read_flow(layout.output, "a.mp4", -1))


def test_of_a_shared_file_only_the_committed_videos_rows_are_seen(layout: Layout, tmp_path: Path) -> None:
    storage = Storage()
    parts = [
        write_file(tmp_path / f"{video}.parquet", [flow_row(frame, video=video, count=4) for frame in range(4)])
        for video in "abc"
    ]
    (group,) = concatenate(parts, tmp_path / "group.parquet")
    for video in "ac":
        committed(storage, layout, video, [("flow/group-000000.parquet", group.path, 12, True)])
    records = list(read_flow(layout.output, storage=storage))
    assert [record.video_id for record in records] == ["a-id"] * 4 + ["c-id"] * 4
    same(records[5], flow_row(1, video="c", count=4))
    with pytest.raises(InputNotFound, match="1 of the 1 frames"):
        list(read_flow(layout.output, "c.mp4", 4, storage=storage))
    assert [r.frame_index for r in read_flow_file(str(group.path), "b-id", 2)] == [2]
    with pytest.raises(InputNotFound, match="no video 'z', but a-id, b-id, c-id"):
        list(read_flow_file(str(group.path), "z"))


def test_rows_that_move_into_a_shared_file_while_they_are_read_are_read_on(tmp_path: Path) -> None:
    layout, storage = Layout(str(tmp_path / "out")), Storage()
    rows = [flow_row(frame, count=6) for frame in range(6)]
    files = [write_file(tmp_path / f"{n}.parquet", rows[3 * n : 3 * n + 3]) for n in (0, 1)]
    commit = committed(storage, layout, "a", [(f"flow/{n}.parquet", path, 3, False) for n, path in enumerate(files)])
    reading = read_flow(layout.output, "a.mp4")
    got = [next(reading), next(reading)]
    (group,) = concatenate(files, tmp_path / "g.parquet")
    storage.put_file(group.path, layout.uri("flow/group.parquet"))
    moved = commit.outputs[0].model_copy(update={"path": "flow/group.parquet", "frames": 6, "shared": True})
    storage.put(layout.video_commit("a-id"), commit.model_copy(update={"outputs": (moved,)}).to_json())
    storage.delete_many(layout.uri(data.path) for data in commit.outputs)
    got += list(reading)
    assert [record.frame_index for record in got] == list(range(6))
    storage.delete(layout.uri("flow/group.parquet"))
    with pytest.raises(ObjectNotFound, match=r"group\.parquet"):
        list(read_flow(layout.output, "a.mp4"))


def test_failed_videos_other_tasks_and_empty_places_say_so(tmp_path: Path) -> None:
    layout, storage = Layout(str(tmp_path / "out")), Storage()
    with pytest.raises(InputNotFound, match=r"out: no run's output"):
        list(read_flow(layout.output))
    storage.put(layout.run, b"{}")
    assert list(read_flow(layout.output)) == []
    failure = Failure(stage="decode", error_type="CorruptVideo", message="bits")
    committed(storage, layout, "a", [], failure=failure)
    assert list(read_flow(layout.output)) == []
    with pytest.raises(InputNotFound, match=r"a\.mp4: has no flow records, because it failed \(decode: bits\)"):
        list(read_flow(layout.output, "a.mp4"))
    committed(storage, layout, "b", [], task="interpolate")
    with pytest.raises(InputNotFound, match="task 'interpolate'"):
        list(read_flow(layout.output, "b-id"))


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.parquet", map(flow_row, range(4)))
    data = bytearray(path.read_bytes())
    at = data.index(b"MMF1", data.index(b"MMF1") + 4) + 200
    data[at] ^= 1
    path.write_bytes(data)
    reading = read_flow_file(str(path))
    assert next(reading).frame_index == 0
    with pytest.raises(RecordDamaged, match=r"a\.parquet: frame 1 of a-id: .* checksum"):
        list(reading)
    (tmp_path / "b.parquet").write_bytes(data[:-100])
    with pytest.raises(RecordDamaged, match=r"b\.parquet: not a Parquet file"):
        list(read_flow_file(str(tmp_path / "b.parquet")))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "c.parquet")
    with pytest.raises(RecordDamaged, match=r"c\.parquet: no file of flow records; its columns are x"):
        list(read_flow_file(str(tmp_path / "c.parquet")))
    newer = pq.read_table(write_file(tmp_path / "d.parquet", [flow_row(0)]))
    newer = newer.replace_schema_metadata({**newer.schema.metadata, b"schema_version": b"99"})
    pq.write_table(newer, tmp_path / "d.parquet")
    with pytest.raises(RecordDamaged, match="schema version 99"):
        list(read_flow_file(str(tmp_path / "d.parquet")))
    with pytest.raises(ObjectNotFound):
        list(read_flow_file(str(tmp_path / "none.parquet")))


def test_fields_at_reduced_size_say_so(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.parquet", [flow_row(1, size=(33, 50))], stored_scale=Fraction(1, 4))
    (record,) = read_flow_file(str(path))
    assert (record.height, record.width, record.stored_scale) == (33, 50, Fraction(1, 4))
    assert (record.stored_height, record.stored_width) == (9, 13)
    assert record.flow_forward is not None
    assert record.confidence_backward is not None
    assert (record.flow_forward.shape, record.confidence_backward.shape) == ((2, 9, 13), (9, 13))


def test_tiny_frames_and_missing_validity_are_no_special_case(tmp_path: Path) -> None:
    row = flow_row(0, count=2, size=(1, 1), validity_forward=None, confidence_forward=None)
    path = write_file(tmp_path / "a.parquet", [row])
    (record,) = read_flow_file(str(path))
    same(record, row)


def test_huge_motion_keeps_the_bound_in_a_file(tmp_path: Path) -> None:
    rows = [flow_row(n, flow_forward=flow_row(n).flow_forward * np.float32(10.0 ** (4 * n + 2))) for n in range(4)]
    path = write_file(tmp_path / "a.parquet", rows)
    for record, row in zip(read_flow_file(str(path)), rows, strict=True):
        same(record, row)


def test_readers_need_neither_ray_nor_torch() -> None:
    code = "import pipeline.records, sys; print([name for name in ('ray', 'torch', 'av') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_frames_of_a_bucket_are_read(s3_env: object, tmp_path: Path) -> None:
    layout, storage = Layout(f"{s3_env.uri}/out"), Storage()  # type: ignore[attr-defined]
    rows = split_video(layout, storage, tmp_path)
    same(next(read_flow(layout.output, "a.mp4", 33)), rows[33])
    assert sum(1 for _ in read_flow(layout.output)) == 40
