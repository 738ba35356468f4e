"""Measures, and writes the table; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

from tests.costs.lab import RUNS, SMALL, Lab
from tests.costs.table import table
from tests.e2e.support import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.costs", description=__doc__)
    parser.add_argument("--task", action="append", choices=list(SMALL), help="only this one")
    parser.add_argument("--only", choices=("small", "real"), help="only the runs for requests, or the one for bytes")
    parser.add_argument("--missing", action="store_true", help="only what has not been measured yet")
    parser.add_argument("--videos", type=Path, default=ROOT / "jobs" / "samples", help="folder, for bytes and memory")
    parser.add_argument("--set", action="append", default=[], help="further settings of the real run")
    parser.add_argument("--results", type=Path, default=ROOT / "out" / "costs", help="folder")
    parser.add_argument("--table", action="store_true", help="only the table of what has been measured")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that clusters and servers are ended
    if not arguments.table:
        with Lab() as lab:
            for task in arguments.task or SMALL:
                _measure(lab, task, arguments)
    results = {
        task: json.loads(_path(arguments, task).read_text()) for task in SMALL if _path(arguments, task).exists()
    }
    whole = {task: result for task, result in results.items() if _is_whole(result)}
    text = table(whole)
    (arguments.results / "table.md").write_text(text)
    print(text)
    return 0


def _measure(lab: Lab, task: str, arguments: argparse.Namespace) -> None:
    path = _path(arguments, task)
    result = _read(path) if arguments.missing or arguments.only else {}

    def keep(key: str, value: object) -> None:
        result[key] = value
        path.write_text(json.dumps(result, indent=1))

    if arguments.only != "real":
        small, state = (dict(result.get(key, {})) if arguments.missing else {} for key in ("small", "state"))
        for name, counts, left in lab.small_runs(task, list(small)):
            small[name] = [[kind, purpose, count] for (kind, purpose), count in sorted(counts.items())]
            state[name] = left
            keep("small", small)
            keep("state", state)
    if arguments.only != "small" and not (arguments.missing and {"real", "catalogue"} <= result.keys()):
        keep("real", lab.real_run(task, arguments.videos, tuple(arguments.set)))
        keep("catalogue", lab.catalogue(task))


def _is_whole(result: dict[str, Any]) -> bool:
    return {"small", "real", "catalogue"} <= result.keys() and {name for name, *_ in RUNS} - {"shared"} <= {
        *result["small"]
    }


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _path(arguments: argparse.Namespace, task: str) -> Path:
    return Path(arguments.results) / f"{task}.json"


if __name__ == "__main__":
    sys.exit(main())
