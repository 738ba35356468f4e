#!/usr/bin/env python
"""Smoother video: twice the frame rate, any power of two of it, or an exact rate, with sound and times kept.

python jobs/interpolate.py INPUT OUTPUT [--config FILE] [--set dotted.key=value]...
ray job submit --working-dir . -- python jobs/interpolate.py s3://in/clips s3://out/smooth --set target.fps=60
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer

from jobs import common


def main(
    source: Annotated[str, typer.Argument(metavar="INPUT", help=common.INPUT_HELP)],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help=common.OUTPUT_HELP)],
    config: Annotated[Path | None, typer.Option(help="YAML file; configs/interpolate.yaml lists every key.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, over the file.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help=common.PLAN_HELP)] = False,
    plan_json: Annotated[str | None, typer.Option(metavar="FILE|-", help=common.PLAN_JSON_HELP)] = None,
    measure: Annotated[bool, typer.Option("--measure", help=common.MEASURE_HELP)] = False,
    retry_quarantined: Annotated[bool, typer.Option(help="Try quarantined videos again.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Delete another run in OUTPUT first.")] = False,
) -> None:
    """Interpolate every video of INPUT into OUTPUT. Exit codes: 0 done, 3 some input quarantined, 2 usage, 1 failed."""
    from pipeline.config import InterpolateConfig
    from pipeline.tasks.interpolate import InterpolateTask

    common.execute(
        lambda: InterpolateTask(common.load(InterpolateConfig, config, set_)),
        source, output, plan=plan, retry_quarantined=retry_quarantined, overwrite=overwrite,
        plan_json=plan_json, measure=measure,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
