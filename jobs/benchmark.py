#!/usr/bin/env python
"""Speed, measured and not asserted: ours, the plain way and the bound, side by side from one run.

python jobs/benchmark.py interpolate [VIDEO] [--set dotted.key=value]... [--memory]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)
SAMPLE = Path(__file__).resolve().parent / "samples" / "bigbuckbunny.mp4"


@app.callback()
def benchmark() -> None:
    """Benchmarks, one a task."""


@app.command()
def interpolate(
    video: Annotated[Path, typer.Argument(help="A local video.")] = SAMPLE,
    set_: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, as for the job.")] = None,
    seconds: Annotated[float, typer.Option(help="Length of the bare and the plain loop.")] = 30.0,
    memory: Annotated[bool, typer.Option(help="Peak memory on 1080p of 10 s and of 10 min instead.")] = False,
    memory_rate: Annotated[int, typer.Option(help="Frames a second of those videos.")] = 2,
    output: Annotated[Path | None, typer.Option(help="Write the figures as JSON here.")] = None,
) -> None:
    """The bare model, the job and a plain script; or a worker's peak memory."""
    from pipeline import benchmark as bench

    results: list[bench.Speed] | list[bench.Memory]
    if memory:
        results = bench.memory(set_ or [], (10, 600), memory_rate)
        for item in results:
            print(f"1080p, {item.seconds:4d} s, {item.frames:5d} frames: peak {item.peak_rss / 2**20:.0f} MiB a worker")
    else:
        results = [bench.speed(str(video), set_ or [], seconds)]
        print(results[0].text())
    if output is not None:
        output.write_text(bench.as_json(results))


if __name__ == "__main__":
    app()
