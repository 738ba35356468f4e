"""--data as jobs/train.py takes it: FOLDER, or NAME=FOLDER where a recipe has several sources."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError


def named(data: Path) -> tuple[str, Path]:
    """NAME=FOLDER -> (NAME, FOLDER); a plain folder, also one with = in its name, has the name "".

    Raises ConfigError for NAME= alone.
    """
    name, sign, folder = str(data).partition("=")
    if not sign or "/" in name or data.exists():
        return "", data
    if not folder:
        raise ConfigError(f"--data {data}: no folder after the =; write --data {name}=FOLDER")
    return name, Path(folder).expanduser()


def resolved(data: Path) -> str:
    """The same for any working folder."""
    name, folder = named(data)
    return f"{name}={folder.resolve()}" if name else str(folder.resolve())
