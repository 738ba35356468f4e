"""The weights table and its loader."""

from __future__ import annotations

import hashlib
import io
import re
from collections import OrderedDict
from pathlib import Path

import fsspec
import pytest
import safetensors.torch
import torch

from models import weights
from models.cain_sd import CAIN

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def saved(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def assert_tensors(loaded: weights.Weights) -> None:
    assert loaded.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(loaded.tensors[name], TENSORS[name]) for name in TENSORS)


def test_every_table_line_that_ships_is_there_with_its_digest_and_loads() -> None:
    shipped = {name: entry for name, entry in weights.TABLE.items() if entry.source and "://" not in entry.source}
    assert "cain-compact" in shipped
    for name, entry in shipped.items():
        data = (weights.HERE / str(entry.source)).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry.sha256
        assert len(data) == entry.size < 20_000_000
        loaded = weights.load(name)
        assert (loaded.name, loaded.sha256) == (name, entry.sha256)
        assert loaded.metadata["network"] == entry.network


def test_the_default_weights_build_a_network_of_five_groups() -> None:
    network = CAIN.from_reference(weights.load("cain-compact").tensors)
    assert network.sizes["groups"] == 5
    assert network.head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(saved(TENSORS), id="state dict"),
        pytest.param(saved(OrderedDict(TENSORS), _use_new_zipfile_serialization=False), id="legacy file"),
        pytest.param(saved({"epoch": 3, "state_dict": TENSORS, "best_psnr": 34.6}), id="wrapped"),
        pytest.param(saved({f"module.{k}": v for k, v in TENSORS.items()}), id="DataParallel"),
        pytest.param(saved({"state_dict": {f"generator.{k}": v for k, v in TENSORS.items()}}), id="mmagic"),
        pytest.param(safetensors.torch.save(TENSORS), id="safetensors"),
    ],
)
def test_each_published_form_gives_the_same_tensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.weights"
    path.write_bytes(content)
    loaded = weights.load(path)
    assert_tensors(loaded)
    assert loaded.sha256 == hashlib.sha256(content).hexdigest()


def test_a_prefix_that_only_some_names_have_stays() -> None:
    names = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert weights.strip_prefixes(names).keys() == names.keys()


def test_metadata_of_safetensors_travels(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.torch.save(TENSORS, {"licence": "CC0"}))
    assert weights.load(path).metadata == {"licence": "CC0"}


def test_any_fsspec_url_is_read() -> None:
    data = safetensors.torch.save(TENSORS)
    with fsspec.open("memory://weights-test/w.safetensors", "wb") as file:
        file.write(data)
    loaded = weights.load("memory://weights-test/w.safetensors", sha256=hashlib.sha256(data).hexdigest())
    assert loaded.name == "w.safetensors"
    assert_tensors(loaded)


def test_another_digest_than_declared_is_refused_with_both(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.torch.save(TENSORS))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(weights.WeightsError, match=f"{re.escape(str(path))}.*{found}.*{'0' * 64}"):
        weights.load(path, sha256="0" * 64)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("/tmp/motionmill-was-here"),))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_that_could_run_code_are_refused_and_do_not_run(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(saved({"state_dict": TENSORS, "x": Evil()}, _use_new_zipfile_serialization=not legacy))
    with pytest.raises(weights.WeightsError, match="refused"):
        weights.load(path)
    assert not Path("/tmp/motionmill-was-here").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "neither safetensors nor", id="empty"),
        pytest.param(b"<html>not found</html>", "neither safetensors nor", id="web page"),
        pytest.param(safetensors.torch.save(TENSORS)[:-4], "damaged safetensors", id="cut short"),
        pytest.param(saved(TENSORS)[:-40], "neither safetensors nor", id="state dict cut short"),
        pytest.param(saved([1, 2]), "holds list", id="a list"),
        pytest.param(saved({"a": torch.ones(1), "lr": 0.1}), r"entries \['lr'\] are not tensors", id="mixed"),
    ],
)
def test_what_is_no_weights_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(weights.WeightsError, match=f"{re.escape(str(path))}.*{message}"):
        weights.load(path)


def test_missing_weights_name_the_alternatives(tmp_path: Path) -> None:
    with pytest.raises(weights.WeightsError, match="names in the table: cain, cain-compact, cain-sd-compact"):
        weights.load("cain-compcat")
    with pytest.raises(weights.WeightsError, match=r"nothing found at memory://nowhere/w\.pth"):
        weights.load("memory://nowhere/w.pth")
    with pytest.raises(weights.WeightsError, match="cannot be read"):
        weights.load("nosuchscheme://bucket/w.pth")


def test_weights_that_only_their_authors_host_ask_for_a_path() -> None:
    with pytest.raises(weights.WeightsError, match=r"pretrained_cain\.pth.*give the path"):
        weights.load("cain")
