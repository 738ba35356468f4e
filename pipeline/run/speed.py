"""Where a run's time went: the time that its actors had, split by cause, beside what the model alone would have needed.

The bound ("speed of light") is the model as each actor timed it on its first pictures, alone in its process
(pipeline/tasks/stages.py: Bare). What the actors had is actors x wall time, from the job's start to its end; the shares
of it add up to one. Pure: receipts in, numbers out. Workers' clocks are taken to agree to within seconds; what does not
fit because of that, or of workers that died, is `other`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.run.rows import Receipt

CAUSES = {
    "model": "the model, as fast as it is alone",
    "contention": "the model, slower than alone: it shares cores, caches or the GPU",
    "self_check": "making known frames again, where that is asked for",
    "starved": "waiting for decoded frames",
    "blocked": "waiting for encoding, upload or commit",
    "start_up": "until the actor's first clip: cluster, checks, loading the model",
    "waiting": "waiting for the next clip",
    "tail": "idle at the end, while others still worked",
    "joining": "joining the last videos, after the last clip",
    "other": "opening videos, workers that died, clocks that differ",
}


@dataclass(slots=True)
class _Worker:
    born: float
    first: float
    last: float
    busy: float = 0.0


@dataclass(frozen=True)
class Speed:
    """Rates in output frames a second; `shares` of actors x wall time by cause, in the order of CAUSES, sum 1."""

    ceiling: float | None
    """If all actors did nothing but run the model, undisturbed, from the start to the end."""
    reached: float
    calibrated: bool
    """Whether the bare model was timed; if not, its time within the run stands for it."""
    shares: dict[str, float]
    actor_s: float
    """Actors x wall time, seconds."""

    def lost(self) -> list[tuple[str, float]]:
        """What kept the run from its ceiling, the largest share first."""
        return sorted(((name, share) for name, share in self.shares.items() if name != "model"), key=lambda x: -x[1])


@dataclass
class Clock:
    """Adds up receipts; grows with the number of workers, not of clips."""

    frames: int = 0
    model_s: float = 0.0
    self_check_s: float = 0.0
    starved_s: float = 0.0
    blocked_s: float = 0.0
    work: float = 0.0
    bare_work: float = 0.0
    bare_s: float = 0.0
    _workers: dict[str, _Worker] = field(default_factory=dict)

    def add(self, receipt: Receipt) -> None:
        times = receipt.times
        if times is None:
            return
        seconds = receipt.seconds
        self.frames += receipt.rows
        self.model_s += seconds.get("model", 0.0)
        self.self_check_s += seconds.get("self_check", 0.0)
        self.starved_s += seconds.get("decode_starved", 0.0)
        self.blocked_s += seconds.get("encode_blocked", 0.0) + times.after_s
        self.work += times.work
        self.bare_work += times.bare[0]
        self.bare_s += times.bare[1]
        ended = times.began + times.span_s
        worker = self._workers.setdefault(times.worker, _Worker(times.born, times.began, ended))
        worker.first, worker.last = min(worker.first, times.began), max(worker.last, ended)
        worker.busy += times.span_s

    def speed(self, actors: int, started: float, ended: float) -> Speed | None:
        """None where no clip was made. `started`, `ended`: of the job, by this process's clock."""
        if not self._workers or ended <= started:
            return None
        whole = actors * (ended - started)
        calibrated = self.bare_work > 0 and self.bare_s > 0
        # A run that beats its calibration, by a little, is its own bound.
        model = min(self.model_s, self.work * self.bare_s / self.bare_work) if calibrated else self.model_s
        last = min(ended, max(started, *(worker.last for worker in self._workers.values())))
        busy = sum(worker.busy for worker in self._workers.values())
        # Where workers died, others took their places: the first ones started up, the last ones saw the end.
        original = sorted(self._workers.values(), key=lambda worker: worker.born)[:actors]
        survivors = sorted(self._workers.values(), key=lambda worker: -worker.last)[:actors]
        parts = {
            "model": model,
            "contention": self.model_s - model,
            "self_check": self.self_check_s,
            "starved": self.starved_s,
            "blocked": self.blocked_s,
            "start_up": sum(max(0.0, worker.first - started) for worker in original),
            "waiting": sum(max(0.0, w.last - w.first - w.busy) for w in self._workers.values()),
            # An actor for which there was no clip was idle from the start.
            "tail": sum(max(0.0, last - worker.last) for worker in survivors)
            + max(0, actors - len(survivors)) * (last - started),
            "joining": actors * (ended - last),
        }
        inside = max(0.0, busy - self.model_s - self.self_check_s - self.starved_s - self.blocked_s)
        total = sum(parts.values()) + inside
        parts["other"] = inside + max(0.0, whole - total)
        scale = 1 / max(whole, total)
        return Speed(
            ceiling=round(self.frames / model * actors, 3) if model > 0 else None,
            reached=round(self.frames / (ended - started), 3),
            calibrated=calibrated,
            shares={name: round(seconds * scale, 4) for name, seconds in parts.items()},
            actor_s=round(whole, 3),
        )
