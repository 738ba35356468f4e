"""A job whose task gets into trouble with videos of certain names, as long as a file of that name exists in a folder.

python tests/e2e/troubled.py INPUT OUTPUT TROUBLE [--retry-quarantined] [dotted.key=value]...
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.config import InterpolateConfig, load
from pipeline.run import driver, exits
from pipeline.tasks.interpolate import InterpolateTask

_LOST = "the process ended without a word"
TROUBLES = {
    # name: (stage, error type, part of the message) that quarantine must show
    "crash-clip": ("worker", "WorkerLost", _LOST),
    "hang-clip": ("worker", "WorkerLost", "hung: no progress for"),
    "raise-clip": ("model", "RuntimeError", "a defect that nobody foresaw"),
    "crash-probe": ("probe", "WorkerLost", _LOST),
    "raise-probe": ("probe", "RuntimeError", "a defect that nobody foresaw"),
    "crash-join": ("finalise", "WorkerLost", _LOST),
    "raise-join": ("finalise", "RuntimeError", "a defect that nobody foresaw"),
}
WIDTHS = {80: "crash-probe", 96: "raise-probe"}
"""Pictures of this width are in the trouble of that name."""


@dataclass(frozen=True)
class TroubledTask(InterpolateTask):
    trouble: str = ""

    def maybe(self, uri: str, place: str) -> None:
        """Gets into the trouble that the video's name announces for `place`."""
        name = Path(uri).stem
        mark = Path(self.trouble) / name
        if not name.endswith(place) or not mark.exists():
            return
        with mark.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if name.startswith("crash"):
            os.kill(os.getpid(), signal.SIGKILL)
        if name.startswith("hang"):
            time.sleep(10_000)
        raise RuntimeError("a defect that nobody foresaw")

    def load(self, device: str, threads: int) -> Any:
        processor = super().load(device, threads)
        process: Callable[..., Any] = processor.process

        def troubled(clip: Any, info: Any, source: Any, scratch: Any, beat: Any) -> Any:
            if clip.index == 1:
                self.maybe(clip.video.uri, "clip")
            return process(clip, info, source, scratch, beat)

        processor.process = troubled  # type: ignore[method-assign]
        return processor

    def join(self, video: Any, *arguments: Any) -> Any:
        self.maybe(video.uri, "join")
        return super().join(video, *arguments)

    def check_video(self, info: Any) -> None:
        if info.width in WIDTHS:  # the video's name is not known here
            self.maybe(WIDTHS[info.width], "probe")
        super().check_video(info)


def main(source: str, output: str, trouble: str, *rest: str) -> int:
    sets = [text for text in rest if not text.startswith("--")]
    task = TroubledTask(load(InterpolateConfig, None, sets), trouble=trouble)
    options = driver.Options(retry_quarantined="--retry-quarantined" in rest)
    return exits.guarded(lambda: driver.run(task, source, output, options), print)


if __name__ == "__main__":
    from tests.e2e import troubled  # not __main__, which workers could not import

    sys.exit(troubled.main(*sys.argv[1:]))
