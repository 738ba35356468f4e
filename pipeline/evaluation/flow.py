"""A benchmark's pairs, scored and told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from pipeline.errors import ConfigError
from pipeline.evaluation.flow_layouts import Pair
from pipeline.evaluation.flow_metrics import FlowScore, pooled, score
from pipeline.evaluation.flow_sources import Source
from pipeline.records.flow_files import read_flow_image

Scores = Mapping[str, FlowScore]  # "all" and each class of magnitude


@dataclass(frozen=True)
class Row:
    pair: str
    scores: Scores


def evaluate(pairs: Iterable[Pair], source: Source) -> list[Row]:
    """Every pair's scores. Raises what reading raises, and ConfigError for a prediction of another size."""
    rows = []
    for pair in pairs:
        truth = read_flow_image(str(pair.truth), invalid=None if pair.invalid is None else str(pair.invalid))
        flow = source(pair)
        if flow.shape != truth.flow.shape:
            raise ConfigError(
                f"{pair.name}: the prediction is {list(flow.shape)}, the true flow {list(truth.flow.shape)}; store "
                "flows at full resolution (record.scale 1) to evaluate them"
            )
        rows.append(Row(pair.name, score(flow, truth.flow, truth.known)))
    return rows


def summary(rows: Sequence[Row]) -> dict[str, FlowScore]:
    """All pixels together, by class; and "mean over pairs", in which a small picture counts as a large one."""
    classes = {name: pooled([row.scores[name] for row in rows]) for name in rows[0].scores}
    whole = [row.scores["all"] for row in rows if row.scores["all"].pixels]
    means = (fmean(getattr(one, n) for one in whole) for n in ("epe", "px1", "fl", "wauc", "zero")) if whole else ()
    if whole:
        classes["mean over pairs"] = FlowScore(classes["all"].pixels, *means)
    return classes


def table(rows: Sequence[Row]) -> str:
    """One line a pair, then the summary, as people read it."""
    lines = [f"{'pair':36} {'pixels':>9} {'EPE':>8} {'1px %':>7} {'Fl %':>7} {'WAUC':>7} {'zero EPE':>9}"]
    named = [(row.pair, row.scores["all"]) for row in rows] + list(summary(rows).items())
    for name, one in named:
        lines.append(
            f"{name[-36:]:36} {one.pixels:>9} {one.epe:>8.3f} {one.px1:>7.2f} {one.fl:>7.2f} {one.wauc:>7.2f} "
            f"{one.zero:>9.3f}"
        )
    return "\n".join(lines)


def write_json(path: Path, rows: Sequence[Row], prediction: str) -> None:
    document = {
        "prediction": prediction,
        "pairs": [{"pair": row.pair, **{name: asdict(one) for name, one in row.scores.items()}} for row in rows],
        "summary": {name: asdict(one) for name, one in summary(rows).items()},
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
