#!/usr/bin/env python
"""Measure models on real clips and benchmarks.

python jobs/evaluate.py interpolate CLIPS [--weights cain-compact] [--json FILE]
python jobs/evaluate.py sd-table CLIPS [--weights cain-sd-compact] [--price 20]... [--json FILE]
python jobs/evaluate.py rife-table CLIPS [--weights rife-4.14] [--quality 0.5]... [--json FILE]
python jobs/evaluate.py any-time CLIPS [--model cain-sd-compact]... [--json FILE]
python jobs/evaluate.py flow PRED GT [--layout auto] [--json FILE]
python jobs/evaluate.py recognize OUTPUT --reference OUTPUT | --labels FOLDER | --boxes FILE [--json FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer

app = typer.Typer(help=__doc__, no_args_is_help=True)


def show(evaluation: ModuleType, measure: Callable[[], Any], json_: Path | None, *notes: Any) -> NoReturn:
    """Prints what was measured as the module's table, writes it as JSON where asked, and ends with the exit code."""
    from pipeline.run import exits

    def job() -> int:
        scores = measure()
        print(evaluation.table(scores))
        if json_ is not None:
            evaluation.write_json(json_, scores, *notes)
        return 0

    sys.exit(exits.guarded(job, lambda text: print(text, file=sys.stderr, flush=True)))


@app.callback()
def group() -> None:
    """Measure models on real clips and benchmarks."""


@app.command()
def interpolate(
    clips: Annotated[Path, typer.Argument(help="A folder of video files, or one file.")],
    weights: Annotated[
        str, typer.Option(help="A name, path or URI of weights of CAIN, CAIN-SD or RIFE.")
    ] = "cain-compact",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    padding: Annotated[str, typer.Option(help="official: to multiples of 128; tight: of the shuffle.")] = "official",
    exit_depth: Annotated[int | None, typer.Option(help="Residual group, or RIFE's block, to stop after.")] = None,
    quality: Annotated[float, typer.Option(help="CAIN-SD: 0 the cheapest, 1 full depth.")] = 0.5,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.")] = None,
) -> None:
    """Frames (i, i+2) of each clip give i+1, for i = 0, 10, 20, … inside a shot: PSNR and SSIM beside the average's."""
    from pipeline.training import evaluation

    def measure() -> Any:
        model = evaluation.network(weights, precision, padding, exit_depth, threads, quality)
        return evaluation.evaluate_folder(clips, model)

    show(evaluation, measure, json_, weights)


@app.command()
def sd_table(
    clips: Annotated[Path, typer.Argument(help="A folder of video files, or one file.")],
    weights: Annotated[str, typer.Option(help="A name, path or URI of weights of CAIN-SD.")] = "cain-sd-compact",
    plain: Annotated[str | None, typer.Option(help="Weights of a plain CAIN to compare with.")] = "cain-compact",
    price: Annotated[
        list[float] | None, typer.Option(help="Of full depth, in nats of probability; repeatable.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Only each n-th triplet.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.")] = None,
) -> None:
    """PSNR, SSIM and FLOPs as in the paper: full depth, exits, scales, CAIN-S, -D and -SD, by price and patch size."""
    from pipeline.training import sd_evaluation as evaluation

    def measure() -> Any:
        return evaluation.run(clips, weights, plain, price or [], every, precision, threads)

    show(evaluation, measure, json_, weights)


@app.command()
def rife_table(
    clips: Annotated[Path, typer.Argument(help="A folder of video files, or one file.")],
    weights: Annotated[str, typer.Option(help="A name, path or URI of weights of RIFE.")] = "rife-4.14",
    finder: Annotated[str, typer.Option(help="What chooses an exit for each patch.")] = "rife-finder",
    quality: Annotated[list[float] | None, typer.Option(help="0 the cheapest, 1 full depth; repeatable.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Only each n-th triplet.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.")] = None,
) -> None:
    """PSNR, FLOPs and time of RIFE's four blocks, of three, and of an exit for each patch at several qualities."""
    from pipeline.training import rife_finder_evaluation as evaluation

    show(evaluation, lambda: evaluation.run(clips, weights, finder, quality or [], every, threads), json_)


@app.command()
def any_time(
    clips: Annotated[Path, typer.Argument(help="A folder of video files, or one file.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="As jobs/interpolate.py's; NAME:recursion; average, aligned, splatted: no network. Repeatable."
        ),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Only each n-th window.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.")] = None,
) -> None:
    """PSNR at t = 1/4, 1/2 and 3/4 between frames four apart, and seconds of the processor a frame, model by model."""
    from pipeline.training import splat_evaluation as evaluation

    names = model or [*evaluation.PLAIN, "cain-sd-compact:recursion", "cain-sd-compact"]
    show(evaluation, lambda: evaluation.run(clips, names, every, precision, threads), json_)


@app.command()
def flow(
    pred: Annotated[
        str, typer.Argument(help="Flow files, an output of jobs/flow.py, or model:NAME of MEMFOF weights.")
    ],
    gt: Annotated[Path, typer.Argument(help="A benchmark's root folder.")],
    layout: Annotated[str, typer.Option(help="spring, sintel, things, tartanair, hd1k, kitti, …; or auto.")] = "auto",
    render: Annotated[str, typer.Option(help="Pictures of Sintel and Things: clean or final.")] = "final",
    iterations: Annotated[int, typer.Option(help="Of model:NAME.")] = 8,
    scale: Annotated[float, typer.Option(help="Of the pictures that model:NAME sees; 2 suits small ones.")] = 1.0,
    threads: Annotated[int, typer.Option(help="CPU threads of model:NAME.")] = 2,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.")] = None,
) -> None:
    """End-point error, 1px, Fl-all and WAUC of flows against the truth, by magnitude of motion."""
    from pipeline.evaluation import flow as evaluation
    from pipeline.evaluation import flow_layouts, flow_sources

    def measure() -> Any:
        pairs = flow_layouts.find_pairs(gt, layout, render)
        source = flow_sources.source(pred, iterations=iterations, scale=scale, threads=threads)
        return evaluation.evaluate(pairs, source)

    show(evaluation, measure, json_, pred)


@app.command()
def recognize(
    output: Annotated[str, typer.Argument(help="An output of jobs/recognize.py.")],
    reference: Annotated[
        str | None, typer.Option(help="An output of the same videos to agree with, made with key_frames.budget=1.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Folder of label maps: VIDEO/000000.png, …")] = None,
    boxes: Annotated[Path | None, typer.Option(help="COCO file of boxes; its images are VIDEO/000000.…")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.")] = None,
) -> None:
    """mIoU of segmentation, mAP of detection: against the truth, or against the network run on every frame."""
    from pipeline.errors import UsageError
    from pipeline.evaluation import recognition as evaluation
    from pipeline.records import read_recognition

    def measure() -> Any:
        found = read_recognition(output)
        if sum(choice is not None for choice in (reference, labels, boxes)) != 1:
            raise UsageError("give exactly one of --reference, --labels and --boxes")
        if reference is not None:
            return evaluation.against_run(found, read_recognition(reference))
        if labels is not None:
            return evaluation.against_labels(found, labels)
        assert boxes is not None
        return evaluation.against_boxes(found, boxes)

    show(evaluation, measure, json_)


@app.command()
def schedules(
    clips: Annotated[list[Path], typer.Argument(help="Local videos.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, as for jobs/recognize.py.")] = None,
    budget: Annotated[list[str] | None, typer.Option(help="Share of key frames. Repeatable.")] = None,
    frames: Annotated[int, typer.Option(help="Of each clip, from its beginning.")] = 60,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.")] = None,
) -> None:
    """Fixed and look-ahead key frames at equal numbers: error of carried features, agreement with every frame's own."""
    from fractions import Fraction

    from pipeline.evaluation import schedules as evaluation

    def measure() -> Any:
        budgets = [Fraction(one) for one in budget or ["1/5", "1/10", "1/15"]]
        return list(evaluation.compare(clips, set_ or [], budgets, frames, threads))

    show(evaluation, measure, json_)


if __name__ == "__main__":
    app()
