"""The matrix as Markdown, from what has been run: the last result of each case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS
from tests.chaos.lab import SETS


def latest(results: Path) -> dict[tuple[str, str], dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    if results.exists():
        for line in results.read_text().splitlines():
            result = json.loads(line)
            found[result["fault"], result["task"]] = result
    return found


def table(results: Path) -> str:
    found = latest(results)
    lines = [f"| fault | {' | '.join(SETS)} |", "| --- |" + " --- |" * len(SETS)]
    for name, fault in FAULTS.items():
        cells = [_cell(found.get((name, task))) for task in SETS]
        lines.append(f"| **{name}**: {fault.does} | {' | '.join(cells)} |")
    passed = sum(result["ok"] for result in found.values())
    lines += ["", f"{passed} of {len(found)} cases passed, of {len(FAULTS) * len(SETS)} in the matrix."]
    return "\n".join(lines) + "\n"


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return "not run"
    if not result["ok"]:
        return "not run here" if result["said"].startswith("not run") else "**FAILED**"
    more = []
    if result["injected"]:
        more.append(f"{sum(result['injected'].values())} hits")
    if result["clips_taken_over"]:
        more.append(f"{result['clips_taken_over']} clips taken over")
    codes = " → ".join(map(str, result["codes"]))
    detail = ", ".join([f"exit {codes}", *more, f"{result['seconds']:.0f} s"])
    return f"same {result['rows']} rows ({detail})"
