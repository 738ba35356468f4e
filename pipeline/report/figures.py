"""Charts as plotly's JSON: {"data": […], "layout": {…}}. The page adds colours of its light or dark side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

Figure = dict[str, Any]

BLUE, ORANGE, GREEN, RED, GREY, PURPLE = "#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#94a3b8", "#8b5cf6"
STAGE_COLOURS = {
    "model": GREEN, "decode": BLUE, "encode": PURPLE, "decode_starved": ORANGE, "encode_blocked": RED,
}  # fmt: skip


def throughput(timeline: Sequence[Mapping[str, Any]], ceiling: float | None) -> Figure | None:
    """Frames a second between neighbouring points of a summary's timeline, and the model's own ceiling."""
    if len(timeline) < 2:
        return None
    times: list[float] = []
    rates: list[float] = []
    for before, after in pairwise(timeline):
        span = after["t"] - before["t"]
        if span > 0:
            rate = round((after["frames"] - before["frames"]) / span, 3)
            if not times:
                times, rates = [round(before["t"], 2)], [rate]
            times.append(round(after["t"], 2))
            rates.append(rate)
    data = [
        {"x": times, "y": rates, "name": "frames/s", "mode": "lines", "line": {"color": BLUE, "shape": "vh"},
         "fill": "tozeroy"},
        {"x": [point["t"] for point in timeline], "y": [point["frames"] for point in timeline],
         "name": "frames in all", "yaxis": "y2", "mode": "lines", "line": {"color": GREY, "dash": "dot"}},
    ]  # fmt: skip
    if ceiling:
        data.append({
            "x": [times[0], times[-1]], "y": [ceiling, ceiling], "name": "the model alone", "mode": "lines",
            "line": {"color": GREEN, "dash": "dash"},
        })  # fmt: skip
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "seconds since the start"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "frames/s"}, "rangemode": "tozero"},
            "yaxis2": {
                "overlaying": "y",
                "side": "right",
                "rangemode": "tozero",
                "showgrid": False,
                "tickmode": "auto",
            },
        },
    }


def stages(seconds: Mapping[str, float]) -> Figure | None:
    """Seconds of all actors by stage, as bars."""
    shown = {name: value for name, value in seconds.items() if name != "total" and value > 0}
    if not shown:
        return None
    names = sorted(shown, key=lambda name: shown[name])
    return {
        "data": [
            {"type": "bar", "orientation": "h", "x": [shown[name] for name in names],
             "y": [name.replace("_", " ") for name in names], "text": [f"{shown[name]:.1f} s" for name in names],
             "textposition": "auto", "marker": {"color": [STAGE_COLOURS.get(name, GREY) for name in names]}},
        ],
        "layout": {"xaxis": {"title": {"text": "seconds, all actors"}}, "showlegend": False},
    }  # fmt: skip


def shares(parts: Mapping[str, float]) -> Figure | None:
    """Where the time that the actors had went: one bar, in shares."""
    if not parts:
        return None
    palette = (GREEN, ORANGE, RED, PURPLE, BLUE, GREY, "#a16207", "#0e7490")
    return {
        "data": [
            {"type": "bar", "orientation": "h", "x": [round(100 * value, 2)], "y": [""], "name": name.replace("_", " "),
             "marker": {"color": palette[place % len(palette)]}, "hovertemplate": "%{x:.1f} %"}
            for place, (name, value) in enumerate(parts.items())
        ],
        "layout": {
            "barmode": "stack", "height": 190, "margin": {"l": 60, "r": 60, "t": 55, "b": 45},
            "legend": {"orientation": "h", "y": 1.6, "traceorder": "normal"},
            "xaxis": {"title": {"text": "% of the actors' time"}, "range": [0, 100]}, "yaxis": {"visible": False},
        },
    }  # fmt: skip


def key_frames(frames: Mapping[str, Sequence[Any]]) -> Figure:
    """frames: columns `seconds`, `is_key`, `gap`, `side`, `residual`, `promoted` of one video, in order."""
    seconds, residuals = list(frames["seconds"]), list(frames["residual"])
    sides = [
        f"{side}, {gap} away" if not key else "key frame, promoted" if promoted else "key frame"
        for side, gap, key, promoted in zip(
            frames["side"], frames["gap"], frames["is_key"], frames["promoted"], strict=True
        )
    ]
    keys = [place for place, key in enumerate(frames["is_key"]) if key]
    return {
        "data": [
            {"x": seconds, "y": residuals, "name": "residual", "mode": "lines+markers", "text": sides,
             "line": {"color": BLUE, "width": 1}, "marker": {"size": 4}, "connectgaps": False},
            {"x": seconds, "y": list(frames["gap"]), "name": "gap, frames", "yaxis": "y2", "mode": "lines",
             "line": {"color": GREY, "shape": "hvh", "width": 1}},
            {"x": [seconds[place] for place in keys], "y": [residuals[place] or 0 for place in keys],
             "name": "key frames", "mode": "markers", "text": [sides[place] for place in keys],
             "marker": {"color": ORANGE, "size": 9, "symbol": "diamond"}},
        ],
        "layout": {
            "xaxis": {"title": {"text": "seconds of video"}},
            "yaxis": {"title": {"text": "residual"}, "rangemode": "tozero"},
            "yaxis2": _right("gap, frames"),
        },
    }  # fmt: skip


def spent(seconds: Sequence[float], flops: Sequence[int], kinds: Sequence[str]) -> Figure:
    """FLOPs of each output frame."""
    made = [place for place, work in enumerate(flops) if work]
    return {
        "data": [
            {"type": "bar", "x": [seconds[place] for place in made],
             "y": [round(flops[place] / 1e9, 3) for place in made], "text": [kinds[place] for place in made],
             "textposition": "none",  # only under the pointer
             "hovertemplate": "%{x:.3f} s: %{y:.2f} GFLOP (%{text})", "marker": {"color": BLUE}},
        ],
        "layout": {"xaxis": {"title": {"text": "seconds of video"}}, "yaxis": {"title": {"text": "GFLOP a frame"}},
                   "height": 220, "showlegend": False},
    }  # fmt: skip


def _right(title: str) -> dict[str, Any]:
    """A second axis, with ticks of its own."""
    return {
        "title": {"text": title}, "overlaying": "y", "side": "right", "rangemode": "tozero", "showgrid": False,
        "tickmode": "auto",
    }  # fmt: skip
