from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import ObjectNotFound
from pipeline.layout import Layout
from pipeline.records import quarantine
from pipeline.records.commit import DataObject, Failure, commit_clip, commit_video
from pipeline.storage import Storage
from tests.records.test_commit import clip, video


def test_the_table_is_rebuilt_from_the_commits_alone(tmp_path: Path) -> None:
    storage, layout = Storage(), Layout(str(tmp_path))
    prefix = DataObject(path="_motionmill/quarantine/video/a.mp4", size=9, sha256="00", frames=17)
    failure = Failure(
        stage="decode", error_type="CorruptVideo", message="https://u:p@h/a?sig=x broke", pts=17, attempts=2,
        traceback="Traceback …", prefix=prefix,
    )  # fmt: skip
    commit_clip(storage, layout, clip(0))
    commit_clip(storage, layout, clip(3, failure=failure))
    commit_video(storage, layout, video("error"))
    commit_video(storage, layout, video())
    assert quarantine.rebuild(storage, layout, "session-1") == 2
    table = quarantine.read(storage, layout)
    assert table.schema.equals(quarantine.SCHEMA)
    whole, part = table.to_pylist()
    assert (whole["video_id"], whole["clip"], whole["stage"], whole["prefix_uri"]) == ("error", None, "probe", None)
    assert part["clip"] == "000003-0-48"
    assert part["message"] == "https://***@h/a?sig=*** broke"
    assert (part["pts"], part["time_base"], part["attempts"], part["prefix_frames"]) == (17, "1/24", 2, 17)
    assert part["prefix_uri"] == f"{tmp_path}/_motionmill/quarantine/video/a.mp4"
    assert part["session"] == "session-1"
    assert abs((datetime.now(UTC) - part["time"]).total_seconds()) < 60


def test_the_file_opens_anywhere_and_says_its_units(tmp_path: Path) -> None:
    storage, layout = Storage(), Layout(str(tmp_path))
    assert quarantine.write(storage, layout, []) == 0
    file = pq.ParquetFile(layout.quarantine)
    assert file.schema_arrow.field("pts").metadata[b"unit"] == b"time_base"
    assert file.schema_arrow.metadata[b"schema_version"] == b"1"


def test_a_success_has_no_row_and_a_run_without_a_table_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no place in quarantine"):
        quarantine.row_of(clip(), Layout("x"), "s")
    with pytest.raises(ObjectNotFound):
        quarantine.read(Storage(), Layout(str(tmp_path)))
