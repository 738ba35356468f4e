#!/usr/bin/env python
"""Dense optical flow of every frame to both its neighbours (MEMFOF), as records in Parquet.

python jobs/flow.py INPUT OUTPUT [--config FILE] [--set dotted.key=value]...
ray job submit --working-dir . -- python jobs/flow.py s3://in/clips s3://out/flow --set stored_scale=1/4
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer

from jobs import common


def task(config: Path | None, overrides: Sequence[str]) -> object:
    from pipeline.config_flow import FlowConfig
    from pipeline.tasks.flow import FlowTask

    return FlowTask(common.load(FlowConfig, config, overrides))


main = common.command(task, "Flow of every video of INPUT into OUTPUT.")

if __name__ == "__main__":
    typer.run(main)
