"""What was decided for a clip's frames, on its way from the actor to the video's table of decisions.

An actor notes a row a frame and packs them into a short text, which travels in the clip's commit: rows and pictures are
committed by the same conditional put, or not at all. When the video is joined, its clips' texts become one file.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.config import InterpolateConfig
from pipeline.plan.adaptive import Choice, FrameDecisions
from pipeline.plan.patches import Patch
from pipeline.records.decisions_schema import SYNTHESISED, DecisionRecord
from pipeline.types import VideoInfo, VideoRef

_SIDES = ("top", "left", "height", "width")


@dataclass(frozen=True, slots=True)
class FrameRow:
    """One output frame of a clip; the columns of DecisionRecord that differ from frame to frame."""

    pts: int
    kind: str
    t: Fraction
    t_error: Fraction | None
    decisions: FrameDecisions | None = None


def tabled(config: InterpolateConfig, adaptive: bool) -> bool:
    """Whether each video gets a table of decisions, with a model that is adaptive or not."""
    return adaptive if config.decisions == "auto" else config.decisions


def noted(config: InterpolateConfig, adaptive: bool) -> bool:
    """Whether clips note their frames' rows: for the table, or for the preview."""
    return config.preview or tabled(config, adaptive)


def pack(rows: Iterable[FrameRow], model: str, weights_sha256: str) -> str:
    """A clip's rows as text. A frame takes a few bytes: the patches are written once for all frames that share them."""
    grids: dict[tuple[Patch, ...], int] = {}
    packed = []
    for row in rows:
        entry: list[Any] = [row.pts, row.kind, str(row.t), None if row.t_error is None else str(row.t_error)]
        if (made := row.decisions) is not None:
            grid = grids.setdefault(made.patches, len(grids))
            choices = [[getattr(choice, name) for choice in made.choices] for name in ("scale", "depth")]
            entry += [grid, *choices, made.flops, made.full_flops]
        packed.append(entry)
    patches = [[[getattr(patch, side) for side in _SIDES] for patch in grid] for grid in grids]
    document = {"model": model, "weights_sha256": weights_sha256, "grids": patches, "rows": packed}
    return base64.b64encode(zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)).decode()


def unpack(
    texts: Iterable[str], video: VideoRef, info: VideoInfo, time_base: Fraction, first: int = 0
) -> Iterator[DecisionRecord]:
    """The records of a video's clips, in order. `time_base`: of the output; `first`: the first frame's number."""
    number = first
    for text in texts:
        document = json.loads(zlib.decompress(base64.b64decode(text)))
        grids = [tuple(Patch(*sides) for sides in grid) for grid in document["grids"]]
        for entry in document["rows"]:
            yield _record(entry, grids, document, video, info, time_base, number)
            number += 1


def _record(
    entry: list[Any],
    grids: list[tuple[Patch, ...]],
    document: Mapping[str, Any],
    video: VideoRef,
    info: VideoInfo,
    time_base: Fraction,
    number: int,
) -> DecisionRecord:
    pts, kind, t, t_error, *decided = entry
    free = None if kind == SYNTHESISED else 0
    grid, scales, depths, flops, full_flops = decided or (None, (), (), free, None)
    return DecisionRecord(
        video_uri=video.uri,
        video_version=video.version,
        member=video.member,
        video_id=video.video_id,
        frame_index=number,
        pts=pts,
        time_base=time_base,
        kind=kind,
        t=Fraction(t),
        t_error=None if t_error is None else Fraction(t_error),
        height=info.height,
        width=info.width,
        patches=() if grid is None else grids[grid],
        choices=tuple(Choice(*pair) for pair in zip(scales, depths, strict=True)),
        flops=flops,
        full_flops=full_flops,
        model=document["model"],
        weights_sha256=document["weights_sha256"],
    )


Totalled = dict[str, Any]
"""{"flops", "full_flops", "patches": {"static" or "<scale>/<exit>": count}}: of frames whose model decides by patch."""


class Totals:
    """What a video's records come to: patches by what they got, and the operations spent of those at full depth."""

    def __init__(self) -> None:
        self._patches: Counter[str] = Counter()
        self._flops = self._full = 0

    def over(self, records: Iterable[DecisionRecord]) -> Iterator[DecisionRecord]:
        """Passes the records on and counts them."""
        for record in records:
            self._patches.update(named(choice) for choice in record.choices)
            if record.flops is not None and record.full_flops is not None:
                self._flops += record.flops
                self._full += record.full_flops
            yield record

    def as_record(self) -> Totalled:
        """For the video's commit."""
        return {"flops": self._flops, "full_flops": self._full, "patches": dict(sorted(self._patches.items()))}


def summed(one: Totalled, other: Totalled) -> Totalled:
    """Two videos' totals as one; an empty one is none."""
    patches: Counter[str] = Counter(one.get("patches", {})) + Counter(other.get("patches", {}))
    flops = {name: one.get(name, 0) + other.get(name, 0) for name in ("flops", "full_flops")}
    return {**flops, "patches": dict(sorted(patches.items()))}


def told(totals: Totalled) -> str:
    """One line for people; empty where no patch was decided on."""
    patches: dict[str, int] = totals.get("patches", {})
    if not patches:
        return ""
    share = totals["flops"] / totals["full_flops"] if totals["full_flops"] else 0.0
    parts = ", ".join(
        f"{name} {count / sum(patches.values()):.0%}"
        for name, count in sorted(patches.items(), key=lambda item: (-item[1], item[0]))
    )
    return f"{share:.0%} of the FLOPs at full depth; patches by scale/exit: {parts}"


def named(choice: Choice) -> str:
    return f"{choice.scale}/{choice.depth}" if choice.depth else "static"
