"""`--plan`: what a run would do and cost, without doing it. Probes headers and packets; starts no cluster.

A table for people, and the same as JSON. Hours come from a calibration (pipeline/run/calibration.py); where there is
none, there are none, unless a measurement is asked for: then a few frames of the first video are run in this process.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TextIO

from pipeline.errors import ConfigError, UsageError, VideoError
from pipeline.layout import Layout
from pipeline.media.probe import probe
from pipeline.plan.discover import DiscoveryFailure, discover
from pipeline.run import calibration, limits
from pipeline.run.calibration import Calibration, Hours
from pipeline.run.worker import open_video
from pipeline.storage import Storage, absolute, redact
from pipeline.tasks.base import Task
from pipeline.types import VideoInfo, VideoRef

VERSION = 1
"""Of the JSON document."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What `--plan` is to give."""

    json_to: str | None = None
    """A file for the JSON, or "-" for standard output (the table then goes to standard error)."""
    measure: bool = False
    """Time the model here, where no calibration is found."""


@dataclass
class Totals:
    """Of what a run would do now; what is done already is only counted."""

    videos: int = 0
    frames: int = 0
    footage_s: float = 0.0
    rows: int = 0
    """Output frames, or records."""
    clips: int = 0
    clips_done: int = 0
    """Of these videos' clips, committed by an earlier run."""
    output_bytes: int = 0
    flops: int = 0
    pixels: int = 0
    """Rows x width x height."""
    done_before: int = 0
    refused: int = 0


@dataclass
class _Plan:
    task: Task
    storage: Storage
    layout: Layout
    out: TextIO
    measured: tuple[Calibration, str] | None
    keep: bool
    """Every video's entry, for the JSON; else only totals grow."""
    totals: Totals = field(default_factory=Totals)
    videos: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._configuration = calibration.blank(self.task, "cpu", 0, 0, 0).configuration

    def refuse(self, uri: str, kind: str, message: str) -> None:
        self.totals.refused += 1
        if self.keep:
            self.refused.append({"uri": uri, "error_type": kind, "message": message})
        print(f"refused  {uri}: {kind}: {message}", file=self.out)

    def add(self, video: VideoRef, info: VideoInfo, clips_done: int) -> None:
        """Takes a video in, and prints its line."""
        task, totals = self.task, self.totals
        frames, rows, flops = len(info.pts), task.expected_rows(info), task.flops(info)
        span = float((info.end_pts - info.pts[0]) * Fraction(info.time_base))
        clips = -(-frames // task.config.clip.frames)
        # Clips that are committed need no model any more.
        left = max(0.0, 1 - clips_done / clips)
        area = rows * info.width * info.height
        flops, pixels = round(flops * left), round(area * left)
        size = self._of_this_configuration(lambda found: found.bytes_of(area)) or task.output_bytes(info, video.size)
        hours = self.hours(flops, pixels)
        model, actor = (hours.model, hours.actor) if hours else (None, None)
        totals.videos += 1
        totals.frames += frames
        totals.footage_s += span
        totals.rows += rows
        totals.clips += clips
        totals.clips_done += min(clips, clips_done)
        totals.output_bytes += size
        totals.flops += flops
        totals.pixels += pixels
        if self.keep:
            self.videos.append(
                {
                    "uri": redact(str(video)), "name": video.name, "codec": info.codec, "width": info.width,
                    "height": info.height, "pix_fmt": info.pix_fmt, "frames": frames, "footage_s": round(span, 3),
                    "rows": rows, "clips": clips, "clips_done": min(clips, clips_done), "output_bytes": size,
                    "flops": flops, "model_hours": _rounded(model), "actor_hours": _rounded(actor),
                }
            )  # fmt: skip
        self.line(
            frames, f"{span:.2f}", rows, f"{clips - min(clips, clips_done)}/{clips}", f"{size / 1e6:.1f}",
            f"{flops / 1e12:.2f}", _hours(actor),
            f"{redact(str(video))}: {info.codec} {info.width}x{info.height} {info.pix_fmt}",
        )  # fmt: skip

    def line(self, *cells: object) -> None:
        *numbers, name = cells
        widths = (9, 10, 9, 9, 10, 9, 9)
        print(
            "".join(f"{cell!s:>{width}}" for cell, width in zip(numbers, widths, strict=True)) + f"  {name}",
            file=self.out,
        )

    def hours(self, flops: int, pixels: int) -> Hours | None:
        return self.measured[0].hours(flops, pixels) if self.measured else None

    def _of_this_configuration(self, value: Callable[[Calibration], int | None]) -> int | None:
        """What only a measurement of the same configuration can tell."""
        if self.measured is None or self.measured[0].configuration != self._configuration:
            return None
        return value(self.measured[0])

    def close(self) -> dict[str, Any]:
        """Prints the totals; the whole as JSON values."""
        totals = self.totals
        hours = self.hours(totals.flops, totals.pixels)
        expected = self._of_this_configuration(lambda found: found.flops_of(totals.flops))
        print(
            f"plan     {totals.videos} videos, {totals.footage_s / 3600:.3f} hours, {totals.frames} frames in, "
            f"{totals.clips} clips, {totals.rows} out, about {totals.output_bytes / 1e6:.1f} MB, "
            f"{totals.flops / 1e12:.2f} TFLOP at most"
            + (f", {expected / 1e12:.2f} going by what earlier runs spent" if expected else "")
            + f"; {totals.done_before} videos done before"
            + (f" and {totals.clips_done} clips of others" if totals.clips_done else "")
            + f", {totals.refused} would be quarantined",
            file=self.out,
        )
        estimate: dict[str, Any] | None = None
        if hours is None or self.measured is None:
            print("hours    no calibration yet: a run makes one, or add --measure", file=self.out)
        else:
            found, where = self.measured
            unit = "GPU-hours" if found.gpus else "CPU-hours"
            each = found.gpus or found.threads
            estimate = {
                "model_hours": _rounded(hours.model),
                "actor_hours": _rounded(hours.actor),
                "gpu_hours" if found.gpus else "cpu_hours": _rounded(hours.actor * each),
                "wall_hours": _rounded(hours.actor / found.actors),
                "flops": expected or totals.flops,
                "actors": found.actors,
                "from": where,
                "calibration": asdict(found),
            }
            print(
                f"hours    about {_hours(hours.actor * each)} {unit}: {_hours(hours.model)} actor-hours of the model, "
                f"{_hours(hours.actor)} with all else; {_hours(hours.actor / found.actors)} hours with "
                f"{found.actors} actor{'s' if found.actors != 1 else ''}\n         by {found}; {where}",
                file=self.out,
            )
        return {
            "version": VERSION,
            "task": self.task.name,
            "model": redact(str(getattr(self.task.config, "model", ""))),
            "output": redact(self.layout.output),
            "totals": asdict(totals) | {"footage_s": round(totals.footage_s, 3)},
            "estimate": estimate,
            "limits": self.task.config.limits.model_dump(),
            "videos": self.videos,
            "refused": self.refused,
        }


def show(task: Task, source: str, output: str, ask: Ask | None = None) -> int:
    """Prints a line a video and the totals; returns 0. Raises what a run would: UsageError, StorageError.

    A ConfigError after the totals where a limit (`limits.max_output_bytes`, `limits.max_hours`) would refuse the run.
    """
    ask = ask or Ask()
    source, output = absolute(source), absolute(output)
    storage = Storage(task.config.retry)
    layout = Layout(output)
    out = sys.stderr if ask.json_to == "-" else sys.stdout
    done = {info.uri.rsplit("/", 1)[1].removesuffix(".json") for info in storage.list(layout.video_commits)}
    clips_done = Counter(info.uri.rsplit("/", 2)[1] for info in storage.list(layout.clip_commits))
    task.fingerprint()  # finds missing or damaged weights
    for note in task.notes():
        print(note, file=out)
    gpus = task.config.resources.gpus_per_actor
    device = None if gpus == "auto" else "cuda" if gpus else "cpu"
    precision = None if task.config.precision == "auto" else task.config.precision
    known = calibration.find(task, storage, layout, device, precision)
    plan = _Plan(task, storage, layout, out, known, keep=ask.json_to is not None)
    plan.line("frames", "seconds", "out", "clips", "MB", "TFLOP", "hours", "video")
    for item in discover(source, task.config.input, storage, exclude=output):
        if isinstance(item, DiscoveryFailure):
            plan.refuse(redact(f"{item.uri}#{item.member}" if item.member else item.uri),
                        type(item.error).__name__, str(item.error))  # fmt: skip
            continue
        if item.video_id in done:
            plan.totals.done_before += 1
            continue
        try:
            with open_video(storage, item) as file:
                info = probe(file, item, task.config.input, task.config.decode)
            task.check_video(info)
        except VideoError as error:
            plan.refuse(redact(str(item)), type(error).__name__, str(error))
            continue
        if ask.measure and plan.measured is None:
            plan.measured = _measured(task, storage, item, info, device), "measured just now"
        plan.add(item, info, clips_done[item.video_id])
    document = plan.close()
    _write(document, ask.json_to)
    hours = plan.hours(plan.totals.flops, plan.totals.pixels)
    limits.refuse_above(
        task.config.limits, plan.totals.output_bytes, hours.model if hours else None, plan.totals.videos
    )
    return 0


def _measured(task: Task, storage: Storage, video: VideoRef, info: VideoInfo, device: str | None) -> Calibration:
    from pipeline.run.calibrator import measure

    resources = task.config.resources
    device = device or "cpu"
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("--measure: no GPU here; set resources.gpus_per_actor=0, or measure on a GPU machine")
    gpus = float(resources.gpus_per_actor) if resources.gpus_per_actor != "auto" else 0.0
    threads = resources.cpu_threads if resources.cpu_threads != "auto" else 1
    return measure(task.on(device), storage, video, info, device, threads, gpus)


def _write(document: dict[str, Any], json_to: str | None) -> None:
    if json_to is None:
        return
    text = json.dumps(document, indent=1, ensure_ascii=False)
    if json_to == "-":
        print(text)
        return
    try:
        Path(json_to).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--plan-json {json_to}: cannot be written ({error.strerror}); give a file's path") from None


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
