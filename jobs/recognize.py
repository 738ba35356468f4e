#!/usr/bin/env python
"""Recognition in every frame (segmentation, detection) by Deep Feature Flow, as records in Parquet.

python jobs/recognize.py INPUT OUTPUT [--config FILE] [--set dotted.key=value]...
ray job submit --working-dir . -- python jobs/recognize.py s3://in/clips s3://out/found --set key_frames.budget=1/5
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer

from jobs import common


def task(config: Path | None, overrides: Sequence[str]) -> object:
    from pipeline.config_recognize import RecognizeConfig
    from pipeline.tasks.recognize import RecognizeTask

    return RecognizeTask(common.load(RecognizeConfig, config, overrides))


main = common.command(task, "Annotates each video of INPUT into OUTPUT.")

if __name__ == "__main__":
    typer.run(main)
