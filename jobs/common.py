"""What the task jobs share: their command line, and running a task to its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:  # so that --help is quick
    from pipeline.config import RunConfig

C = TypeVar("C", bound="RunConfig")

MakeTask = Callable[[Path | None, Sequence[str]], Any]
"""(configuration file, overrides) → the task."""


def load(kind: type[C], path: Path | None, overrides: Sequence[str]) -> C:
    from pipeline import config

    return config.load(kind, path, overrides)


def command(make_task: MakeTask, description: str) -> Callable[..., None]:
    """A task job's `main`, for typer: its arguments, and a run that ends the process with DESIGN.md's exit codes."""

    def main(
        source: Annotated[
            str,
            typer.Argument(
                metavar="INPUT",
                help="A file, folder, glob, prefix, .txt list, .tar shard(s) or Parquet table (columns uri or bytes); "
                "local, s3:// or any fsspec URL.",
            ),
        ],
        output: Annotated[
            str,
            typer.Argument(
                metavar="OUTPUT", help="A folder or prefix; local, s3:// or any fsspec URL with conditional puts."
            ),
        ],
        config: Annotated[Path | None, typer.Option(help="YAML file; configs/ has one a job, with every key.")] = None,
        set_: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, over the file.")] = None,
        plan: Annotated[
            bool, typer.Option("--plan", help="Print what would be done, and what it would cost, and do nothing.")
        ] = False,
        plan_json: Annotated[
            str | None,
            typer.Option(metavar="FILE|-", help="As --plan; the plan also as JSON, to a file or - (standard output)."),
        ] = None,
        measure: Annotated[
            bool,
            typer.Option(
                "--measure", help="With --plan: where no run has measured what the model costs, run a few frames here."
            ),
        ] = False,
        retry_quarantined: Annotated[bool, typer.Option(help="Try quarantined videos again.")] = False,
        overwrite: Annotated[bool, typer.Option(help="Delete another run in OUTPUT first.")] = False,
    ) -> None:
        _prepare_ray()
        from pipeline.errors import UsageError
        from pipeline.run import driver, exits, planning

        def job() -> int:
            planned = plan or plan_json is not None
            if measure and not planned:
                raise UsageError("--measure goes with --plan or --plan-json: a run measures what it costs anyway")
            task = make_task(config, set_ or ())
            if planned:
                return planning.show(task, source, output, planning.Ask(plan_json, measure))
            return driver.run(task, source, output, driver.Options(retry_quarantined, overwrite))

        sys.exit(exits.guarded(job, lambda text: print(text, file=sys.stderr, flush=True)))

    main.__doc__ = f"{description} Exit codes: 0 done, 3 some input quarantined, 2 usage, 1 failed."
    return main


def _prepare_ray() -> None:
    """Ray's defaults phone home and write tokens into the home directory; both are off unless asked for."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS"):
        # A cluster started here is bound to loopback: Ray reads this once, when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
