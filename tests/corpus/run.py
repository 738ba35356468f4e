"""Makes mutants, has each examined, judges it, and adds up."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.corpus.judge import judge
from tests.corpus.mutate import mutant
from tests.corpus.sandbox import Sandbox


@dataclass
class Totals:
    files: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    by_mutation: dict[str, Counter[str]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    changed: int = 0
    """Committed with other pictures than the intact file's."""
    slowest_s: float = 0.0
    peak_rss: int = 0
    wrong: list[str] = field(default_factory=list)

    def text(self) -> str:
        lines = [
            f"{self.files} files: {self.outcomes['committed']} committed ({self.changed} of them with other pictures "
            f"than the intact file's), {self.outcomes['refused']} in quarantine, {len(self.wrong)} wrong",
            f"slowest {self.slowest_s:.1f} s, most memory {self.peak_rss >> 20} MiB",
            "",
            "| mutation | committed | of them changed | in quarantine |",
            "| --- | --- | --- | --- |",
        ]
        for name, counts in sorted(self.by_mutation.items()):
            lines.append(f"| {name} | {counts['committed']} | {counts['changed']} | {counts['refused']} |")
        errors = ", ".join(f"{name} {count}" for name, count in self.errors.most_common())
        return "\n".join([*lines, "", f"errors: {errors}", *self.wrong])


def run(numbers: Iterable[int], seed: int = 0, keep: Path | None = None) -> Totals:
    """Examines the mutants of these numbers. Those that are judged wrong are kept in the folder `keep`."""
    totals = Totals()
    with tempfile.TemporaryDirectory() as name, Sandbox(Path(name) / "log") as sandbox:
        for number in numbers:
            made = mutant(number, seed)
            path = Path(name) / made.name
            path.write_bytes(made.data)
            answer = sandbox.examine(path)
            verdict = judge(made, answer)
            totals.files += 1
            totals.outcomes[verdict.outcome] += 1
            counts = totals.by_mutation.setdefault(made.mutation, Counter())
            counts[verdict.outcome] += 1
            counts["changed"] += verdict.changed
            totals.changed += verdict.changed
            totals.errors[answer.get("error", "none")] += 1
            totals.slowest_s = max(totals.slowest_s, answer.get("seconds", 0.0))
            totals.peak_rss = max(totals.peak_rss, answer.get("peak_rss", 0))
            if verdict.wrong:
                totals.wrong.append(f"{made.name}: {'; '.join(verdict.wrong)}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    path.rename(keep / made.name)
                    (keep / f"{made.name}.json").write_text(json.dumps(answer, indent=1))
            path.unlink(missing_ok=True)
    return totals
