"""The three jobs with videos that ruin the worker that processes them: by their names, on their second clip.

python -m tests.chaos.poison TASK INPUT OUTPUT [dotted.key=value]...
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import InterpolateConfig, load
from pipeline.config_flow import FlowConfig
from pipeline.config_recognize import RecognizeConfig
from pipeline.run import driver, exits
from pipeline.tasks.flow import FlowTask
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.tasks.recognize import RecognizeTask

BLOCK = 64 << 20
MOST = 24
"""Blocks that are taken at most: 1.5 GiB, long before which the matrix ends the process."""


def ruin(name: str) -> None:
    if name == "segfault":
        ctypes.string_at(0)
    if name == "hang":
        time.sleep(10_000)
    if name == "memory":
        held = []
        for _ in range(MOST):
            held.append(np.ones(BLOCK, np.uint8))
            time.sleep(0.1)
        time.sleep(10_000)


class _Poisoned:
    def load(self, device: str, threads: int) -> Any:
        processor = super().load(device, threads)  # type: ignore[misc]
        process: Callable[..., Any] = processor.process

        def poisoned(clip: Any, *arguments: Any) -> Any:
            if clip.index == 1:
                ruin(Path(clip.video.uri).stem)
            return process(clip, *arguments)

        processor.process = poisoned
        return processor


class Interpolate(_Poisoned, InterpolateTask):
    pass


class Flow(_Poisoned, FlowTask):
    pass


class Recognize(_Poisoned, RecognizeTask):
    pass


TASKS: dict[str, tuple[Any, Any]] = {
    "interpolate": (Interpolate, InterpolateConfig),
    "flow": (Flow, FlowConfig),
    "recognize": (Recognize, RecognizeConfig),
}


def main(name: str, source: str, output: str, *sets: str) -> int:
    task, config = TASKS[name]
    made = task(load(config, None, sets))
    return exits.guarded(lambda: driver.run(made, source, output, driver.Options()), print)


if __name__ == "__main__":
    from tests.chaos import poison  # not __main__, which workers could not import

    sys.exit(poison.main(*sys.argv[1:]))
