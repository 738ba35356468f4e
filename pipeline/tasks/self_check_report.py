"""What a self-check found, by motion: from clips' rows to a video's table, from videos' tables to the run's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ROW = ("pts", "motion", "psnr", "average_psnr", "ssim")
"""Columns of a checked frame's row. `motion`: mean absolute difference of its neighbours, 8-bit steps."""
SCORES = ROW[2:]
BINS = (("low", 0.0), ("medium", 3.0), ("high", 8.0))
"""Name, and `motion` from which it counts: a hand-held dog 2, a talking head 5, cyclists filmed from a car 8 to 19."""

Table = dict[str, dict[str, float]]
"""By bin, those without frames left out: frames, and the means of SCORES. The average is the frame average, `blend`."""
Result = dict[str, Any]
"""{"by_motion": Table, "unreachable": frames that were not checked because the model makes no picture at their time}; a
video's has {"worst": row by ROW, of the lowest PSNR} too. Empty: nothing was to be checked."""


def bin_of(motion: float) -> str:
    return [name for name, start in BINS if motion >= start][-1]


def of_clips(extras: Iterable[Mapping[str, Any]]) -> Result:
    """A video's result from its clips' (SelfCheck.as_extra).

    Sums are exact: how the video was cut into clips changes no digit.
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
        "unreachable": sum(extra["unreachable"] for extra in extras),
        "worst": min(rows, key=lambda row: (row["psnr"], row["pts"])) if rows else None,
    }


def merged(results: Sequence[Result]) -> Result:
    """Several videos' results as one: every frame counts the same. Not rounded: results may be merged again."""
    tables: list[Table] = [result["by_motion"] for result in results if result]
    whole: Table = {}
    for name, _ in BINS:
        parts = [table[name] for table in tables if name in table]
        frames = sum(part["frames"] for part in parts)
        if frames:
            means = {score: math.fsum(part[score] * part["frames"] for part in parts) / frames for score in SCORES}
            whole[name] = {"frames": frames, **means}
    return {"by_motion": whole, "unreachable": sum(result["unreachable"] for result in results if result)}


def rounded(result: Result) -> Result:
    """As a run stores it."""
    if not result:
        return {}
    table: Table = result["by_motion"]
    return result | {
        "by_motion": {name: {key: round(value, 4) for key, value in row.items()} for name, row in table.items()}
    }


def lines(result: Result) -> list[str]:
    """For people; a bin in which the model is behind the frame average says so."""
    if not result:
        return []
    rows = [f"{'motion':<8}{'frames':>7}{'PSNR dB':>9}{'SSIM':>8}{'average dB':>12}"]
    for name, found in result["by_motion"].items():
        behind = "   worse than the frame average" if found["psnr"] < found["average_psnr"] else ""
        rows.append(
            f"{name:<8}{found['frames']:>7.0f}{found['psnr']:>9.2f}{found['ssim']:>8.4f}"
            f"{found['average_psnr']:>12.2f}{behind}"
        )
    if result["unreachable"]:
        rows.append(f"{result['unreachable']} not checked: no midpoint within max_t_error of their time")
    return rows
