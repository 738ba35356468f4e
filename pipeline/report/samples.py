"""A few videos of a run in pictures and timelines: what is seen is what was written."""

from __future__ import annotations

import base64
import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.layout import Layout
from pipeline.media.glance import Picture, glimpses, jpeg
from pipeline.records.commit import DataObject, VideoCommit
from pipeline.records.flow import read_flow
from pipeline.records.flow_picture import legend, paint, usual_motion
from pipeline.records.overlay import draw_overlay
from pipeline.records.recognition import read_recognition
from pipeline.report import figures
from pipeline.report.figures import Figure
from pipeline.report.gather import Facts, finished, visible
from pipeline.storage import Storage

MOST = 6
"""Videos in pictures."""
LONG_SIDE = 480
"""Pixels of a picture."""
FRAMES = 3000
"""Of a timeline."""
MAPS = 240
"""Frames whose patches are mapped."""
PLACES = (0.2, 0.5, 0.8)
"""Of a video's length, where pictures are taken."""
GREY = 96
ROUNDING_S = 0.0011
"""Matroska's times are whole milliseconds."""


@dataclass
class Sample:
    """One video."""

    name: str
    pictures: list[tuple[str, str]] = field(default_factory=list)
    """(what it shows, data URI)"""
    charts: list[tuple[str, Figure]] = field(default_factory=list)
    maps: dict[str, Any] | None = None
    """Patch decisions: `frames` of {seconds, kind, flops, scale, depth, patches}; see report.js."""
    remark: str = ""


def samples(storage: Storage, layout: Layout, facts: Facts) -> list[Sample]:
    """Up to MOST videos. One that cannot be shown says why, and hides none of the others."""
    show: Callable[[Storage, Layout, VideoCommit, Sample], None] | None = {
        "interpolate": _interpolated, "flow": _flow, "recognize": _recognized,
    }.get(facts.task)  # fmt: skip
    found = []
    for commit in finished(facts, MOST) if show else ():
        sample = Sample(visible(commit.name))
        assert show is not None
        try:
            show(storage, layout, commit, sample)
        except Exception as error:  # a picture is worth no run
            sample.remark = visible(f"not shown: {type(error).__name__}: {error}")
        found.append(sample)
    return found


# ---- interpolation


def _interpolated(storage: Storage, layout: Layout, commit: VideoCommit, sample: Sample) -> None:
    rows = _decisions(storage, layout, commit)
    times = [float(row["pts"] * Fraction(row["time_base"])) for row in rows]
    main = commit.outputs[0]
    with storage.open(layout.uri(main.path)) as file:
        for place in PLACES[:2]:
            for glimpse in glimpses(file, place, 3, LONG_SIDE):
                seconds = float(glimpse.pts * glimpse.time_base)
                row = _row_at(rows, times, seconds)
                what = f"{row['kind']}{_at(row)}" if row else "output"
                sample.pictures.append((f"{seconds:.3f} s: {what}", _uri(glimpse.picture)))
    if rows:
        flops = [int(row["flops"] or 0) for row in rows]
        if any(flops):
            chart = figures.spent([round(one, 4) for one in times], flops, [row["kind"] for row in rows])
            sample.charts.append(("Work by frame", chart))
        sample.maps = _maps(rows, times)


def _row_at(rows: Sequence[dict[str, Any]], times: Sequence[float], seconds: float) -> dict[str, Any] | None:
    """The row of the frame that is shown then: the container may have rounded its time."""
    place = bisect.bisect_left(times, seconds - ROUNDING_S)
    return rows[place] if place < len(times) and times[place] <= seconds + ROUNDING_S else None


def _at(row: dict[str, Any]) -> str:
    return f", t = {row['t']}" if row.get("t") not in (None, "", "0", "1") else ""


def _decisions(storage: Storage, layout: Layout, commit: VideoCommit) -> list[dict[str, Any]]:
    data = next((one for one in commit.outputs if one.path.endswith(".decisions.parquet")), None)
    if data is None:
        return []
    rows: list[dict[str, Any]] = _first_rows(storage, layout, data, FRAMES, None).to_pylist()
    return rows


def _maps(rows: Sequence[dict[str, Any]], seconds: Sequence[float]) -> dict[str, Any] | None:
    made = [place for place, row in enumerate(rows) if row["scale"]]
    if not made:
        return None
    frames = [
        {
            "seconds": round(seconds[place], 4),
            "kind": rows[place]["kind"],
            "gflop": round((rows[place]["flops"] or 0) / 1e9, 3),
            "scale": rows[place]["scale"],
            "depth": rows[place]["depth"],
            "patches": list(
                zip(*(rows[place][f"patch_{side}"] for side in ("top", "left", "height", "width")), strict=True)
            ),
        }
        for place in made[:MAPS]
    ]
    first = rows[made[0]]
    return {"height": first["height"], "width": first["width"], "frames": frames}


# ---- flow


def _flow(storage: Storage, layout: Layout, commit: VideoCommit, sample: Sample) -> None:
    total = sum(data.frames for data in commit.outputs if data.path.endswith(".parquet") and not data.shared)
    total = total or int(commit.extra.get("source_frames", 0))
    wanted = sorted({min(total - 1, int(place * total)) for place in PLACES}) if total else []
    for record in read_flow(layout.output, commit.video_id, wanted, storage=storage):
        flow, valid, way = record.flow_forward, record.validity_forward, "to the next frame"
        if flow is None:
            flow, valid, way = record.flow_backward, record.validity_backward, "to the frame before"
        seconds = float(record.pts * record.time_base)
        if flow is None:
            sample.remark = f"frame {record.frame_index} at {seconds:.3f} s has no neighbour in its shot"
            continue
        full = usual_motion(flow)
        picture = paint(flow, full, valid)
        sample.pictures.append((f"{seconds:.3f} s, {way}; full colour: {full:.1f} px", _uri(_shrunk(picture))))
    if sample.pictures:
        sample.pictures.append(("directions", _uri(legend(120))))


# ---- recognition


def _recognized(storage: Storage, layout: Layout, commit: VideoCommit, sample: Sample) -> None:
    columns = ["frame_index", "pts", "time_base", "is_key", "promoted", "gap", "side", "residual", "video_id"]
    tables: list[pa.Table] = []
    for data in commit.outputs:
        if data.path.endswith(".parquet") and sum(len(table) for table in tables) < FRAMES:
            tables.append(_first_rows(storage, layout, data, FRAMES, columns, commit.video_id))
    if not tables:
        return
    table = pa.concat_tables(tables).slice(0, FRAMES)
    rows = table.to_pydict()
    rows["seconds"] = [
        round(float(pts * Fraction(base)), 4) for pts, base in zip(rows["pts"], rows["time_base"], strict=True)
    ]
    keys = sum(rows["is_key"])
    sample.charts.append((f"Key frames: {keys} of {len(table)} frames", figures.key_frames(rows)))
    wanted = sorted({int(place * len(table)) for place in PLACES})
    for record in read_recognition(layout.output, commit.video_id, wanted, storage=storage):
        canvas = np.full((record.height, record.width, 3), GREY, np.uint8)
        picture = draw_overlay(canvas, record, record.classes, opacity=1.0)
        seconds = float(record.pts * record.time_base)
        sample.pictures.append((f"{seconds:.3f} s", _uri(_shrunk(picture, 2 * LONG_SIDE))))


# ---- shared


def _first_rows(
    storage: Storage, layout: Layout, data: DataObject, count: int, columns: list[str] | None, video_id: str = ""
) -> pa.Table:
    """The first rows of a Parquet file: of one video, where the file is shared."""
    with storage.open(layout.uri(data.path)) as file:
        parquet = pq.ParquetFile(file)
        found: list[pa.Table] = []
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, columns)
            if data.shared:
                table = table.filter(pc.equal(table.column("video_id"), video_id))
            found.append(table)
            if sum(len(one) for one in found) >= count:
                break
        return pa.concat_tables(found).slice(0, count)


def _shrunk(picture: Picture, long_side: int = LONG_SIDE) -> Picture:
    """Every n-th pixel, so that the longer side has at most `long_side` of them."""
    step = -(-max(picture.shape[:2]) // long_side)
    return np.ascontiguousarray(picture[::step, ::step])


def _uri(picture: Picture) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(picture)).decode()
