"""Exports' pictures: the frames that records are of, out of the input that the run was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import DecodeConfig, InputConfig
from pipeline.errors import InputNotFound
from pipeline.plan.discover import discover
from pipeline.records.recognition_schema import RecognitionRecord
from pipeline.storage import Storage
from pipeline.tasks.recognize_pictures import SourcePictures
from pipeline.types import VideoRef
from tests.media_factory import RGB, make_video
from tests.tasks.recognize_support import records, segmenter, task_of

__all__ = ["segmenter"]

FRAMES = 6


def level(index: int, width: int, height: int) -> RGB:
    """A grey of its own for each frame."""
    return np.full((height, width, 3), 40 + 20 * index, np.uint8)


VIDEO = make_video(frames=FRAMES, image=level, options={"x264-params": "bframes=2", "crf": "4"})


def place(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(VIDEO)
    return folder


def pictures(folder: Path) -> SourcePictures:
    return SourcePictures(str(folder), Storage(), InputConfig(), DecodeConfig())


@pytest.fixture
def recognised(tmp_path: Path, segmenter: str) -> list[RecognitionRecord]:
    return records(task_of(segmenter), VIDEO, tmp_path / "run")


def of(records: list[RecognitionRecord], folder: Path, name: str) -> list[RecognitionRecord]:
    """The records as if they were of this file."""
    found = discover(str(folder), InputConfig(), Storage())
    (video,) = [one for one in found if isinstance(one, VideoRef) and one.name == name]
    for record in records:
        object.__setattr__(record, "video_id", video.video_id)
    return records


def test_each_record_gets_its_own_frame_also_where_some_are_left_out(
    tmp_path: Path, recognised: list[RecognitionRecord]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    place(folder, "a.mp4", "b.mp4")
    with pictures(folder) as shown:
        for name, every in (("b.mp4", 1), ("a.mp4", 2)):
            for record in of(recognised, folder, name)[::every]:
                picture = shown(record)
                assert picture.shape == (record.height, record.width, 3)
                assert picture.dtype == np.uint8
                assert abs(float(picture.mean()) - (40 + 20 * record.frame_index)) < 4


def test_another_video_or_frame_is_refused(tmp_path: Path, recognised: list[RecognitionRecord]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    place(folder, "a.mp4")
    with pictures(folder) as shown:
        with pytest.raises(InputNotFound, match="give the INPUT that the run was given"):
            shown(recognised[0])
        mine = of(recognised, folder, "a.mp4")
        shown(mine[3])
        with pytest.raises(InputNotFound, match=f"no frame at pts {mine[1].pts}"):
            shown(mine[1])
