"""What a self-check found, by motion: from clips' rows to a video's table, from videos' tables to the run's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ROW = ("pts", "motion", "psnr", "average_psnr", "ssim", "average_ssim")
"""Columns of a checked frame's row. `motion`: mean absolute difference of its neighbours, 8-bit steps."""
SCORES = ROW[2:]
BINS = (("low", 0.0), ("medium", 3.0), ("high", 8.0))
"""Name, and `motion` from which it counts: a hand-held dog 2, a talking head 5, cyclists filmed from a car 8 to 19."""

Table = dict[str, dict[str, float]]
"""By bin, those without frames left out: frames, and the means of SCORES. The average is the frame average, `blend`."""


def bin_of(motion: float) -> str:
    return [name for name, start in BINS if motion >= start][-1]


def of_clips(extras: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A video's result from its clips' (SelfCheck.as_extra): {"by_motion", "worst", "unreachable"}.

    `worst` is the frame with the lowest PSNR, as a row's values by name. Sums are exact: how the video was cut into
    clips changes no digit.
    """
    extras = list(extras)
    rows = [dict(zip(ROW, row, strict=True)) for extra in extras for row in extra["frames"]]
    table: Table = {}
    for name, _ in BINS:
        inside = [row for row in rows if bin_of(row["motion"]) == name]
        if inside:
            means = {score: round(math.fsum(row[score] for row in inside) / len(inside), 4) for score in SCORES}
            table[name] = {"frames": len(inside), **means}
    return {
        "by_motion": table,
        "worst": min(rows, key=lambda row: (row["psnr"], row["pts"])) if rows else None,
        "unreachable": sum(extra["unreachable"] for extra in extras),
    }


def merged(tables: Sequence[Table]) -> Table:
    """Several videos' tables as one: every frame counts the same. Not rounded: results may be merged again."""
    whole: Table = {}
    for name, _ in BINS:
        parts = [table[name] for table in tables if name in table]
        frames = sum(part["frames"] for part in parts)
        if frames:
            means = {score: math.fsum(part[score] * part["frames"] for part in parts) / frames for score in SCORES}
            whole[name] = {"frames": frames, **means}
    return whole


def rounded(table: Table) -> Table:
    return {name: {column: round(value, 4) for column, value in row.items()} for name, row in table.items()}


def lines(table: Table) -> list[str]:
    """For people; a bin in which the model is behind the frame average says so."""
    rows = [f"{'motion':<8}{'frames':>7}{'PSNR dB':>9}{'SSIM':>8}{'average dB':>12}"]
    for name, found in table.items():
        behind = "   worse than the frame average" if found["psnr"] < found["average_psnr"] else ""
        rows.append(
            f"{name:<8}{found['frames']:>7.0f}{found['psnr']:>9.2f}{found['ssim']:>8.4f}"
            f"{found['average_psnr']:>12.2f}{behind}"
        )
    return rows
