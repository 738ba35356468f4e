"""Records of decisions: what is refused, what other tools read, which run has them, and the picture of one frame."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputNotFound, RecordDamaged
from pipeline.layout import Layout
from pipeline.plan.adaptive import Choice
from pipeline.plan.patches import Patch, patch_grid
from pipeline.records import read_decisions, read_decisions_file
from pipeline.records.commit import DataObject, Provenance, VideoCommit, commit_video
from pipeline.records.decisions import GROUP_ROWS, write_decisions
from pipeline.records.decisions_overlay import SCALE_COLOURS, STATIC, cells, draw_decisions
from pipeline.records.decisions_schema import DecisionRecord
from pipeline.storage import Storage

GRID = tuple(patch_grid(96, 160, 64, 16, 8))
POOL = (Choice(1, 5), Choice(2, 3), Choice(4, 1), Choice(1, 0))


def record(frame: int = 0, **changes: Any) -> DecisionRecord:
    values = {
        "video_uri": "s3://in/a.mp4", "video_version": "1", "member": "", "video_id": "a-1", "frame_index": frame,
        "pts": 512 * frame, "time_base": Fraction(1, 25600), "kind": "source", "t": Fraction(0),
        "t_error": Fraction(0), "height": 96, "width": 160, "flops": 0, "full_flops": None, "model": "m",
        "weights_sha256": "d" * 64,
    }  # fmt: skip
    if frame % 2:
        made = {
            "kind": "synthesised", "t": Fraction(1, 3), "t_error": Fraction(1, 48), "patches": GRID, "flops": 10**9,
            "choices": tuple(POOL[(frame + place) % 4] for place in range(len(GRID))), "full_flops": 4 * 10**9,
        }  # fmt: skip
        values |= made
    return DecisionRecord(**{**values, **changes})


def test_a_file_gives_back_its_records_and_single_frames_of_it(tmp_path: Path) -> None:
    records = [record(frame) for frame in range(GROUP_ROWS + 9)]
    path = tmp_path / "a.decisions.parquet"
    assert write_decisions(path, iter(records), {"task": "interpolate"}) == len(records)
    assert list(read_decisions_file(str(path))) == records
    assert list(read_decisions_file(str(path), frames=[GROUP_ROWS + 1, 3])) == [records[3], records[GROUP_ROWS + 1]]
    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == 2
    assert file.schema_arrow.metadata[b"task"] == b"interpolate"
    again = tmp_path / "again.parquet"
    write_decisions(again, records, {"task": "interpolate"})
    assert again.read_bytes() == path.read_bytes()


def test_pyarrow_and_pandas_read_the_file_without_our_code(tmp_path: Path) -> None:
    path = tmp_path / "a.decisions.parquet"
    write_decisions(path, [record(frame) for frame in range(6)])
    table = pq.read_table(path)
    assert {str(table.schema.field(name).type) for name in ("scale", "depth")} == {"list<element: int8 not null>"}
    rows = table.to_pylist()
    assert rows[1]["scale"] == [choice.scale for choice in record(1).choices]
    assert rows[1]["patch_left"] == [patch.left for patch in GRID]
    assert (rows[0]["depth"], rows[0]["t"], rows[1]["t"]) == ([], "0", "1/3")
    frame = pd.read_parquet(path)
    static = frame[frame.kind == "synthesised"].depth.map(lambda depth: (depth == 0).mean())
    assert static.tolist() == [record(number).shares().get(Choice(1, 0), 0.0) for number in (1, 3, 5)]


def test_duckdb_reads_the_file_without_our_code(tmp_path: Path) -> None:
    path = tmp_path / "a.decisions.parquet"
    write_decisions(path, [record(frame) for frame in range(6)])
    query = f"""
        SELECT scale, depth, count(*) FROM (
            SELECT unnest(scale) AS scale, unnest(depth) AS depth FROM '{path}' WHERE kind = 'synthesised'
        ) GROUP BY ALL
    """
    found = {(scale, depth): count for scale, depth, count in duckdb.sql(query).fetchall()}
    choices = [choice for number in (1, 3, 5) for choice in record(number).choices]
    assert found == {(choice.scale, choice.depth): choices.count(choice) for choice in choices}


def test_secrets_of_an_address_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_decisions(path, [record(video_uri="https://user:hunter2@host/a.mp4")])
    assert b"hunter2" not in path.read_bytes()


@pytest.mark.parametrize(
    "changes", [{"kind": "invented"}, {"choices": (Choice(1, 1),)}, {"t": Fraction(3, 2)}, {"t": Fraction(-1, 2)}]
)
def test_a_row_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="kind one of"):
        record(1, **changes)


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_decisions(path, [record(1)])
    table = pq.read_table(path)
    place = table.schema.get_field_index("depth")
    field = table.schema.field(place)
    short = table.set_column(place, field, pa.array([[1]], field.type))
    pq.write_table(short, path)
    with pytest.raises(RecordDamaged, match=r"frame 1 of a-1: .*\[6, 6, 6, 6, 6, 1\] patches"):
        list(read_decisions_file(str(path)))


def committed(folder: Path, *outputs: str) -> Layout:
    layout = Layout(str(folder))
    provenance = Provenance(task="interpolate", model="m", configuration="c", code_version="0")
    named = tuple(DataObject(path=path, size=(folder / path).stat().st_size, sha256="", frames=6) for path in outputs)
    commit = VideoCommit(
        video_id="a-1", uri="s3://in/a.mp4", version="1", name="a.mp4", status="ok", attempt="1", fingerprint="f",
        provenance=provenance, outputs=named,
    )  # fmt: skip
    commit_video(Storage(), layout, commit)
    return layout


def test_a_run_s_records_are_found_through_its_commits(tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / "a.mp4").write_bytes(b"video")
    write_decisions(tmp_path / "video" / "a.mp4.decisions.parquet", [record(frame) for frame in range(6)])
    committed(tmp_path, "video/a.mp4", "video/a.mp4.decisions.parquet")
    assert [found.frame_index for found in read_decisions(str(tmp_path))] == list(range(6))
    assert list(read_decisions(str(tmp_path), "a.mp4", 3)) == [record(3)]
    with pytest.raises(InputNotFound, match=r"no finished video 'b\.mp4'"):
        list(read_decisions(str(tmp_path), "b.mp4"))


def test_a_run_without_these_records_says_how_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / "a.mp4").write_bytes(b"video")
    committed(tmp_path, "video/a.mp4")
    with pytest.raises(InputNotFound, match=r"a\.mp4: the run made no records of decisions.*decisions=true"):
        list(read_decisions(str(tmp_path)))


@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([64, 128, 256]), st.sampled_from([16, 32]))
def test_cells_tile_the_frame_and_lie_in_their_patches(height: int, width: int, size: int, overlap: int) -> None:
    patches = patch_grid(height, width, size, overlap, 8)
    seen = np.zeros((height, width), int)
    for patch, ((top, bottom), (left, right)) in zip(patches, cells(patches), strict=True):
        assert patch.top <= top < bottom <= patch.top + patch.height
        assert patch.left <= left < right <= patch.left + patch.width
        seen[top:bottom, left:right] += 1
    assert (seen == 1).all()


def test_colour_is_the_scale_and_hatching_the_static_patch() -> None:
    grey = np.full((480, 640, 3), 128, np.uint8)
    patches = tuple(Patch(top, left, 240, 320) for top, left in product((0, 240), (0, 320)))
    one = replace(record(1), height=480, width=640, patches=patches, choices=POOL)
    drawn = draw_decisions(grey, one)
    for patch, choice in zip(patches, POOL, strict=True):
        middle = drawn[patch.top + 60 : patch.top + 100, patch.left + 220 : patch.left + 300].reshape(-1, 3)
        colours = {tuple(pixel) for pixel in middle.tolist()}
        if choice.depth:
            strength = 0.08 * choice.depth
            tint = SCALE_COLOURS[choice.scale]
            assert colours == {tuple(round((1 - strength) * 128 + strength * part) for part in tint)}
        else:
            assert colours == {(128, 128, 128), STATIC}
    assert (grey == 128).all(), "the frame itself is left alone"
    shallow = draw_decisions(grey, replace(one, choices=(Choice(1, 1), *POOL[1:])))
    assert not np.array_equal(shallow, drawn), "depth shows"


def test_frames_of_any_size_and_kind_are_drawn_and_held_ones_say_so() -> None:
    for height, width in ((1, 1), (24, 40), (96, 160), (97, 161), (1080, 1920)):
        picture = np.full((height, width, 3), 90, np.uint8)
        for one in (record(0), record(1), record(2, kind="held_cut", t_error=None), record(1, flops=None)):
            assert draw_decisions(picture, one).shape == picture.shape
    picture = np.full((96, 160, 3), 90, np.uint8)
    held, ended = (record(0, kind=kind, t_error=None) for kind in ("held_cut", "held_end"))
    assert not np.array_equal(draw_decisions(picture, held), draw_decisions(picture, ended))
    with pytest.raises(ValueError, match="uint8 RGB"):
        draw_decisions(picture.astype(np.float32), record(0))  # type: ignore[arg-type]
