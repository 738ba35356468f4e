"""Models side by side at any time: windows inside shots, each place against the frame that was there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputNotFound
from pipeline.training import splat_evaluation as evaluation
from pipeline.training.evaluation import of_windows
from tests.training.clips_factory import sliding, write_clip


def test_what_follows_the_motion_is_nearer_than_the_average_at_each_time(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv", sliding(26, speed=2))
    rows = {row.model: row for row in evaluation.run(tmp_path, ["average", "aligned", "splatted"], 1, "fp32", 1)}
    assert all(row.windows == 2 for row in rows.values()), "frames 0 to 4 and 20 to 24"
    for name in ("aligned", "splatted"):
        gains = [mine - floor for mine, floor in zip(rows[name].psnr, rows["average"].psnr, strict=True)]
        assert min(gains) > 2
        assert rows[name].seconds > 0
    evaluation.write_json(tmp_path / "scores.json", list(rows.values()))
    assert [row["model"] for row in json.loads((tmp_path / "scores.json").read_text())] == list(rows)
    lines = evaluation.table(list(rows.values())).splitlines()
    assert [line.split()[0] for line in lines] == ["model", "average", "aligned", "splatted"]


def test_windows_with_a_cut_inside_and_clips_that_are_too_short_are_left_out(tmp_path: Path) -> None:
    dark, bright = ([np.full((96, 96, 3), level, np.uint8)] * 22 for level in (20, 220))
    clip = write_clip(tmp_path / "cut.mkv", [*dark, *bright, *dark])
    _, windows = of_windows(clip, list, evaluation.APART + 1, evaluation.SPACING)
    assert len(windows) == 2, "at 0 and 60; cuts lie within 20 to 24 and 40 to 44"
    assert {frame[0, 0, 0] for window in windows for frame in window} == {20}
    (tmp_path / "short").mkdir()
    write_clip(tmp_path / "short" / "b.mkv", sliding(4))
    with pytest.raises(InputNotFound, match="5 frames inside one shot"):
        evaluation.run(tmp_path / "short", ["average"], 1, "fp32", 1)


def test_recursion_is_told_apart_by_its_name() -> None:
    for name, wanted in (("cain-compact", "auto"), ("cain-compact:recursion", "recursion")):
        assert evaluation.build(name, "fp32")._config.times == wanted  # type: ignore[attr-defined]
