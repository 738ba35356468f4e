"""Parsers of our own under fuzz: whatever the bytes, only our errors come out, and never a crash."""

from __future__ import annotations

import contextlib
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import InputConfig, InterpolateConfig, RetryConfig, RunConfig, load
from pipeline.config_flow import FlowConfig
from pipeline.config_recognize import RecognizeConfig
from pipeline.errors import ConfigError, MotionmillError
from pipeline.media import headers
from pipeline.media.ffv1 import is_damaged
from pipeline.media.source import open_source
from pipeline.plan.discover import DiscoveryFailure, discover
from pipeline.records.flow import read_flow_file
from pipeline.records.recognition import read_recognition_file
from pipeline.storage import Storage
from tests.corpus.mutate import MUTATIONS
from tests.media_factory import faststart, make_video
from tests.records import flow_samples, recognition_samples

STORAGE = Storage(RetryConfig(storage_attempts=1))
QUICK = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
BYTEWISE = sorted({*MUTATIONS} - {"other payload", "lost packets", "spliced"})
mutations = st.tuples(st.sampled_from(BYTEWISE), st.integers(0, 10**6))


def mutated(data: bytes, mutation: tuple[str, int]) -> bytes:
    name, seed = mutation
    return MUTATIONS[name](data, random.Random(seed))


# ---- shards, tables and lists


def shard() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, name in enumerate(("a.mp4", "deep/" + "n" * 150 + ".mkv", "c.json", "ünï.mp4", "e.mp4")):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = 700 * number, {"comment": "x" * 40}
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return target.getvalue()


def table(column: str) -> bytes:
    target = io.BytesIO()
    cells = ["a.mp4", None, "", "b.mp4", "no/such.mp4"] if column == "uri" else [b"x" * 300, None, b"", b"yy", b"z"]
    pq.write_table(pa.table({column: cells, "name": ["a", "b", None, "../d", "e"]}), target, row_group_size=2)
    return target.getvalue()


INPUTS = {"s.tar": shard(), "uris.parquet": table("uri"), "cells.parquet": table("bytes")}


@pytest.mark.parametrize("name", INPUTS)
@given(mutation=mutations)
@QUICK
def test_damaged_shards_and_tables_give_videos_failures_or_our_errors(
    tmp_path: Path, name: str, mutation: tuple[str, int]
) -> None:
    path = tmp_path / name
    path.write_bytes(mutated(INPUTS[name], mutation))
    try:
        found = list(discover(str(path), InputConfig(), STORAGE))
    except MotionmillError:
        return
    for item in found:
        if isinstance(item, DiscoveryFailure):
            assert len(str(item.error)) > 20
            continue
        with contextlib.suppress(MotionmillError), open_source(item, STORAGE) as file:
            file.read()


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@QUICK
def test_any_bytes_as_a_list_give_failures_or_our_errors(tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "lists"  # of its own: an entry may name the folder
    folder.mkdir(exist_ok=True)
    path = folder / "l.txt"
    path.write_bytes(data)
    with contextlib.suppress(MotionmillError):
        list(discover(str(path), InputConfig(), STORAGE))


# ---- headers and checksums that are read without FFmpeg


@given(mutation=mutations, kind=st.sampled_from(["mp4", "matroska", "avi", "mpegts"]))
@QUICK
def test_damaged_headers_give_numbers(mutation: tuple[str, int], kind: str) -> None:
    data = mutated(_clip(kind), mutation)
    assert headers.missing_bytes(io.BytesIO(data)) >= 0
    assert headers.most_samples(io.BytesIO(data)) >= 0
    assert all(width >= 0 and height >= 0 for width, height in headers.picture_sizes(io.BytesIO(data)))


_clips: dict[str, bytes] = {}


def _clip(kind: str) -> bytes:
    if kind not in _clips:
        options = {"preset": "ultrafast"}
        mp4 = kind == "mp4"
        _clips[kind] = faststart(frames=6) if mp4 else make_video(container=kind, frames=6, options=options)
    return _clips[kind]


@given(st.binary(max_size=80))
@QUICK
def test_any_bytes_as_an_ffv1_packet_give_an_answer(packet: bytes) -> None:
    assert is_damaged(packet) in (True, False)


# ---- configuration


KINDS: list[type[RunConfig]] = [InterpolateConfig, FlowConfig, RecognizeConfig]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def keys() -> st.SearchStrategy[str]:
    known = {key for kind in KINDS for key in kind.model_fields}
    nested = {
        f"{key}.{inner}"
        for kind in KINDS
        for key, field in kind.model_fields.items()
        for inner in getattr(field.annotation, "model_fields", ())
    }
    return st.sampled_from(sorted(known | nested)) | st.text(max_size=20)


@given(kind=st.sampled_from(KINDS), key=keys(), value=documents)
@settings(QUICK, max_examples=150)
def test_any_value_of_any_key_is_taken_or_refused_by_name(kind: type[RunConfig], key: str, value: object) -> None:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True).strip()
    with contextlib.suppress(ConfigError):
        load(kind, None, [f"{key}={text}"])


@given(kind=st.sampled_from(KINDS), data=st.binary(max_size=200) | documents.map(lambda d: yaml.safe_dump(d).encode()))
@QUICK
def test_any_bytes_as_a_configuration_are_taken_or_refused(tmp_path: Path, kind: type[RunConfig], data: bytes) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(data)
    with contextlib.suppress(ConfigError):
        load(kind, path)


# ---- records


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Callable[[str], object]]]:
    folder = tmp_path_factory.mktemp("records")
    flow = flow_samples.write_file(folder / "f.parquet", [flow_samples.flow_row(n, count=4) for n in range(4)])
    plain = flow_samples.write_file(
        folder / "p.parquet", [flow_samples.flow_row(n, count=3, size=(4, 6)) for n in range(3)], codec="none"
    )
    found = {
        "flow": (flow.read_bytes(), read_flow_file),
        "flow without codec": (plain.read_bytes(), read_flow_file),
    }
    for labels in ("rle", "png", "zstd"):
        rows = [recognition_samples.row(n) for n in range(4)]
        path = recognition_samples.write_file(folder / f"{labels}.parquet", rows, labels=labels)
        found[labels] = (path.read_bytes(), read_recognition_file)
    rows = [recognition_samples.row(n, kind="detection") for n in range(4)]
    path = recognition_samples.write_file(folder / "d.parquet", rows, kind="detection")
    return {**found, "detection": (path.read_bytes(), read_recognition_file)}


@pytest.mark.parametrize("kind", ["flow", "flow without codec", "rle", "png", "zstd", "detection"])
@given(mutation=mutations)
@QUICK
def test_damaged_records_are_read_or_refused_as_damaged(
    tmp_path: Path,
    records: dict[str, tuple[bytes, Callable[[str], object]]],
    kind: str,
    mutation: tuple[str, int],
) -> None:
    data, read = records[kind]
    path = tmp_path / "r.parquet"
    path.write_bytes(mutated(data, mutation))
    with contextlib.suppress(MotionmillError):
        for record in read(str(path)):  # type: ignore[attr-defined]
            if getattr(record, "labels", None) is not None:
                record.full_labels()
