"""What a run does with one video, in a process of its own under limits of memory; a line of JSON in, one out.

Run as `python -m tests.corpus.worker`. The parent ends it when a file takes too long.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

MEMORY_BYTES = 6 << 30
"""Of address space: Torch alone maps more than two."""
WRITTEN_BYTES = 256 << 20
"""Of any file it writes."""


def examine(path: Path) -> dict[str, Any]:
    """What became of a file: "committed" with its frames, or "refused" with the error and the frames before it."""
    from pipeline.errors import VideoError

    data = path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        try:
            return _processed(data, path.name, Path(folder))
        except VideoError as error:
            return {"outcome": "refused", "stage": error.stage, "error": type(error).__name__, "message": str(error)}
        except MemoryError as error:
            return {"outcome": "died", "message": f"MemoryError: {error}"}
        except Exception:
            # A run puts these into quarantine after some tries; here they are defects.
            return {"outcome": "defect", "message": traceback.format_exc()[-3000:]}


def _processed(data: bytes, name: str, folder: Path) -> dict[str, Any]:
    from pipeline.media.probe import probe
    from pipeline.plan.clips import plan_clips
    from pipeline.run.rows import headers_only
    from pipeline.tasks.base import ClipPart
    from pipeline.types import VideoRef

    task, processor = _machinery()
    video = VideoRef(uri=f"memory://{name}", version="1", name=name, size=len(data))
    info = probe(io.BytesIO(data), video, task.config.input, task.config.decode)
    task.check_video(info)
    expected, header = task.expected_rows(info), headers_only(info)
    parts, error = [], None
    for clip in plan_clips(video, info, task.config.clip.frames, task.halo()):
        scratch = folder / str(clip.index)
        scratch.mkdir()
        made = processor.process(clip, header, io.BytesIO(data), scratch, lambda _: None)
        if made.path is not None:
            parts.append(ClipPart(made.rows, made.path.stat().st_size, made.extra, partial(Path, made.path)))
        if made.error is not None:
            error = made.error
            break
    frames: list[tuple[str, str]] = []
    rows = 0
    if parts:
        for output in task.join(video, header, parts, io.BytesIO(data), folder, error is None):
            if output.result:
                frames, rows = _frames(output.path), rows + output.rows
            output.path.unlink()
    whole = {"pts": len(info.pts), "lossless": info.pix_fmt in ("yuv420p", "yuvj420p"), "frames": frames}
    if error is not None:
        said = {"stage": error.stage, "error": type(error).__name__, "message": str(error)}
        return {"outcome": "refused", **said, **whole}
    if rows != expected:
        return {"outcome": "defect", "message": f"{rows} rows made, {expected} planned", **whole}
    return {"outcome": "committed", **whole}


def _frames(path: Path) -> list[tuple[str, str]]:
    """(time, digest) of the finished file's frames, by PyAV."""
    from tests.e2e.support import frames_of

    return [(str(time), digest) for time, digest in frames_of(path)]


_made: list[Any] = []


def _machinery() -> Any:
    from pipeline.config import InterpolateConfig, load
    from pipeline.tasks.interpolate import InterpolateTask

    if not _made:
        sets = ["model=blend", "encode.preset=ultrafast", "encode.crf=0", "clip.frames=11", "cuts.detect=false"]
        sets += ["input.max_frames=5000", "input.max_width=1024", "input.max_height=1024"]
        task = InterpolateTask(load(InterpolateConfig, None, sets))
        _made.extend((task, task.load("cpu", 1)))
    return _made


def main() -> None:
    from pipeline.benchmark_flow_loops import peak_rss

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (WRITTEN_BYTES, WRITTEN_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _machinery()
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        began = time.monotonic()
        answer = examine(Path(json.loads(line)))
        answer["seconds"] = round(time.monotonic() - began, 3)
        answer["peak_rss"] = peak_rss()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
