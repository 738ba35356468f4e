"""Output prefixes of the three tasks, made by code, with names and messages that would break a careless page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.layout import Layout
from pipeline.plan.adaptive import Choice
from pipeline.plan.patches import Patch
from pipeline.records.commit import Failure
from pipeline.records.decisions import write_decisions
from pipeline.records.decisions_schema import DecisionRecord
from pipeline.records.quarantine import rebuild
from pipeline.records.session import open_run
from pipeline.storage import Storage
from tests.media_factory import make_video
from tests.records import flow_samples, recognition_samples

HOSTILE = (
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(2)>", "a\u202egpj.4pm", "line\nbreak\u2028end",
    "</script><script>alert(3)</script>", "{{ 7 * 7 }}", "n" * 500,
)  # fmt: skip
SECRET = "AKIAIOSFODNN7EXAMPLE"
FRAMES = 20


def summary(task: str, output: str, **changes: Any) -> dict[str, Any]:
    return {
        "task": task, "output": output, "session": "20261121T000000-aa", "fingerprint": "f" * 64,
        "code_version": "0.1.0",
        "started": "2026-11-21T00:00:00+00:00", "wall_s": 75.5, "start_up_s": 6.25, "videos_committed": 1,
        "videos_quarantined": len(HOSTILE), "videos_skipped": 3, "frames": 1234567, "files": 2,
        "output_bytes": 1_234_567,
        "frames_by_kind": {"source": 8, "synthesised": 8}, "stage_s": {"total": 20.0, "model": 16.0, "decode": 1.0},
        "frames_per_second": 3.5, "model_ceiling": 4.0, "remarks": {HOSTILE[0]: 2},
        "timeline": [{"t": float(t), "frames": 7 * t, "clips": t} for t in range(10)],
    } | changes  # fmt: skip


def made(folder: Path, task: str) -> Layout:
    """A prefix with one finished video of `task`, a failure for each hostile name, and a summary."""
    storage, layout = Storage(), Layout(str(folder / "out"))
    open_run(storage, layout, {"task": task, "configuration": {"model": HOSTILE[0]}})
    files = {"flow": _flow, "recognize": _recognition, "interpolate": _interpolation}[task](folder)
    flow_samples.committed(storage, layout, "a", files, task=task)
    for number, text in enumerate(HOSTILE):
        failure = Failure(
            stage="decode", error_type=f"Error{number % 2}", message=text, pts=number, attempts=number + 1,
            traceback=f"Traceback\n  {text}",
        )  # fmt: skip
        flow_samples.committed(storage, layout, f"bad{number}", [], task=task, failure=failure)
    rebuild(storage, layout, "20261121T000000-aa")
    data = json.dumps(summary(task, layout.output)).encode()
    storage.put(layout.summary, data)
    storage.put(layout.session_summary("20261121T000000-aa"), data)
    older = summary(
        task, layout.output, session="20261120T000000-bb", started=datetime(2026, 11, 20, tzinfo=UTC).isoformat()
    )
    storage.put(layout.session_summary("20261120T000000-bb"), json.dumps(older).encode())
    return layout


Files = Sequence[tuple[str, Path, int, bool]]


def _flow(folder: Path) -> Files:
    path = folder / "flow.parquet"
    flow_samples.write_file(path, [flow_samples.flow_row(frame, count=FRAMES) for frame in range(FRAMES)])
    return [("flow/a.mp4.parquet", path, FRAMES, False)]


def _recognition(folder: Path) -> Files:
    path = folder / "recognition.parquet"
    recognition_samples.write_file(path, [recognition_samples.row(frame) for frame in range(FRAMES)])
    return [("recognition/a.mp4.parquet", path, FRAMES, False)]


def _interpolation(folder: Path) -> Files:
    video, table = folder / "a.mp4", folder / "a.decisions.parquet"
    video.write_bytes(make_video(frames=FRAMES))
    patches = (Patch(0, 0, 48, 40), Patch(0, 24, 48, 40))
    write_decisions(table, (_decision(frame, patches) for frame in range(FRAMES)))
    return [("video/a.mp4", video, FRAMES, False), ("video/a.decisions.parquet", table, FRAMES, False)]


def _decision(frame: int, patches: tuple[Patch, ...]) -> DecisionRecord:
    made = frame % 2 == 1
    return DecisionRecord(
        video_uri="s3://in/a.mp4", video_version="etag", member="", video_id="a-id", frame_index=frame,
        pts=frame * 512, time_base=Fraction(1, 12800), kind="synthesised" if made else "source",
        t=Fraction(1, 2) if made else Fraction(0), t_error=Fraction(0), height=48, width=64,
        patches=patches if made else (), choices=(Choice(2, 1 + frame // 4), Choice(1, 0)) if made else (),
        flops=frame * 10**8 if made else 0, full_flops=10**10 if made else 0, model="m", weights_sha256="0" * 64,
    )  # fmt: skip
