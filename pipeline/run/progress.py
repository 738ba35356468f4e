"""What a person sees while a job runs: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

_PLAIN_EVERY_S = 10.0
_BAR = 20
_BAR_FROM = 100
"""Columns of a terminal from which there is room for a bar."""
_ELAPSED = len("0:00:00")
_GAPS = 2


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

    def line(self, room: int | None = None) -> str:
        """In one line; of at most `room` characters, from which the least important parts are left out first."""
        left = self.seconds_left()
        # (what to keep first, text), in the order of reading
        parts = [
            (1, f"videos {self.videos_done}/{self.videos}"),
            (4, f"clips {self.clips_done}/{self.clips}"),
            (3, f"{self.frames} frames, {self.frames_per_second:.1f}/s"),
            (2 if self.videos_quarantined else 6, f"quarantined {self.videos_quarantined}"),
        ]
        if left is not None:
            parts.append((5, f"{_span(left)} left"))
        while room is not None and len(parts) > 1 and len(_joined(parts)) > room:
            parts.remove(max(parts))
        return _joined(parts)


def _joined(parts: Sequence[tuple[int, str]]) -> str:
    return " · ".join(text for _, text in parts)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class _Line(ProgressColumn):
    """The tally, in what the terminal's width leaves: it may change while the job runs."""

    def __init__(self, tally: Tally, console: Console, others: int) -> None:
        """`others`: characters of the columns beside this one."""
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self._tally, self._console, self._others = tally, console, others

    def render(self, task: Task) -> Text:
        return Text(self._tally.line(max(1, self._console.width - self._others)))


class Display:
    """Shows a tally until closed. `log` prints a line that stays."""

    def __init__(self, title: str, tally: Tally, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._tally = tally
        self._printed = time.monotonic()
        self._title = title
        self._live: Progress | None = None
        if self._stream.isatty():
            console = Console(file=self._stream)
            whole = Column(no_wrap=True)
            columns: list[ProgressColumn] = [
                TextColumn("{task.description}", style="bold", markup=False, table_column=whole)
            ]
            others = len(title) + _GAPS + _ELAPSED
            if console.width >= _BAR_FROM:
                columns.append(BarColumn(_BAR, table_column=Column(width=_BAR)))
                others += _BAR + 1
            columns += [_Line(tally, console, others), TimeElapsedColumn(Column(no_wrap=True))]
            self._live = Progress(*columns, console=console, refresh_per_second=4)
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
