"""The account of a run: what was done, how fast, where the time went, and how fast the model alone would have been."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from pipeline import __version__
from pipeline.layout import Layout
from pipeline.run.cluster import Placement
from pipeline.run.rows import Receipt
from pipeline.run.speed import Clock, Speed
from pipeline.run.timeline import Timeline
from pipeline.run.worker import RunContext
from pipeline.storage import redact
from pipeline.tasks import self_check_report
from pipeline.tasks.decisions import Totalled, summed, told

MOST_REMARKS = 1000
"""Distinct notes kept; a run over many videos repeats few."""
SHOWN = 20
"""Output URIs and notes printed; the JSON has all notes and the count of outputs."""


@dataclass
class StartUp:
    """Moments of a run's beginning, as Unix times; what comes from workers is by their clocks."""

    started: float
    connected: float
    """The cluster was there."""
    opened: float
    """Everything was checked, and the run begun in the output."""
    ready: float | None = None
    """The first actor had its model."""
    load_s: float = 0.0
    """How long that actor took for it."""
    first_clip: float | None = None
    first_frame: float | None = None

    def see(self, receipt: Receipt) -> None:
        times = receipt.times
        if times is None:
            return
        if self.ready is None or times.ready < self.ready:
            self.ready, self.load_s = times.ready, times.ready - times.born
        if self.first_clip is None or times.began < self.first_clip:
            self.first_clip, self.first_frame = times.began, times.began + times.first_s

    def seconds(self) -> dict[str, float]:
        """Seconds of each part, one after the other; `load` is within `actors`."""
        moments = {
            "cluster": self.connected, "checks": self.opened, "actors": self.ready,
            "first_clip": self.first_clip, "first_frame": self.first_frame,
        }  # fmt: skip
        parts, before = {}, self.started
        for name, moment in moments.items():
            if moment is not None:
                parts[name] = round(max(0.0, moment - before), 3)
                before = max(before, moment)
        return parts | ({"load": round(self.load_s, 3)} if self.ready is not None else {})


@dataclass
class Account:
    """Adds up receipts. Bounded: a few numbers, and bounded lists of outputs, notes and moments."""

    videos: int = 0
    committed: int = 0
    quarantined: int = 0
    skipped: int = 0
    skipped_quarantined: int = 0
    clips: int = 0
    clips_resumed: int = 0
    clips_failed: int = 0
    frames: int = 0
    bytes: int = 0
    retries: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    files: int = 0
    """Outputs that were finished; `outputs` are the first of them."""
    outputs: list[str] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    max_t_error: str = "0"
    self_check: self_check_report.Result = field(default_factory=dict)
    decisions: Totalled = field(default_factory=dict)
    peak_rss: int = 0
    first_clip: float | None = None
    last_clip: float | None = None
    clip_retries: int = 0
    """Tries of clips beyond the first."""
    clock: Clock = field(default_factory=Clock)
    timeline: Timeline = field(default_factory=Timeline)
    start_up: StartUp | None = None

    def add(self, receipt: Receipt) -> None:
        if receipt.row.clip is None:
            return
        if not receipt.fresh:
            self.clips_resumed += 1
            return
        self.clips += 1
        self.clips_failed += receipt.status != "ok"
        self.frames += receipt.rows
        self.bytes += receipt.bytes
        self.retries += receipt.retries
        self.peak_rss = max(self.peak_rss, receipt.peak_rss)
        self.kinds.update(receipt.counts)
        for stage, seconds in receipt.seconds.items():
            self.seconds[stage] += seconds  # type: ignore[assignment]
        self.clip_retries += max(0, receipt.tries - 1)
        self.clock.add(receipt)
        now = time.time()
        began = now - receipt.seconds.get("total", 0.0)
        self.first_clip = began if self.first_clip is None else min(self.first_clip, began)
        self.last_clip = now
        if self.start_up is not None:
            self.start_up.see(receipt)
            self.timeline.add(now - self.start_up.started, self.frames, self.clips, self.seconds)

    def finished(self, outputs: list[str], extra: dict[str, Any]) -> None:
        """Takes in a joined video: its outputs, and what was decided about it."""
        self.written(outputs)
        if Fraction(extra.get("max_t_error", 0)) > Fraction(self.max_t_error):
            self.max_t_error = extra["max_t_error"]
        if "self_check" in extra:
            self.self_check = self_check_report.merged([self.self_check, extra["self_check"]])
        if "decisions" in extra:
            self.decisions = summed(self.decisions, extra["decisions"])
        for remark in [*extra.get("notes", []), *(f"not copied: {text}" for text in extra.get("dropped", []))]:
            if remark in self.remarks or len(self.remarks) < MOST_REMARKS:
                self.remarks[remark] += 1

    def written(self, outputs: Sequence[str]) -> None:
        self.files += len(outputs)
        self.outputs = (self.outputs + list(outputs))[:SHOWN]


@dataclass(frozen=True)
class Summary:
    """What a run reports when it ends; stored as JSON."""

    task: str
    output: str
    session: str
    fingerprint: str
    code_version: str
    started: str
    wall_s: float
    start_up_s: float
    """From the start to the first clip being worked on."""
    start_up: dict[str, float]
    """Its parts, seconds: cluster, checks, actors (of which load: one actor's model), first_clip, first_frame."""
    placement: dict[str, Any]
    videos_committed: int
    videos_quarantined: int
    videos_skipped: int
    """Done by an earlier run."""
    in_quarantine: int
    """Rows of the quarantine table, earlier runs' included."""
    clips: int
    clips_resumed: int
    clips_failed: int
    frames: int
    """Output frames made by this session."""
    output_bytes: int
    frames_by_kind: dict[str, int]
    storage_retries: int
    stage_s: dict[str, float]
    """Seconds of all actors: total, decode, model, encode (busy), decode_starved, encode_blocked (waiting)."""
    frames_per_second: float | None
    """Between the first and the last clip."""
    model_ceiling: float | None
    """Frames per second if the actors did nothing but run the model, undisturbed: the ceiling of `speed`."""
    speed: Speed | None
    """The ceiling, the rate reached from start to end, and where the rest of the actors' time went."""
    timeline: list[dict[str, Any]]
    """Totals over time: see pipeline/run/timeline.py."""
    peak_rss: int
    """Most bytes that a worker had resident."""
    max_t_error: str
    self_check: self_check_report.Result
    """Interpolation, where asked for: known frames made again, PSNR and SSIM by motion, of the videos finished here."""
    decisions: Totalled
    """Interpolation by an adaptive model: FLOPs and patches of the videos finished here."""
    files: int
    """Finished outputs; `outputs` names the first of them."""
    outputs: list[str]
    remarks: dict[str, int]

    @staticmethod
    def of(context: RunContext, placement: Placement, account: Account, started: float, in_quarantine: int) -> Summary:
        working = (account.last_clip or 0.0) - (account.first_clip or 0.0)
        ended = time.time()
        speed = account.clock.speed(placement.actors, started, ended)
        return Summary(
            task=context.task.name,
            output=redact(context.output),
            session=context.session,
            fingerprint=context.fingerprint,
            code_version=__version__,
            started=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            wall_s=round(ended - started, 3),
            start_up_s=round((account.first_clip or ended) - started, 3),
            start_up=account.start_up.seconds() if account.start_up else {},
            placement=asdict(placement),
            videos_committed=account.committed,
            videos_quarantined=account.quarantined,
            videos_skipped=account.skipped + account.skipped_quarantined,
            in_quarantine=in_quarantine,
            clips=account.clips,
            clips_resumed=account.clips_resumed,
            clips_failed=account.clips_failed,
            frames=account.frames,
            output_bytes=account.bytes,
            frames_by_kind=dict(sorted(account.kinds.items())),
            storage_retries=account.retries,
            stage_s={stage: round(seconds, 3) for stage, seconds in sorted(account.seconds.items())},
            frames_per_second=round(account.frames / working, 3) if account.frames and working > 0 else None,
            model_ceiling=speed.ceiling if speed else None,
            speed=speed,
            timeline=account.timeline.points(),
            peak_rss=account.peak_rss,
            max_t_error=account.max_t_error,
            self_check=self_check_report.rounded(account.self_check),
            decisions=account.decisions,
            files=account.files,
            outputs=[redact(uri) for uri in account.outputs],
            remarks=dict(sorted(account.remarks.items())),
        )

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False).encode()

    def _speed(self) -> list[str]:
        speed = self.speed
        if speed is None or not speed.reached:
            return []
        lines = [f"speed      {speed.reached:.2f} frames/s from start to end"]
        if self.frames_per_second:
            lines[0] += f" ({self.frames_per_second:.2f} while clips were made)"
        if speed.ceiling:
            how = "the model alone" if speed.calibrated else "the model as it ran"
            lines[0] += f"; {how}: {speed.ceiling:.2f} ({speed.shares['model']:.0%} reached)"
            lost = [f"{name.replace('_', '-')} {share:.0%}" for name, share in speed.lost() if share >= 0.005]
            lines.append("lost       " + (", ".join(lost) or "nothing") + " of the actors' time")
        return lines

    def text(self) -> str:
        lines = [
            "",
            f"videos     {self.videos_committed} done, {self.videos_quarantined} quarantined, "
            f"{self.videos_skipped} done before",
            f"clips      {self.clips} made, {self.clips_resumed} taken from an earlier run, {self.clips_failed} failed",
            f"frames     {self.frames} made "
            f"({', '.join(f'{count} {kind}' for kind, count in self.frames_by_kind.items()) or 'none'}), "
            f"{self.output_bytes / 1e6:.1f} MB",
        ]
        lines += self._speed()
        if self.stage_s:
            lines.append("seconds    " + ", ".join(f"{stage} {s:.1f}" for stage, s in self.stage_s.items()))
        parts = ", ".join(
            f"{name.replace('_', ' ')} {s:.1f}"
            + (f" (loading the model {self.start_up.get('load', 0.0):.1f})" * (name == "actors"))
            for name, s in self.start_up.items()
            if name != "load"
        )
        lines.append(
            f"wall       {self.wall_s:.1f} s, of which {self.start_up_s:.1f} s start-up" + f": {parts}" * bool(parts)
        )
        if self.max_t_error != "0":
            lines.append(f"t_error    at most {self.max_t_error} of a source interval")
        if decided := told(self.decisions):
            lines.append(f"decisions  {decided}")
        for number, row in enumerate(self_check_report.lines(self.self_check)):
            lines.append(f"{'' if number else 'self-check':<11}{row}")
        if self.storage_retries:
            lines.append(f"store      {self.storage_retries} calls repeated")
        for remark, count in list(self.remarks.items())[:SHOWN]:
            lines.append(f"note       {remark}" + (f" (x{count})" if count > 1 else ""))
        if self.in_quarantine:
            lines.append(f"quarantine {self.in_quarantine} entries: {Layout(self.output).quarantine}")
        lines += [f"output     {uri}" for uri in self.outputs]
        if self.files > len(self.outputs):
            lines.append(f"           and {self.files - len(self.outputs)} more in {self.output}")
        return "\n".join(lines)
