#!/usr/bin/env python
"""Speed, measured and not asserted: ours, the plain way and the bound, side by side from one run.

python jobs/benchmark.py interpolate [VIDEO] [--set dotted.key=value]... [--memory]
python jobs/benchmark.py interpolate FOLDER --adaptive [--size 1280x720]... [--set dotted.key=value]...
python jobs/benchmark.py flow [VIDEO] [--size 960x540] [--model NAME|PATH|random-full] [--set dotted.key=value]...
python jobs/benchmark.py recognize [VIDEO] [--size 1000x600] [--model NAME|PATH|r101-half]... [--budget 1/10]...
python jobs/benchmark.py codecs FILE...
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
    video: Annotated[Path, typer.Argument(help="A local video; with --adaptive also a folder of them.")] = SAMPLE,
    set_: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, as for the job.")] = None,
    adaptive: Annotated[
        bool, typer.Option(help="FLOPs and time of full depth and of adaptive patches instead.")
    ] = False,
    size: Annotated[
        list[str] | None, typer.Option(help="--adaptive: WIDTHxHEIGHT frames are brought to. Repeatable.")
    ] = None,
    each: Annotated[int, typer.Option(min=1, help="--adaptive: triplets of each class of motion.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="--adaptive: measurements of each, of which the best counts.")] = 2,
    device: Annotated[str, typer.Option(help="--adaptive: cpu or cuda.")] = "cpu",
    seconds: Annotated[float, typer.Option(help="Length of the bare model's loop, and of the codecs'.")] = 30.0,
    memory: Annotated[bool, typer.Option(help="Peak memory on 1080p of 10 s and of 10 min instead.")] = False,
    memory_rate: Annotated[int, typer.Option(help="Frames a second of those videos.")] = 2,
    output: Annotated[Path | None, typer.Option(help="Write the figures as JSON here.")] = None,
) -> None:
    """The bare model, the job and a plain script; or a worker's peak memory; or what adaptive patches save."""
    from pipeline import benchmark as bench

    if adaptive:
        sys.exit(_adaptive(video, set_ or [], size or ["1280x720", "1920x1080"], each, rounds, device, output))
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


def _adaptive(
    video: Path, settings: list[str], sizes: list[str], each: int, rounds: int, device: str, output: Path | None
) -> int:
    from pipeline import benchmark, benchmark_adaptive, benchmark_flow
    from pipeline.run import exits

    def measure() -> int:
        wanted = [size for text in sizes if (size := benchmark_flow.size_of(text)) is not None]
        results = benchmark_adaptive.savings(str(video), settings, wanted, each, rounds, device)
        print(benchmark_adaptive.table(results))
        if output is not None:
            output.write_text(benchmark.as_json(results))
        return 0

    return exits.guarded(measure, lambda text: print(text, file=sys.stderr, flush=True))


@app.command()
def flow(
    video: Annotated[Path, typer.Argument(help="A local video.")] = SAMPLE,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT that the video is scaled to; empty: as it is.")] = "960x540",
    model: Annotated[
        str | None,
        typer.Option(help="Weights, by default the job's; random-full: the published sizes, random numbers."),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, as for the job.")] = None,
    frames: Annotated[int, typer.Option(min=3, help="Frames of each of the job's clips, two clips a core.")] = 24,
    rounds: Annotated[int, typer.Option(min=1, help="Frames that both bare loops compute, in turns.")] = 8,
    job: Annotated[bool, typer.Option(help="Measure the whole job too.")] = True,
    output: Annotated[Path | None, typer.Option(help="Write the figures as JSON here.")] = None,
) -> None:
    """Upstream's way of evaluating, our streaming and the whole job: frames a second, arithmetic and peak memory."""
    from pipeline import benchmark, benchmark_flow
    from pipeline.run import exits

    def measure() -> int:
        result = benchmark_flow.speed(
            str(video), model, set_ or [],
            size=benchmark_flow.size_of(size), frames=frames, rounds=rounds, with_job=job,
        )  # fmt: skip
        print(result.text())
        if output is not None:
            output.write_text(benchmark.as_json([result]))
        return 0

    sys.exit(exits.guarded(measure, lambda text: print(text, file=sys.stderr, flush=True)))


@app.command()
def recognize(
    video: Annotated[Path, typer.Argument(help="A local video.")] = SAMPLE,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT that the video is scaled to; empty: as it is.")] = "1000x600",
    model: Annotated[
        list[str] | None,
        typer.Option(help="Weights; r101-flownet, r101-half, r50-…: the published sizes, random numbers. Repeatable."),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, as for the job.")] = None,
    frames: Annotated[int, typer.Option(min=3, help="Frames of the clip.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each loop goes over the clip.")] = 1,
    budget: Annotated[list[str] | None, typer.Option(help="Share of key frames. Repeatable.")] = None,
    job: Annotated[bool, typer.Option(help="Measure the whole job too.")] = True,
    output: Annotated[Path | None, typer.Option(help="Write the figures as JSON here.")] = None,
) -> None:
    """The network on every frame, both key-frame schedules beside the paper's prediction, and the whole job."""
    from fractions import Fraction

    from pipeline import benchmark, benchmark_flow, benchmark_recognize
    from pipeline.run import exits

    def measure() -> int:
        results = benchmark_recognize.speed(
            str(video), model or ["r101-flownet", "r101-half"], set_ or [], size=benchmark_flow.size_of(size),
            frames=frames, rounds=rounds, budgets=[Fraction(one) for one in budget or ["1/5", "1/10"]], with_job=job,
        )  # fmt: skip
        for result in results:
            print(result.text())
        if output is not None:
            output.write_text(benchmark.as_json(results))
        return 0

    sys.exit(exits.guarded(measure, lambda text: print(text, file=sys.stderr, flush=True)))


@app.command()
def codecs(
    files: Annotated[list[str], typer.Argument(help="Flow records (best of codec none), .flo, KITTI PNG or .flo5.")],
) -> None:
    """Our flow codec against its rivals on the files' fields: size, error and speed of one core."""
    from pipeline.records import flow_codec_benchmark

    print(flow_codec_benchmark.table(flow_codec_benchmark.measure_codecs(flow_codec_benchmark.fields_of(files))))


if __name__ == "__main__":
    app()
