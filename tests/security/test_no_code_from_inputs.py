"""No input is ever unpickled or evaluated: not videos, shards, tables, weights or configuration."""

from __future__ import annotations

import ast
import io
import pickle
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models import weights
from pipeline.config import DecodeConfig, InputConfig, InterpolateConfig, RetryConfig, load
from pipeline.errors import ConfigError, UnreadableVideo
from pipeline.media.probe import probe
from pipeline.media.source import open_source
from pipeline.plan.discover import discover
from pipeline.storage import Storage
from pipeline.types import VideoRef
from tests.e2e.support import ROOT

STORAGE = Storage(RetryConfig(storage_attempts=1))
FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "marshal.loads",
    "marshal.load", "shelve.open", "joblib.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system",
    "os.popen", "eval", "exec", "torch.jit.load",
}  # fmt: skip


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(path.read_text())
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_no_module_calls_what_could_run_code_from_data() -> None:
    found = []
    for folder in ("pipeline", "models", "jobs"):
        for path in (ROOT / folder).rglob("*.py"):
            for name, call in calls(path):
                words = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                if name in FORBIDDEN:
                    found.append(f"{path}:{call.lineno}: {name}")
                if name == "torch.load" and words.get("weights_only") != "True":
                    found.append(f"{path}:{call.lineno}: torch.load without weights_only=True")
                if {words.get("shell"), words.get("allow_pickle")} - {None, "False"}:
                    found.append(f"{path}:{call.lineno}: {name}({words})")
    assert not found


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "was-here"


def videos(source: Path) -> list[VideoRef]:
    return [found for found in discover(str(source), InputConfig(), STORAGE) if isinstance(found, VideoRef)]


def test_pickles_in_tables_shards_and_files_are_no_videos_and_do_not_run(tmp_path: Path, mark: Path) -> None:
    evil = pickle.dumps(Payload(mark))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(evil)
    pq.write_table(pa.table({"bytes": [evil], "name": ["b.mp4"]}), folder / "cells.parquet")
    with tarfile.open(folder / "shard.tar", "w") as tar:
        header = tarfile.TarInfo("c.mp4")
        header.size = len(evil)
        tar.addfile(header, io.BytesIO(evil))
    found = videos(folder)
    assert len(found) == 3
    for video in found:
        with open_source(video, STORAGE) as file, pytest.raises(UnreadableVideo):
            probe(file, video, InputConfig(), DecodeConfig())
    assert not mark.exists()


def test_arrow_metadata_of_a_table_runs_nothing(tmp_path: Path, mark: Path) -> None:
    evil = pickle.dumps(Payload(mark))
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": evil}
    field = pa.field("uri", pa.string(), metadata=extension)
    table = pa.table([["a.mp4"]], schema=pa.schema([field], metadata={b"pandas": evil, b"huggingface": evil}))
    (tmp_path / "a.mp4").write_bytes(b"anything")
    pq.write_table(table, tmp_path / "list.parquet")
    assert [video.name for video in videos(tmp_path / "list.parquet")] == ["a.mp4"]
    assert not mark.exists()


@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.pt", "w.bin", "w.safetensors", "w"])
@pytest.mark.parametrize("form", ["plain", "zip", "legacy", "within"])
def test_weights_that_hold_a_payload_are_refused_under_any_name(
    tmp_path: Path, mark: Path, name: str, form: str
) -> None:
    content: object = Payload(mark)
    if form == "within":
        content = {"state_dict": {"a": torch.ones(1)}, "optimizer": Payload(mark)}
    target = io.BytesIO()
    if form == "plain":
        target.write(pickle.dumps(content))
    else:
        torch.save(content, target, _use_new_zipfile_serialization=form != "legacy")
    path = tmp_path / name
    path.write_bytes(target.getvalue())
    with pytest.raises(weights.WeightsError):
        weights.load(path)
    assert not mark.exists()


def test_yaml_tags_of_a_configuration_run_nothing(tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"model: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(InterpolateConfig, path)
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(InterpolateConfig, None, ["model=!!python/object/apply:os.getcwd []"])
    assert not mark.exists()
