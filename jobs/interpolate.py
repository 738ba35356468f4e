#!/usr/bin/env python
"""Smoother video: twice the frame rate, any power of two of it, or an exact rate, with sound and times kept.

python jobs/interpolate.py INPUT OUTPUT [--config FILE] [--set dotted.key=value]...
ray job submit --working-dir . -- python jobs/interpolate.py s3://in/clips s3://out/smooth --set target.fps=60
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer

from jobs import common


def task(config: Path | None, overrides: Sequence[str]) -> object:
    from pipeline.config import InterpolateConfig
    from pipeline.tasks.interpolate import InterpolateTask

    return InterpolateTask(common.load(InterpolateConfig, config, overrides))


main = common.command(task, "Interpolate every video of INPUT into OUTPUT.")

if __name__ == "__main__":
    typer.run(main)
