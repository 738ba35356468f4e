"""Benchmarks in small, in the layouts they come in, evaluated as a user does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, InputNotFound
from pipeline.evaluation import flow as evaluation
from pipeline.evaluation.flow_layouts import Pair, find_pairs
from pipeline.evaluation.flow_sources import from_files, picture, source
from pipeline.layout import Layout
from pipeline.records.flow_files import flo_bytes, kitti_bytes
from pipeline.records.png import encode_png
from pipeline.storage import Storage
from tests.records.flow_samples import committed, flow_row, write_file

ROOT = Path(__file__).parents[2]
SIZE = (24, 32)


def flow(x: float, y: float) -> np.ndarray:
    return np.stack([np.full(SIZE, x), np.full(SIZE, y)]).astype(np.float32)


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def grey(path: Path, level: int = 90) -> Path:
    return put(path, encode_png(np.full((*SIZE, 3), level, np.uint8)))


def ppm(path: Path) -> Path:
    return put(path, b"P6 %d %d 255\n" % SIZE[::-1] + bytes(3 * SIZE[0] * SIZE[1]))


def sintel(root: Path) -> Path:
    for scene, frames in (("alley_1", 3), ("cave_2", 2)):
        for number in range(1, frames + 1):
            for render in ("clean", "final"):
                grey(root / render / scene / f"frame_{number:04d}.png", number)
        for number in range(1, frames):
            put(root / "flow" / scene / f"frame_{number:04d}.flo", flo_bytes(flow(number, 0)))
            invalid = np.zeros((*SIZE, 3), np.uint8)
            invalid[:, :4] = 255
            put(root / "invalid" / scene / f"frame_{number:04d}.png", encode_png(invalid))
    return root


def test_sintel_is_found_with_its_neighbours_and_invalid_pixels(tmp_path: Path) -> None:
    pairs = find_pairs(sintel(tmp_path), render="clean")
    assert [(p.name, p.sequence, p.index) for p in pairs] == [
        ("alley_1/frame_0001", "alley_1", 0), ("alley_1/frame_0002", "alley_1", 1), ("cave_2/frame_0001", "cave_2", 0),
    ]  # fmt: skip
    assert [p.previous is not None for p in pairs] == [False, True, False]
    assert pairs[1].first == tmp_path / "clean/alley_1/frame_0002.png"
    rows = evaluation.evaluate(pairs, lambda pair: flow(1, 0))
    assert rows[0].scores["all"].pixels == SIZE[0] * (SIZE[1] - 4)
    assert [row.scores["all"].epe for row in rows] == [0, 1, 0]


def test_middlebury_is_found_with_pictures_beside_the_flow_or_in_their_own_folder(tmp_path: Path) -> None:
    for pictures, truth in (("a/Grove2", "a/Grove2"), ("b/other-data/Venus", "b/other-gt-flow/Venus")):
        for number in (9, 10, 11):
            grey(tmp_path / pictures / f"frame{number:02d}.png", number)
        put(tmp_path / truth / "flow10.flo", flo_bytes(flow(1, 2)))
    pairs = find_pairs(tmp_path)
    assert [(p.sequence, p.index) for p in pairs] == [("Grove2", 1), ("Venus", 1)]
    assert all(p.first.exists() and p.second.exists() and p.previous for p in pairs)


def test_chairs_are_found_under_both_names(tmp_path: Path) -> None:
    for names in (("00007_flow.flo", "00007_img1.ppm", "00007_img2.ppm"), ("8-gt.flo", "8-img0.ppm", "8-img1.ppm")):
        put(tmp_path / names[0], flo_bytes(flow(0, 0)))
        ppm(tmp_path / names[1])
        ppm(tmp_path / names[2])
    pairs = find_pairs(tmp_path)
    assert [p.name for p in pairs] == ["00007", "8"]
    assert picture(pairs[0].first).shape == (3, *SIZE)


def test_kitti_is_found_and_its_sparse_truth_counts_where_it_is(tmp_path: Path) -> None:
    known = np.zeros(SIZE, bool)
    known[::4, ::4] = True
    put(tmp_path / "training/flow_occ/000003_10.png", kitti_bytes(flow(4, -2), known))
    for number in (10, 11):
        grey(tmp_path / f"training/image_2/000003_{number}.png")
    (pair,) = find_pairs(tmp_path)
    assert (pair.name, pair.first.name, pair.second.name) == ("000003_10", "000003_10.png", "000003_11.png")
    (row,) = evaluation.evaluate([pair], lambda _: flow(4, 0))
    assert row.scores["all"].pixels == int(known.sum())
    assert row.scores["all"].epe == pytest.approx(2)


def test_spring_is_found_in_both_directions(tmp_path: Path) -> None:
    for direction in ("FW", "BW"):
        put(tmp_path / f"train/0001/flow_{direction}_left/flow_{direction}_left_0002.flo5", b"")
    for number in (1, 2, 3):
        grey(tmp_path / f"train/0001/frame_left/frame_left_{number:04d}.png")
    backward, forward = find_pairs(tmp_path)
    assert (backward.backward, forward.backward) == (True, False)
    assert (backward.second.name, forward.second.name) == ("frame_left_0001.png", "frame_left_0003.png")
    assert forward.previous == backward.second
    assert forward.sequence == "0001_left"


def test_predictions_are_files_named_as_the_truth(tmp_path: Path) -> None:
    pairs = find_pairs(sintel(tmp_path / "gt"))
    put(tmp_path / "pred/alley_1/frame_0001.flo", flo_bytes(flow(1, 0)))
    put(tmp_path / "pred/frame_0002.png", kitti_bytes(flow(2, 0)))
    assert (from_files(tmp_path / "pred", pairs[0]) == flow(1, 0)).all()
    assert np.abs(from_files(tmp_path / "pred", pairs[1]) - flow(2, 0)).max() <= 1 / 128
    (tmp_path / "none").mkdir()
    with pytest.raises(InputNotFound, match=r"no prediction alley_1/frame_0001\.flo"):
        from_files(tmp_path / "none", pairs[0])


def test_predictions_of_a_run_are_found_by_video_frame_and_direction(tmp_path: Path) -> None:
    layout, storage = Layout(str(tmp_path / "out")), Storage()
    rows = {video: [flow_row(frame, count=3, video=video) for frame in range(3)] for video in ("cave", "alley")}
    for video, some in rows.items():
        path = write_file(tmp_path / f"{video}.parquet", some)
        committed(storage, layout, video, [(f"flow/{video}.mp4.parquet", path, 3, False)])
    predicted = source(layout.output)
    nowhere = Path("not read")
    for video, some in rows.items():
        for index, row in enumerate(some):
            for backward, field in ((False, row.flow_forward), (True, row.flow_backward)):
                pair = Pair("a pair", nowhere, nowhere, nowhere, video, index, backward=backward)
                if field is not None:
                    np.testing.assert_allclose(predicted(pair), field, rtol=0, atol=1 / 64)
                    continue
                with pytest.raises(InputNotFound, match="has no backward flow" if backward else "has no forward flow"):
                    predicted(pair)
    with pytest.raises(InputNotFound, match=r"no video named market among \['alley', 'cave'\]"):
        predicted(Pair("a pair", nowhere, nowhere, nowhere, "market", 0))
    with pytest.raises(InputNotFound, match="frames 0 to 2"):
        predicted(Pair("a pair", nowhere, nowhere, nowhere, "cave", 3))


def test_what_cannot_be_evaluated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound, match="no true flow"):
        find_pairs(tmp_path)
    with pytest.raises(ConfigError, match="layout=hci"):
        find_pairs(tmp_path, "hci")
    with pytest.raises(InputNotFound, match="model:NAME"):
        source(str(tmp_path / "absent"))
    pairs = find_pairs(sintel(tmp_path))
    with pytest.raises(ConfigError, match="full resolution"):
        evaluation.evaluate(pairs, lambda pair: flow(0, 0)[:, ::2, ::2])


@pytest.mark.slow
def test_the_command_scores_files_and_weights(tmp_path: Path) -> None:
    root = sintel(tmp_path / "gt")
    for pair in find_pairs(root):
        put(tmp_path / f"pred/{pair.name}.flo", flo_bytes(flow(1, 0)))
    for prediction in (str(tmp_path / "pred"), "model:memfof-compact"):
        command = [sys.executable, str(ROOT / "jobs/evaluate.py"), "flow", prediction, str(root)]
        done = subprocess.run(
            [*command, "--iterations", "1", "--json", str(tmp_path / "out.json")], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        document = json.loads((tmp_path / "out.json").read_text())
        assert len(document["pairs"]) == 3
        assert "mean over pairs" in done.stdout
    assert document["prediction"] == "model:memfof-compact"
