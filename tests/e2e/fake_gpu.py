"""A job whose actors note which GPUs Ray gave them, then compute on the CPU: for clusters that only declare GPUs.

python tests/e2e/fake_gpu.py INPUT OUTPUT NOTES ACTORS dotted.key=value...

No clip is begun before that many actors have left their notes: a quick one would do all the work before others start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import ray

from pipeline.config import InterpolateConfig, load
from pipeline.run import driver, exits
from pipeline.tasks.interpolate import InterpolateTask


@dataclass(frozen=True)
class FakeGpuTask(InterpolateTask):
    seen: str = ""
    actors: int = 1

    def load(self, device: str, threads: int) -> Any:
        context = ray.get_runtime_context()
        assigned = context.get_assigned_resources()
        note = {
            "device": device,
            "gpus": ",".join(map(str, ray.get_gpu_ids())),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "assigned": {"GPU": assigned.get("GPU", 0)},
            "allocator": os.environ.get("GLIBC_TUNABLES", ""),
        }
        Path(self.seen).mkdir(exist_ok=True)
        (Path(self.seen) / str(context.get_actor_id())).write_text(json.dumps(note))
        processor = super().load("cpu", threads)
        process: Callable[..., Any] = processor.process

        def together(*arguments: Any) -> Any:
            while len(list(Path(self.seen).iterdir())) < self.actors:
                time.sleep(0.1)
            return process(*arguments)

        processor.process = together  # type: ignore[method-assign]
        return processor


def main(source: str, output: str, notes: str, actors: str, *sets: str) -> int:
    task = FakeGpuTask(load(InterpolateConfig, None, sets), seen=notes, actors=int(actors))
    return exits.guarded(lambda: driver.run(task, source, output, driver.Options()), print)


if __name__ == "__main__":
    from tests.e2e import fake_gpu  # not __main__, which workers could not import

    sys.exit(fake_gpu.main(*sys.argv[1:]))
