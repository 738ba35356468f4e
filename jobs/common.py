"""What the task jobs share: help texts, and running a task to its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # so that --help is quick
    from pipeline.config import RunConfig

INPUT_HELP = (
    "A file, folder, glob, prefix, .txt list, .tar shard(s) or Parquet table (columns uri or bytes); "
    "local, s3:// or any fsspec URL."
)
PLAN_HELP = "Print what would be done, and what it would cost, and do nothing."
PLAN_JSON_HELP = "As --plan; the plan also as JSON, into a file or - (standard output)."
MEASURE_HELP = "With --plan: where no run has measured what the model costs, run a few frames here."
OUTPUT_HELP = "A folder or prefix; local, s3:// or any fsspec URL with conditional puts."

C = TypeVar("C", bound="RunConfig")


def load(kind: type[C], path: Path | None, overrides: Sequence[str] | None) -> C:
    from pipeline import config

    return config.load(kind, path, overrides or ())


def execute(
    make_task: Callable[[], Any],
    source: str,
    output: str,
    *,
    plan: bool,
    retry_quarantined: bool,
    overwrite: bool,
    plan_json: str | None = None,
    measure: bool = False,
) -> None:
    """Builds the task and runs it; leaves the process with the exit code of DESIGN.md."""
    # Ray's defaults phone home and write tokens into the home directory; both are off unless asked for.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS"):
        # A cluster started here is bound to loopback: Ray reads this once, when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from pipeline.errors import UsageError
    from pipeline.run import driver, exits, planning

    def job() -> int:
        planned = plan or plan_json is not None
        if measure and not planned:
            raise UsageError("--measure goes with --plan or --plan-json: a run measures what it costs anyway")
        task = make_task()
        if planned:
            return planning.show(task, source, output, planning.Ask(plan_json, measure))
        return driver.run(task, source, output, driver.Options(retry_quarantined, overwrite))

    sys.exit(exits.guarded(job, lambda text: print(text, file=sys.stderr, flush=True)))
