"""The interpolation task: what it asks of a video, and how a video's encoded clips become its output.

Probing and joining need no model: torch is imported in the actors alone (pipeline/tasks/interpolate_clip.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline import __version__
from pipeline.config import MAX_TIMESCALE, InterpolateConfig, TargetConfig
from pipeline.errors import UnsupportedVideo
from pipeline.media import mux, verify
from pipeline.media.encode import EncodePlan
from pipeline.plan.grid import Grid, frames_before, make_grid, note
from pipeline.records.decisions import write_decisions
from pipeline.records.decisions_schema import SUFFIX, DecisionRecord
from pipeline.tasks import interpolate_model, self_check_report
from pipeline.tasks.base import ClipPart, VideoOutput
from pipeline.tasks.decisions import Totals, tabled, unpack
from pipeline.tasks.intervals import halo
from pipeline.types import VideoInfo, VideoRef

if TYPE_CHECKING:
    from pipeline.tasks.interpolate_clip import InterpolateProcessor


@dataclass(frozen=True)
class InterpolateTask:
    """Doubles (or more) the frame rate, or brings video to an exact rate."""

    config: InterpolateConfig
    precision: str = "fp32"
    """"fp32" or "bf16": what `auto` came to, decided once for the run by `on`."""
    name: str = "interpolate"
    folder: str = "video"
    data_suffix: str = ".mp4"
    grouping: None = None
    chosen: str = ""
    """What `model: auto` came to, and why."""

    def __post_init__(self) -> None:
        # Once, where the task is made: workers get the model by its name, and the fingerprint holds that name.
        model, why = interpolate_model.choose(self.config.model)
        if why:
            object.__setattr__(self, "config", self.config.model_copy(update={"model": model}))
            object.__setattr__(self, "chosen", why)

    def on(self, device: str) -> InterpolateTask:
        auto = "bf16" if device == "cuda" and self.config.model != "blend" else "fp32"
        return replace(self, precision=auto if self.config.precision == "auto" else self.config.precision)

    def notes(self) -> Sequence[str]:
        return [self.chosen] if self.chosen else []

    def halo(self) -> tuple[int, int]:
        before, after = halo(self.config.duplicates)
        # A frame that is made again needs both its neighbours.
        return (max(1, before), max(1, after)) if self.config.self_check else (before, after)

    def fingerprint(self) -> dict[str, Any]:
        if self.config.model == "blend":
            return {"weights.sha256": "", "precision": self.precision}
        facts = interpolate_model.load_weights(self.config)[1]
        finder = interpolate_model.finder(self.config, facts)
        chosen = {} if finder is None else {"finder.sha256": finder.sha256}
        return {"weights.sha256": facts.sha256, **chosen, "precision": self.precision}

    def check_node(self) -> None:
        interpolate_model.check_node(self.config)
        if self.config.preview:
            from pipeline.tasks.flow_preview import ENCODE, check_encoder

            check_encoder(ENCODE.codec)

    def check_video(self, info: VideoInfo) -> None:
        self.encode_plan(info, self.grid(info))

    def expected_rows(self, info: VideoInfo) -> int:
        return frames_before(self.grid(info), info.end_pts, len(info.pts))

    def flops(self, info: VideoInfo) -> int:
        made = interpolate_model.flops(self.config, info, self.grid(info))
        if not self.config.self_check:
            return made
        doubled = make_grid(TargetConfig(factor=2), info.time_base, info.pts[0])
        # A frame is made again at its own place, which is the middle but for variable frame rates.
        return made + round(self.config.self_check * interpolate_model.flops(self.config, info, doubled))

    def output_bytes(self, info: VideoInfo, size: int) -> int:
        # Taken to compress like the source; what the encoder makes of it is only known afterwards.
        return max(0, size) * self.expected_rows(info) // len(info.pts)

    def load(self, device: str, threads: int) -> InterpolateProcessor:
        # Here, so that probing and joining, in processes of their own, need not wait for torch.
        from pipeline.tasks.interpolate_clip import InterpolateProcessor

        return InterpolateProcessor(self, device, threads)

    def join(
        self, video: VideoRef, info: VideoInfo, parts: Sequence[ClipPart], source: BinaryIO, scratch: Path, whole: bool
    ) -> Iterator[VideoOutput]:
        parts = [part for part in parts if part.rows]
        made = _join(self, info, parts, source, scratch, whole)
        # The table and the preview first: the video itself is gone once it has been taken.
        beside = list(_beside(self, video, info, parts, made, scratch)) if whole else []
        yield made
        yield from beside

    def merge(self, parts: Iterable[tuple[Path, str]], path: Path) -> int:
        raise NotImplementedError("every video has a file of its own")

    def grid(self, info: VideoInfo) -> Grid:
        return make_grid(self.config.target, info.time_base, info.pts[0])

    def encode_plan(self, info: VideoInfo, grid: Grid) -> EncodePlan:
        if grid.time_base.denominator > MAX_TIMESCALE:
            raise UnsupportedVideo(
                f"time base {info.time_base} with target.factor={self.config.target.factor} needs "
                f"{grid.time_base.denominator} ticks a second, more than a container holds; use target.fps"
            )
        source = info.average_rate or Fraction(30)
        return EncodePlan.build(
            info,
            self.config.encode,
            grid.time_base,
            self.config.target.fps or source * (self.config.target.factor or 1),
        )


def _beside(
    task: InterpolateTask, video: VideoRef, info: VideoInfo, parts: Sequence[ClipPart], made: VideoOutput, scratch: Path
) -> Iterator[VideoOutput]:
    """The finished video's table of decisions and its preview, as configured."""
    grid = task.grid(info)

    def records() -> Iterator[DecisionRecord]:
        return unpack((part.extra["decisions"] for part in parts), video, info, grid.time_base)

    if tabled(task.config, parts[0].extra.get("adaptive", False)):
        table, totals = scratch / "decisions.parquet", Totals()
        rows = write_decisions(table, totals.over(records()), {"task": task.name, "code_version": __version__})
        yield VideoOutput(table, SUFFIX, rows, {"decisions": totals.as_record()}, result=False)
    if task.config.preview:
        from pipeline.tasks import decisions_preview

        plan = decisions_preview.preview_plan(info, task.encode_plan(info, grid))
        preview, end = scratch / "preview.mp4", int(parts[-1].extra["end_pts"])
        frames = decisions_preview.write_preview(preview, made.path, records(), info, plan, end)
        yield VideoOutput(preview, decisions_preview.SUFFIX, frames, {}, result=False)


def _join(
    task: InterpolateTask, info: VideoInfo, parts: Sequence[ClipPart], source: BinaryIO, scratch: Path, whole: bool
) -> VideoOutput:
    grid = task.grid(info)
    plan = task.encode_plan(info, grid)
    firsts = [int(part.extra["first_pts"]) for part in parts]
    ends = [*firsts[1:], int(parts[-1].extra["end_pts"])]
    segments = [
        mux.Segment(
            str(part.fetch()),
            first,
            part.rows,
            end - first,
            part.extra["last_pts"] - first,
            part.extra["gaps"],
            part.extra["reorder_depth"],
        )
        for part, first, end in zip(parts, firsts, ends, strict=True)
    ]
    path = scratch / "joined"
    cut_at = None if whole else ends[-1] * grid.time_base
    report = mux.finalise(segments, source, info, plan, task.config.encode.container, path, cut_at)
    expected = verify.ExpectedOutput.of(report, segments, int(parts[-1].extra["last_pts"]))
    found = verify.verify_output(path, expected)
    kinds: Counter[str] = Counter()
    for part in parts:
        kinds.update(part.extra["kinds"])
    t_error = max(Fraction(part.extra["max_t_error"]) for part in parts)
    shifted = note(grid)
    extra = {
        "kinds": dict(kinds),
        "max_t_error": str(t_error),
        "encode": plan.as_record(),
        "container": report.container,
        "duration_s": str((ends[-1] - firsts[0]) * grid.time_base),
        "time_base": str(report.time_base),
        "time_rounding_s": str(report.time_rounding),
        "copied_streams": [f"{stream.kind} {stream.codec}, {stream.packets} packets" for stream in report.copied],
        "dropped": list(report.dropped),
        "notes": [*info.notes, *plan.notes, *report.notes, *([shifted] if shifted else [])],
    }
    checked = [part.extra["self_check"] for part in parts if "self_check" in part.extra]
    if checked:
        extra["self_check"] = self_check_report.of_clips(checked)
    return VideoOutput(path, f".{report.container}", found.frames, extra)
