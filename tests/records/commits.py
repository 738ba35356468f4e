"""Commits that tests need, in a folder and in a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import RetryConfig
from pipeline.layout import Layout
from pipeline.records.commit import ClipCommit, DataObject, Failure, Provenance, VideoCommit, new_attempt

QUICK = RetryConfig(storage_max_wait_s=0.3)
PROVENANCE = Provenance(task="interpolate", model="blend", configuration="c0ffee", code_version="0.1.0")


@pytest.fixture(params=["local", "s3"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Layout]:
    if request.param == "local":
        yield Layout(str(tmp_path / "out"))
    else:
        yield Layout(request.getfixturevalue("s3_env").uri + "/out")


def clip(index: int = 0, *, failure: Failure | None = None, attempt: str | None = None) -> ClipCommit:
    return ClipCommit(
        video_id="v", uri="s3://in/a.mp4", version="etag", name="a.mp4", attempt=attempt or new_attempt(),
        status="error" if failure else "ok", failure=failure, fingerprint="f", provenance=PROVENANCE,
        clip_id=f"{index:06d}-0-48", clip_index=index, clip_count=9, start_pts=0, end_pts=48, time_base="1/24",
        data=None if failure else DataObject(path=f"_motionmill/segments/v/{index}", size=1, sha256="00", frames=48),
        extra={"t_error": "1/16"},
    )  # fmt: skip


def video(status: str = "ok") -> VideoCommit:
    failure = Failure(stage="probe", error_type="UnreadableVideo", message="no moov") if status == "error" else None
    return VideoCommit(
        video_id=status, uri="s3://in/a.mp4", version="etag", name="a.mp4", attempt=new_attempt(), status=status,
        failure=failure, fingerprint="f", provenance=PROVENANCE,
    )  # fmt: skip
