"""What a person sees while a job runs: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

_PLAIN_EVERY_S = 10.0


@dataclass(slots=True)
class Tally:
    """What has been done so far. Frames are output frames (records, for other tasks) made in this session."""

    videos: int = 0
    videos_done: int = 0
    videos_quarantined: int = 0
    clips: int = 0
    """Clips of the videos seen so far; videos not yet probed are not in it."""
    clips_done: int = 0
    frames: int = 0
    clips_fresh: int = 0
    """Clips made in this session; the others were found committed."""
    videos_probed: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def frames_per_second(self) -> float:
        return self.frames / max(1e-9, time.monotonic() - self.started)

    def seconds_left(self) -> float | None:
        """From the rate of clips so far; None before the first. Videos not yet probed are taken as average."""
        if not self.clips_fresh or not self.clips or not self.videos:
            return None
        seen = self.videos_probed
        clips_expected = self.clips * self.videos / seen if seen else self.clips
        rate = self.clips_fresh / max(1e-9, time.monotonic() - self.started)
        return max(0.0, clips_expected - self.clips_done) / rate

    def line(self) -> str:
        left = self.seconds_left()
        parts = [
            f"videos {self.videos_done}/{self.videos}",
            f"clips {self.clips_done}/{self.clips}",
            f"{self.frames} frames, {self.frames_per_second:.1f}/s",
            f"quarantined {self.videos_quarantined}",
        ]
        if left is not None:
            parts.append(f"{_span(left)} left")
        return " · ".join(parts)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class _Line(ProgressColumn):
    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def render(self, task: Task) -> Text:
        return Text(self._tally.line())


class Display:
    """Shows a tally until closed. `log` prints a line that stays."""

    def __init__(self, title: str, tally: Tally, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._tally = tally
        self._printed = time.monotonic()
        self._title = title
        self._live: Progress | None = None
        if self._stream.isatty():
            columns = (
                TextColumn("{task.description}", style="bold", markup=False),
                BarColumn(20),
                _Line(tally),
                TimeElapsedColumn(),
            )
            self._live = Progress(*columns, console=Console(file=self._stream), refresh_per_second=4)
            self._bar = self._live.add_task(title, total=None)
            self._live.start()

    def update(self) -> None:
        if self._live is not None:
            self._live.update(self._bar, completed=self._tally.clips_done, total=self._tally.clips or None)
        elif time.monotonic() - self._printed >= _PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self.log(f"{self._title}: {self._tally.line()}")

    def log(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._live is not None:
            self.update()
            self._live.stop()
        self.log(f"{self._title}: {self._tally.line()}")
