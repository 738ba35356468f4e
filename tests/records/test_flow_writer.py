from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import EncodeError, RecordDamaged
from pipeline.records.flow_scale import reduced, stored_size
from pipeline.records.flow_schema import FIELD_COLUMNS, flow_schema
from pipeline.records.flow_writer import FlowFileWriter, concatenate
from tests.records.flow_samples import flow_row, write_file


def groups(path: Path) -> list[int]:
    metadata = pq.ParquetFile(path).metadata
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def column(paths: list[Path], name: str) -> list[object]:
    return [value for path in paths for value in pq.read_table(path, columns=[name]).column(0).to_pylist()]


def test_a_file_says_its_units_conventions_and_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with FlowFileWriter(path, max_error_px=Fraction(1, 50), metadata={"code_version": "9"}) as writer:
        writer.write(flow_row(0, video_uri="s3://key:secret@in/a.mp4?X-Amz-Signature=abc"))
        writer.write(flow_row(1))
    done = writer.close()
    assert (done.rows, done.bytes) == (2, path.stat().st_size)
    assert done.max_error_px is not None
    assert 0 < done.max_error_px <= 1 / 50
    schema = pq.read_schema(path)
    assert schema.equals(flow_schema("pcodec"))
    notes = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert (notes["unit"], notes["max_error_px"], notes["stored_scale"]) == ("px of the full frame", "1/50", "1")
    assert (notes["codec"], notes["code_version"]) == ("pcodec", "9")
    assert "x right, y down" in notes["coordinates"]
    assert schema.field("flow_forward").metadata[b"unit"] == b"px of the full frame"
    first, second = pq.read_table(path).to_pylist()
    assert (first["direction"], second["direction"]) == ("forward", "both")
    assert (first["flow_backward"], first["previous_pts"]) == (None, None)
    assert (second["previous_pts"], second["pts"], second["next_pts"]) == (0, 512, 1024)
    assert first["max_error_px"] == 0.02
    assert "secret" not in first["video_uri"]
    assert "abc" not in first["video_uri"]


@pytest.mark.parametrize("codec", ["pcodec", "none"])
def test_the_file_opens_in_pandas_and_duckdb_without_our_code(tmp_path: Path, codec: str) -> None:
    rows = [flow_row(frame, count=5) for frame in range(5)]
    path = write_file(tmp_path / "a.parquet", rows, codec=codec)
    frame = pd.read_parquet(path)
    assert frame.pts.tolist() == [0, 512, 1024, 1536, 2048]
    assert frame.flow_forward.isna().tolist() == [False] * 4 + [True]
    query = f"select frame_index, direction, unit, flow_forward from '{path}' where pts >= 1024 order by pts desc"
    found = duckdb.sql(query).fetchall()
    assert [row[:3] for row in found] == [
        (4, "backward", "px of the full frame"),
        (3, "both", "px of the full frame"),
        (2, "both", "px of the full frame"),
    ]
    if codec == "none":
        there = rows[2].flow_forward
        assert there is not None
        np.testing.assert_array_equal(frame.flow_forward[2].reshape(2, 24, 40), there)
        np.testing.assert_array_equal(np.array(found[2][3], np.float32).reshape(2, 24, 40), there)
        assert frame.validity_forward[2].dtype == np.bool_


def test_a_row_group_ends_at_its_rows_or_at_its_bytes(tmp_path: Path) -> None:
    rows = [flow_row(frame) for frame in range(10)]
    assert groups(write_file(tmp_path / "r.parquet", rows, row_group_rows=4)) == [4, 4, 2]
    rows_read = pq.read_table(tmp_path / "r.parquet").to_pylist()
    size = max(sum(len(row[name]) for name in FIELD_COLUMNS if row[name]) for row in rows_read)
    by_bytes = write_file(tmp_path / "b.parquet", rows, row_group_bytes=3 * size)
    assert set(groups(by_bytes)[:-1]) <= {3, 4}
    assert groups(write_file(tmp_path / "s.parquet", rows, row_group_bytes=1)) == [1] * 10
    metadata = pq.ParquetFile(by_bytes).metadata
    assert all(metadata.row_group(group).total_byte_size < 3 * size + 5000 for group in range(metadata.num_row_groups))


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for codec in ("pcodec", "none"):
        paths = [
            write_file(tmp_path / f"{codec}{n}", map(flow_row, range(5)), codec=codec, row_group_rows=2) for n in (0, 1)
        ]
        assert paths[0].read_bytes() == paths[1].read_bytes()


@settings(max_examples=25)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.sampled_from(["pcodec", "none"]))
def test_however_a_video_is_cut_into_clips_its_file_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], codec: str
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    cuts = {"row_group_rows": 4, "row_group_bytes": 20_000}
    starts, place, parts = (0, 3, 4), 0, []
    for length in lengths:
        rows = (flow_row(frame, starts=starts, size=(12, 20)) for frame in range(place, place + length))
        parts.append(write_file(folder / f"{place}.parquet", rows, codec=codec, **cuts))
        place += length
    (joined,) = concatenate(parts, folder / "joined.parquet", **cuts)
    shots = [sum(start <= frame for start in starts) - 1 for frame in range(place)]
    rows = (flow_row(frame, starts=starts, size=(12, 20), shot=shot) for frame, shot in enumerate(shots))
    whole = write_file(folder / "whole.parquet", rows, codec=codec, **cuts)
    assert joined.path.read_bytes() == whole.read_bytes()
    assert joined.rows == place


def test_long_videos_are_split_at_row_groups_and_a_small_rest_joins_the_last_file(tmp_path: Path) -> None:
    part = write_file(tmp_path / "part.parquet", [flow_row(frame) for frame in range(64)])
    size = part.stat().st_size
    for limit in (size // 2, size // 4, size // 5, size // 16):
        folder = tmp_path / str(limit)
        folder.mkdir()
        files = list(concatenate([part], folder / "a.parquet", row_group_rows=2, file_bytes=limit))
        paths = [file.path for file in files]
        assert column(paths, "frame_index") == list(range(64))
        assert set(folder.iterdir()) == set(paths)
        assert len(paths) >= size / (1.25 * limit + size / 32 + 60_000)
        assert [path.name for path in paths] == ["a.parquet"] + [f"a-{n:05d}.parquet" for n in range(1, len(paths))]
        # Row groups are of 2 rows, and 32 columns of the footer take their part
        assert all(limit // 4 <= file.bytes <= 1.25 * limit + size / 32 + 60_000 for file in files)
        assert all(file.bytes == file.path.stat().st_size for file in files)


def test_a_rest_that_is_too_small_for_a_file_of_its_own_gets_none(tmp_path: Path) -> None:
    rows = [flow_row(frame, size=(144, 240)) for frame in range(40)]
    part = write_file(tmp_path / "part.parquet", rows, row_group_rows=2)
    size = part.stat().st_size
    (tmp_path / "out").mkdir()
    (whole,) = concatenate([part], tmp_path / "out" / "a.parquet", row_group_rows=2, file_bytes=size * 85 // 100)
    assert (whole.rows, whole.bytes) == (40, size)
    assert whole.path.read_bytes() == part.read_bytes()
    assert list((tmp_path / "out").iterdir()) == [whole.path]
    two = list(concatenate([part], tmp_path / "out" / "b.parquet", row_group_rows=2, file_bytes=size * 42 // 100))
    assert len(two) == 2, "two of about 44 % and one of 12, which the second takes in"
    assert column([file.path for file in two], "frame_index") == list(range(40))
    assert two[1].bytes > two[0].bytes


def test_parts_are_asked_for_one_at_a_time_and_files_may_be_taken_away(tmp_path: Path) -> None:
    """A worker's disk holds one clip and two files, however long the video is."""

    def parts() -> object:
        for clip in range(12):
            rows = [flow_row(frame) for frame in range(4 * clip, 4 * clip + 4)]
            path = write_file(tmp_path / "part" / f"{clip}.parquet", rows)
            yield path
            path.unlink()

    (tmp_path / "part").mkdir()
    taken, most = [], 0
    for file in concatenate(parts(), tmp_path / "a.parquet", file_bytes=60_000, row_group_rows=2):  # type: ignore[arg-type]
        taken.extend(column([file.path], "frame_index"))
        file.path.unlink()
        most = max(most, len(list(tmp_path.rglob("*.parquet"))))
    assert taken == list(range(48))
    assert most <= 3


def test_several_videos_share_a_file_and_each_counts_its_own_shots(tmp_path: Path) -> None:
    one = write_file(tmp_path / "1.parquet", [flow_row(frame, video="a", starts=(0, 2), count=4) for frame in range(4)])
    two = write_file(tmp_path / "2.parquet", [flow_row(frame, video="b", count=3) for frame in range(3)])
    (both,) = concatenate([one, two], tmp_path / "group.parquet")
    assert column([both.path], "video_id") == ["a-id"] * 4 + ["b-id"] * 3
    assert column([both.path], "shot") == [0, 0, 1, 1, 0, 0, 0]
    again = list(concatenate([both.path], tmp_path / "again.parquet"))
    assert again[0].path.read_bytes() == both.path.read_bytes()


def test_unlike_parts_are_not_joined(tmp_path: Path) -> None:
    one = write_file(tmp_path / "1.parquet", [flow_row(0)])
    half = write_file(tmp_path / "2.parquet", [flow_row(1)], stored_scale=0.5)
    with pytest.raises(RecordDamaged, match=r"2\.parquet: its columns or metadata differ .*stored_scale"):
        list(concatenate([one, half], tmp_path / "out.parquet"))
    (tmp_path / "3.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RecordDamaged, match=r"3\.parquet: not a Parquet file"):
        list(concatenate([tmp_path / "3.parquet"], tmp_path / "out.parquet"))
    with pytest.raises(ValueError, match="no parts"):
        list(concatenate([], tmp_path / "out.parquet"))


def test_parts_without_rows_make_a_file_without_rows(tmp_path: Path) -> None:
    empty = write_file(tmp_path / "1.parquet", [])
    (file,) = concatenate([empty], tmp_path / "out.parquet", file_bytes=1)
    assert file.rows == 0
    assert pq.read_table(file.path).num_rows == 0


@pytest.mark.parametrize("codec", ["pcodec", "none"])
def test_a_field_that_is_not_finite_is_refused_with_its_frame(tmp_path: Path, codec: str) -> None:
    broken = np.zeros((2, 24, 40), np.float32)
    broken[0, 4, 5] = math.nan
    with (
        pytest.raises(EncodeError, match=r"s3://in/a\.mp4 frame 7: .* nan at x=5, y=4") as caught,
        FlowFileWriter(tmp_path / "a.parquet", codec=codec) as writer,
    ):
        writer.write(flow_row(7, flow_forward=broken))
    assert (caught.value.stage, caught.value.pts) == ("encode", 7 * 512)
    with (
        pytest.raises(EncodeError, match=r"frame 7: the confidence map \[24, 40\] goes from 2 to 2"),
        FlowFileWriter(tmp_path / "a.parquet", codec=codec) as writer,
    ):
        writer.write(flow_row(7, confidence_forward=np.full((24, 40), 2, np.float32)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow_forward": np.zeros((2, 24, 41), np.float32)}, r"flow_forward is float32 \[2, 24, 41\]"),
        ({"flow_forward": np.zeros((2, 24, 40))}, "flow_forward is float64"),
        ({"validity_backward": np.ones((24, 40), np.uint8)}, "validity_backward is uint8"),
        ({"flow_forward": None}, "validity_forward without flow_forward"),
        ({"next_pts": None}, "flow_forward without that neighbour's pts"),
    ],
)
def test_rows_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flow_row(3, **changes)


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for wrong in ({"codec": "h264"}, {"stored_scale": 0.3}, {"max_error_px": 0}, {"row_group_rows": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FlowFileWriter(tmp_path / "a.parquet", **wrong)


# ---- reduced size


@given(st.tuples(st.integers(1, 30), st.integers(1, 30)), st.sampled_from([2, 4, 8]))
def test_a_block_is_the_mean_of_its_valid_pixels(size: tuple[int, int], block: int) -> None:
    generator = np.random.default_rng(size[0] * 31 + size[1])
    flow = generator.normal(size=(2, *size)).astype(np.float32)
    valid = generator.random(size) < 0.5
    sure = generator.random(size).astype(np.float32)
    small, small_valid, small_sure = reduced(flow, valid, sure, Fraction(1, block))
    assert small_valid is not None
    assert small_sure is not None
    height, width = stored_size(*size, Fraction(1, block))
    assert small.shape == (2, height, width)
    assert small.dtype == small_sure.dtype == np.float32
    for y in range(height):
        for x in range(width):
            here = np.s_[y * block : y * block + block, x * block : x * block + block]
            mask = valid[here]
            chosen = flow[:, *here][:, mask if mask.any() else np.ones_like(mask)]
            np.testing.assert_allclose(small[:, y, x], chosen.mean(1), atol=1e-6)
            assert small_valid[y, x] == (mask.mean() >= 0.5)
            np.testing.assert_allclose(small_sure[y, x], sure[here].mean(), atol=1e-6)


def test_flow_stored_at_an_eighth_stays_in_pixels_of_the_frame(tmp_path: Path) -> None:
    flow = np.empty((2, 33, 50), np.float32)
    flow[0], flow[1] = 12.5, -3.25
    row = flow_row(1, size=(33, 50), flow_forward=flow, validity_forward=np.ones((33, 50), np.bool_))
    path = write_file(tmp_path / "a.parquet", [row], stored_scale=Fraction(1, 8), codec="none")
    (stored,) = pq.read_table(path).to_pylist()
    assert (stored["height"], stored["width"], stored["stored_height"], stored["stored_width"]) == (33, 50, 5, 7)
    assert stored["stored_scale"] == 0.125
    assert stored["flow_forward"] == [12.5] * 35 + [-3.25] * 35
