from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.records.flow_codec import encode
from pipeline.records.flow_codec_benchmark import OURS, REFERENCE, fields_of, measure_codecs, table
from pipeline.records.flow_files import flo_bytes
from tests.records.flow_samples import flow_row, write_file
from tests.records.test_flow_codec import motion

FIELDS = [motion(135, 240, magnitude, noise=0.003) for magnitude in (3, 25)]


def test_every_rival_gives_back_the_fields_and_ours_is_among_the_smallest() -> None:
    rows = {row.name: row for row in measure_codecs(FIELDS, repeats=1)}
    assert len(rows) >= 7
    assert all(row.keeps_bound == (row.max_error_px <= 1 / 64) for row in rows.values())
    assert all(row.keeps_bound for row in rows.values()), "up to 32 px float16 keeps it too"
    assert rows[OURS].bytes == sum(len(encode(field).payload) for field in FIELDS)
    assert rows[OURS].bytes <= 1.1 * min(row.bytes for row in rows.values())
    assert rows[OURS].times_smaller >= 3
    assert rows[REFERENCE].times_smaller == 1
    assert all(row.encoded_per_s > 0 and row.decoded_per_s > 0 for row in rows.values())
    pixels = sum(field[0].size for field in FIELDS)
    assert rows[OURS].bits_per_pixel == pytest.approx(8 * rows[OURS].bytes / pixels)
    text = table(list(rows.values()))
    assert text.count("\n") == len(rows) + 1
    assert "breaks" not in text


def test_a_rival_that_breaks_the_bound_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zfpy", None)
    rows = {row.name: row for row in measure_codecs([motion(32, 48, 200)], Fraction(1, 64), repeats=1)}
    assert not rows[REFERENCE].keeps_bound
    assert rows[OURS].keeps_bound
    assert not any("zfp" in name for name in rows)
    assert "(breaks the bound)" in table([rows[REFERENCE]])


def test_nothing_to_measure_and_too_much_motion_are_refused() -> None:
    with pytest.raises(ValueError, match="no fields"):
        measure_codecs([])
    with pytest.raises(ValueError, match="more than 16 bits"):
        measure_codecs([motion(8, 8, 5000)])


def test_fields_come_from_records_and_flow_files(tmp_path: Path) -> None:
    rows = [flow_row(frame, count=3) for frame in range(3)]
    records = write_file(tmp_path / "a.parquet", rows, codec="none")
    (tmp_path / "b.flo").write_bytes(flo_bytes(FIELDS[0]))
    found = list(fields_of([str(records), str(tmp_path / "b.flo")]))
    assert len(found) == 5
    assert rows[0].flow_forward is not None
    np.testing.assert_array_equal(found[0], rows[0].flow_forward)
    np.testing.assert_array_equal(found[-1], FIELDS[0])
