"""Runs cases of the matrix; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

from tests.chaos.faults import FAULTS
from tests.chaos.lab import SETS, Lab
from tests.chaos.table import latest, table
from tests.e2e.support import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--task", action="append", choices=SETS, help="which jobs; default: all")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="which faults; default: all")
    parser.add_argument("--results", type=Path, default=ROOT / "out" / "chaos", help="folder for results and the table")
    parser.add_argument("--missing", action="store_true", help="only cases that have not passed yet")
    parser.add_argument("--table-only", action="store_true", help="run nothing, print the table")
    arguments = parser.parse_args()
    folder: Path = arguments.results
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    passed = {case for case, result in latest(results).items() if result["ok"]}
    cases = [
        (task, fault)
        for task in arguments.task or SETS
        for fault in arguments.fault or FAULTS
        if not (arguments.missing and (fault, task) in passed)
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that clusters and servers are ended
    failed = 0
    if cases and not arguments.table_only:
        with Lab(folder) as lab:
            for task, fault in cases:
                result = lab.run(task, fault)
                failed += not result.ok
                with results.open("a") as file:
                    file.write(json.dumps(result.to_json()) + "\n")
                print(f"{task} {fault}: {'ok' if result.ok else 'FAILED'} {result.seconds} s {result.said}", flush=True)
    text = table(results)
    (folder / "table.md").write_text(text)
    print(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
