"""`make audit`: everything that is installed is pinned, at that version, and nothing comes from beside the index.

A lock check, since known vulnerabilities can only be asked for where the network allows it: there,
`pip install pip-audit && pip-audit -r constraints.txt` says more.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import sysconfig
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = {"motionmill"}
TOOLS = {"pip", "setuptools", "wheel"}
"""Come with the virtual environment, and are not imported."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> tuple[dict[str, str], list[str]]:
    """name → version, and lines that pin nothing: ranges, addresses, names without a version, names given twice."""
    found: dict[str, str] = {}
    wrong = []
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        exact = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.!+_-]*)", line)
        if exact is None:
            wrong.append(f"constraints.txt: {line!r} is not name==version")
        elif canonical(exact[1]) in found:
            wrong.append(f"constraints.txt: {exact[1]} is pinned twice")
        else:
            found[canonical(exact[1])] = exact[2]
    return found, wrong


def unpinned(installed: Mapping[str, str], pinned: Mapping[str, str]) -> list[str]:
    """What is installed and not locked, or in another version. A local version ("+cpu") may differ."""
    wrong = []
    for name, version in sorted(installed.items()):
        if name in OURS | TOOLS:
            continue
        if name not in pinned:
            wrong.append(f"{name} {version} is installed and not pinned; add it to constraints.txt")
        elif version.partition("+")[0] != pinned[name].partition("+")[0]:
            wrong.append(f"{name} {version} is installed, {pinned[name]} is pinned; run make clean, and install anew")
    return wrong


def undeclared(project: Mapping[str, object], pinned: Mapping[str, str]) -> list[str]:
    """Requirements of pyproject.toml without a pin, or from an address."""
    optional = project.get("optional-dependencies", {})
    assert isinstance(optional, dict)
    wanted = [*project["dependencies"], *(line for lines in optional.values() for line in lines)]  # type: ignore[misc]
    wrong = []
    for line in wanted:
        name = canonical(re.split(r"[\[<>=!~;@ ]", str(line), maxsplit=1)[0])
        if "@" in str(line) or name not in pinned:
            wrong.append(f"pyproject.toml: {line!r} has no pin in constraints.txt")
    return wrong


def audit() -> list[str]:
    pinned, wrong = pins((ROOT / "constraints.txt").read_text())
    # Not sys.path: Ray adds a folder to it with packages of its own.
    places = sorted({sysconfig.get_path(kind) for kind in ("purelib", "platlib")})
    found = importlib.metadata.distributions(path=places)
    installed = {canonical(one.metadata["Name"]): one.version for one in found}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*wrong, *unpinned(installed, pinned), *undeclared(project, pinned)]


if __name__ == "__main__":
    problems = audit()
    print("\n".join(problems) or "everything that is installed is pinned, at that version")
    sys.exit(1 if problems else 0)
