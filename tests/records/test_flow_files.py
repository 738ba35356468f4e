from __future__ import annotations

import builtins
import io
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, EncodeError, RecordDamaged
from pipeline.media.still import read_still
from pipeline.records.flow_files import (
    flo_bytes,
    kitti_bytes,
    parse_flo,
    parse_flo5,
    parse_kitti,
    parse_npy,
    parse_pfm,
    read_flow_image,
)
from pipeline.records.png import encode_png

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))


def field(size: tuple[int, int], largest: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    known = generator.random(size) < 0.8
    flow = generator.uniform(-largest, largest, (2, *size)).astype(np.float32)
    return np.where(known, flow, np.float32(0)), known


@given(SIZES, st.integers(0, 20))
def test_flo_gives_back_what_it_was_given(size: tuple[int, int], seed: int) -> None:
    flow, known = field(size, 10.0 ** (seed % 9), seed)
    again = parse_flo(flo_bytes(flow, known), "a.flo")
    np.testing.assert_array_equal(again.flow, flow)
    np.testing.assert_array_equal(again.known, known)


def test_flo_is_laid_out_as_its_readme_says() -> None:
    flow = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    data = flo_bytes(flow)
    assert np.frombuffer(data, "<f4", 1)[0] == 202021.25
    assert np.frombuffer(data, "<i4", 2, 4).tolist() == [3, 2]
    assert np.frombuffer(data, "<f4", offset=12).tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]


def test_unknown_pixels_of_flo_are_nan_or_huge() -> None:
    values = np.array([[[1, 2], [1e10, 1e10]], [[math.nan, 0], [1.1e9, 3]]], "<f4")
    data = flo_bytes(np.zeros((2, 2, 2), np.float32))[:12] + values.tobytes()
    found = parse_flo(data, "a.flo")
    assert found.known.tolist() == [[True, False], [False, False]]
    assert found.flow[:, 0, 0].tolist() == [1, 2]
    assert (found.flow[:, ~found.known] == 0).all()
    assert repr(found) == "KnownFlow([2, 2, 2], 25.0% known)"


@given(SIZES, st.integers(0, 20))
def test_kitti_png_is_off_by_half_its_step_at_most(size: tuple[int, int], seed: int) -> None:
    flow, known = field(size, 511.9, seed)
    again = parse_kitti(kitti_bytes(flow, known), "a.png")
    assert np.abs(again.flow - flow).max() <= 1 / 128
    np.testing.assert_array_equal(again.known, known)


def test_kitti_png_is_laid_out_as_its_readme_says() -> None:
    flow = np.array([[[0, 1]], [[-512, 511.984375]]], np.float32)
    image = read_still(kitti_bytes(flow), "a.png")
    assert image.dtype == np.uint16
    assert image.tolist() == [[[32768, 0, 1], [32832, 65535, 1]]]


def test_motion_that_kitti_png_cannot_hold_is_refused_unless_it_is_unknown() -> None:
    flow = np.zeros((2, 3, 4), np.float32)
    flow[1, 2, 1] = -513
    with pytest.raises(EncodeError, match=r"flow \(0, -513\) px at x=1, y=2: .* use \.flo"):
        kitti_bytes(flow)
    assert not parse_kitti(kitti_bytes(flow, flow[1] == 0), "a.png").known[2, 1]
    flow[1, 2, 1] = math.nan
    with pytest.raises(EncodeError):
        kitti_bytes(flow)


def flo5(values: np.ndarray, name: str = "flow") -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset(name, data=values, compression="gzip")
    return buffer.getvalue()


def test_spring_ground_truth_has_the_frames_size_and_no_nan() -> None:
    values = np.arange(8 * 12 * 2, dtype=np.float32).reshape(8, 12, 2)
    values[2, 4] = math.nan
    found = parse_flo5(flo5(values), "a.flo5")
    assert found.flow.shape == (2, 4, 6)
    assert found.flow.dtype == np.float32
    assert found.flow[:, 1, 1].tolist() == values[2, 2].tolist()
    assert np.argwhere(~found.known).tolist() == [[1, 2]]
    assert found.flow[:, 1, 2].tolist() == [0, 0]


def test_without_h5py_spring_files_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: object, **more: object) -> object:
        if name == "h5py":
            raise ImportError(name)
        return original(name, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"a\.flo5: reading \.flo5 needs h5py; pip install h5py"):
        parse_flo5(b"", "a.flo5")


def test_files_are_read_by_suffix_and_sintels_invalid_pixels_are_unknown(tmp_path: Path) -> None:
    flow, known = field((5, 7), 9)
    for suffix, data in ((".flo", flo_bytes(flow, known)), (".png", kitti_bytes(flow, known))):
        (tmp_path / f"a{suffix}").write_bytes(data)
        found = read_flow_image(str(tmp_path / f"a{suffix}"))
        np.testing.assert_allclose(found.flow, flow, atol=1 / 128)
        np.testing.assert_array_equal(found.known, known)
    invalid = np.zeros((5, 7), np.uint8)
    invalid[0, :3] = 255
    (tmp_path / "invalid.png").write_bytes(encode_png(invalid))
    found = read_flow_image(str(tmp_path / "a.flo"), invalid=str(tmp_path / "invalid.png"))
    np.testing.assert_array_equal(found.known, known & (invalid == 0))
    assert (found.flow[:, invalid > 0] == 0).all()
    (tmp_path / "a.flo5").write_bytes(flo5(np.zeros((4, 4, 2), np.float32)))
    assert read_flow_image(str(tmp_path / "a.flo5")).known.all()
    with pytest.raises(ConfigError, match=r"a\.exr: no flow file"):
        read_flow_image(str(tmp_path / "a.exr"))


@pytest.mark.parametrize(
    ("parse", "data", "message"),
    [
        (parse_flo, b"PIEX" + bytes(20), r"x: no \.flo file: it begins b'PIEX'"),
        (parse_flo, flo_bytes(np.zeros((2, 3, 4), np.float32))[:-4], "x: 104 bytes, where 4×3 px take 108"),
        (parse_flo, b"PIEH" + b"\xff" * 8, "x: 12 bytes"),
        (parse_kitti, encode_png(np.zeros((3, 4, 3), np.uint8)), r"x: uint8 \[3, 4, 3\]; KITTI"),
        (parse_kitti, encode_png(np.zeros((3, 4), np.uint16)), r"x: uint16 \[3, 4\]; KITTI"),
        (parse_flo5, b"\x89HDF no", r"x: no \.flo5 file"),
        (parse_flo5, flo5(np.zeros((2, 2, 2), np.float32), "else"), r"x: no \.flo5 file"),
        (parse_flo5, flo5(np.zeros((2, 2), np.float32)), r"x: its flow is \[2, 2\]"),
    ],
)
def test_damaged_and_foreign_files_are_named(parse: object, data: bytes, message: str) -> None:
    with pytest.raises(RecordDamaged, match=message):
        parse(data, "x")  # type: ignore[operator]


@pytest.mark.parametrize("bad", [np.zeros((2, 3, 4)), np.zeros((3, 4, 2), np.float32), np.zeros((2, 0, 4), np.float32)])
def test_only_flow_fields_are_written(bad: np.ndarray) -> None:
    for write in (flo_bytes, kitti_bytes):
        with pytest.raises(ValueError, match="a flow field is float32"):
            write(bad)
        with pytest.raises(ValueError, match=r"known pixels are bool \[3, 4\]"):
            write(np.zeros((2, 3, 4), np.float32), np.ones((3, 5), np.bool_))


def test_pfm_has_its_rows_from_the_bottom_up_in_either_byte_order() -> None:
    rows = np.array([[[1, 2, 0], [3, 4, 0]], [[5, 6, 0], [math.nan, 8, 0]]])
    for scale, order in ((b"-1.0", "<f4"), (b"1.0", ">f4")):
        found = parse_pfm(b"PF\n2 2\n" + scale + b"\n" + rows.astype(order).tobytes(), "a.pfm")
        assert found.flow.tolist() == [[[5, 0], [1, 3]], [[6, 0], [2, 4]]]
        assert found.known.tolist() == [[True, False], [True, True]]
    for damaged in (b"", b"PF\n2 2\n-1.0\n", b"PF\ntwo\n-1\n", b"Pf\n1 1\n-1.0\n" + bytes(12)):
        with pytest.raises(RecordDamaged, match=r"a\.pfm: no \.pfm file of 3 channels"):
            parse_pfm(damaged, "a.pfm")


def test_npy_flow_is_masked_by_an_npy_that_is_not_zero(tmp_path: Path) -> None:
    flow, known = field((5, 7), 20)
    np.save(tmp_path / "flow.npy", flow.transpose(1, 2, 0))
    np.save(tmp_path / "mask.npy", np.where(known, 0, 10).astype(np.uint8))
    found = read_flow_image(str(tmp_path / "flow.npy"), invalid=str(tmp_path / "mask.npy"))
    np.testing.assert_array_equal(found.flow, flow)
    np.testing.assert_array_equal(found.known, known)
    np.save(tmp_path / "mask.npy", np.zeros((5, 6), np.uint8))
    with pytest.raises(RecordDamaged, match=r"mask\.npy: \[5, 6\] px, its flow \[5, 7\]"):
        read_flow_image(str(tmp_path / "flow.npy"), invalid=str(tmp_path / "mask.npy"))
    for damaged in (b"", b"no array", (tmp_path / "flow.npy").read_bytes()[:-9]):
        with pytest.raises(RecordDamaged, match=r"a\.npy: no \.npy file"):
            parse_npy(damaged, "a.npy")
    file = io.BytesIO()
    np.save(file, np.zeros((4, 5, 3)))
    with pytest.raises(RecordDamaged, match=r"float64 \[4, 5, 3\]"):
        parse_npy(file.getvalue(), "a.npy")
