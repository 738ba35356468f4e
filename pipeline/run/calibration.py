"""What work costs on a machine: measured by each run on its first clips, and kept for `--plan` and `limits.max_hours`.

A run writes it beside its output (`_motionmill/calibration.json`) and, for other outputs, into the user's cache:
$MOTIONMILL_CALIBRATION, or else ~/.cache/motionmill/calibration, a file for each task, model, device and precision.
Neither is ever a reason to fail, and nothing that a run makes depends on it. pipeline/run/calibrator.py measures.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.config import fingerprint_keys
from pipeline.errors import MotionmillError
from pipeline.layout import Layout, sanitise
from pipeline.records.session import fingerprint
from pipeline.storage import Storage, redact
from pipeline.tasks.base import Task

VERSION = 1


@dataclass(frozen=True)
class Calibration:
    """Sums over measured clips. Rates are their quotients."""

    task: str
    model: str
    device: str
    """cpu or cuda."""
    precision: str
    machine: str
    """The processor or GPU, for people."""
    configuration: str
    """Digest of what can change an output byte: output sizes are comparable only where it is equal."""
    actors: int
    gpus: float
    """GPUs, and CPU threads, of each actor."""
    threads: int
    measured: str
    """When, as ISO 8601."""
    clips: int = 0
    frames: int = 0
    """Source frames."""
    rows: int = 0
    pixels: int = 0
    """Of all output frames (records): rows x width x height."""
    flops: int = 0
    """As the plan counts them: at most."""
    spent_flops: int = 0
    """Of an adaptive model; 0 of others."""
    output_bytes: int = 0
    model_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    """Busy seconds; decoding and encoding overlap with the model."""
    actor_s: float = 0.0
    """Seconds that actors spent on these clips in all."""
    version: int = VERSION

    def hours(self, flops: int, pixels: int) -> Hours | None:
        """What that much work takes. None where nothing comparable was measured."""
        if not self.pixels:
            return None
        rest = max(0.0, self.actor_s - self.model_s) / self.pixels
        each = self.model_s / self.flops * flops if self.flops else self.model_s / self.pixels * pixels
        return Hours(each / 3600, (each + rest * pixels) / 3600)

    def flops_of(self, most: int) -> int | None:
        """What is to be expected where the plan says at most so much. None where no adaptive model was measured."""
        return round(self.spent_flops / self.flops * most) if self.flops and self.spent_flops else None

    def bytes_of(self, pixels: int) -> int | None:
        return round(self.output_bytes / self.pixels * pixels) if self.pixels and self.output_bytes else None

    def __str__(self) -> str:
        per = f"{self.model_s / self.flops * 1e12:.3g} s/TFLOP" if self.flops else ""
        fps = f"{self.rows / self.model_s:.3g} frames/s" if self.model_s else ""
        rate = ", ".join(part for part in (per, fps) if part)
        unit = f"{self.gpus:g} GPU" if self.gpus else f"{self.threads} CPU thread{'s' if self.threads > 1 else ''}"
        return (
            f"{self.model or self.task} on {self.machine} ({self.device}, {self.precision}, {unit} an actor): "
            f"the model makes {rate}; {self.clips} clips, {self.measured[:16]}"
        )


@dataclass(frozen=True, slots=True)
class Hours:
    """Actor-hours: one actor for one hour."""

    model: float
    """The model alone, as fast as it was measured to run within a job."""
    actor: float
    """With what the actors wait for."""


def blank(task: Task, device: str, gpus: float, threads: int, actors: int) -> Calibration:
    """For this task and placement, with nothing measured yet."""
    return Calibration(
        task=task.name,
        model=redact(str(getattr(task.config, "model", ""))),
        device=device,
        precision=str(getattr(task, "precision", task.config.precision)),
        machine=machine(device),
        configuration=fingerprint(fingerprint_keys(task.config)),
        actors=actors,
        gpus=gpus,
        threads=threads,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def find(
    task: Task, storage: Storage, layout: Layout, device: str | None = None, precision: str | None = None
) -> tuple[Calibration, str] | None:
    """The calibration that fits best, and where it was found: this output's, or else the user's newest for the model.

    `device` and `precision`, where given, must be the same.
    """
    wanted = blank(task, device or "", 0, 0, 0)

    def fits(one: Calibration) -> bool:
        return (
            (one.task, one.model, one.version) == (wanted.task, wanted.model, VERSION)
            and device in (None, one.device)
            and precision in (None, one.precision)
            and one.clips > 0
        )

    with suppress(MotionmillError):
        own = _parsed(storage.read_bytes(layout.calibration))
        if own is not None and fits(own):
            return own, "this output's last run"
    others = [(one, path) for one, path in _kept(wanted.task) if fits(one)]
    if not others:
        return None
    one, path = max(others, key=lambda found: (found[0].configuration == wanted.configuration, found[0].measured))
    return one, str(path)


def folder() -> Path:
    base = os.environ.get("MOTIONMILL_CALIBRATION")
    if not base:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "motionmill", "calibration")
    return Path(base).expanduser()


def cached(found: Calibration) -> Path:
    model = sanitise(re.sub(r"[^A-Za-z0-9._-]+", "-", found.model).strip("-.")[-80:] or "none")
    mark = "" if model == found.model else f"-{fingerprint({'model': found.model})[:8]}"
    return folder() / f"{found.task}-{model}{mark}-{found.device}-{found.precision}.json"


def _kept(task: str) -> Iterator[tuple[Calibration, Path]]:
    try:
        paths = sorted(folder().glob(f"{task}-*.json"))
    except OSError:
        return
    for path in paths:
        try:
            found = _parsed(path.read_bytes())
        except OSError:
            continue
        if found is not None:
            yield found, path


_ADAPTER = TypeAdapter(Calibration)


def _parsed(data: bytes) -> Calibration | None:
    try:
        return _ADAPTER.validate_json(data)
    except ValidationError:
        return None


def write(path: Path, data: bytes) -> None:
    """Whole or not at all; a home that cannot be written to is left alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
    except OSError:
        pass


@cache
def machine(device: str) -> str:
    """The GPU's name or the processor's, as far as this process can tell."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "GPU"
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return name[1].strip() if name else "CPU"
