#!/usr/bin/env python
"""Measure models on real clips.

python jobs/evaluate.py interpolate CLIPS [--weights cain-compact] [--json FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.callback()
def group() -> None:
    """Measure models on real clips."""


@app.command()
def interpolate(
    clips: Annotated[Path, typer.Argument(help="A folder of video files, or one file.")],
    weights: Annotated[str, typer.Option(help="A name, path or URI of weights of CAIN or RIFE.")] = "cain-compact",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    padding: Annotated[str, typer.Option(help="official: to multiples of 128; tight: of the shuffle.")] = "official",
    exit_depth: Annotated[int | None, typer.Option(help="Residual group, or RIFE's block, to stop after.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.")] = None,
) -> None:
    """Frames (i, i+2) of each clip give i+1, for i = 0, 10, 20, … inside a shot: PSNR and SSIM beside the average's."""
    from pipeline.run import driver
    from pipeline.training import evaluation

    def job() -> int:
        model = evaluation.network(weights, precision, padding, exit_depth, threads)
        scores = evaluation.evaluate_folder(clips, model)
        print(evaluation.table(scores))
        if json_ is not None:
            evaluation.write_json(json_, scores, weights)
        return 0

    sys.exit(driver.guarded(job, lambda text: print(text, file=sys.stderr, flush=True)))


if __name__ == "__main__":
    app()
