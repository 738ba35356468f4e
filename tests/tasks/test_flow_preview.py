"""The preview: each picture and its stored flow in colours, at the video's own times."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import UnsupportedVideo
from pipeline.tasks.flow_preview import LONG_SIDE
from pipeline.types import VideoInfo
from tests.media_factory import make_video
from tests.tasks.clip_support import join, process
from tests.tasks.flow_support import task_of, tiny

__all__ = ["tiny"]


@pytest.mark.parametrize(("size", "panels"), [((96, 64), (96, 128)), ((50, 66), (100, 66)), ((1200, 80), (960, 128))])
def test_a_preview_shows_each_picture_and_its_flow_at_the_video_s_own_times(
    tiny: str, tmp_path: Path, size: tuple[int, int], panels: tuple[int, int]
) -> None:
    task = task_of(tiny, "preview=true", "clip.frames=3")
    times = [0, 40, 90, 100, 180]
    data = make_video(
        container="matroska", frames=5, size=size, pts=times, time_base=Fraction(1, 1000), options={"crf": "4"}
    )
    task.check_node()
    made = join(task, data, process(task, data, tmp_path), tmp_path)
    assert [(output.suffix, output.rows, output.result) for output, _ in made] == [
        (".parquet", 5, True), (".preview.mp4", 5, False)
    ]  # fmt: skip
    assert made[1][0].extra["preview_full_colour_px"] > 0
    with av.open(io.BytesIO(made[1][1])) as container:
        frames = list(container.decode(video=0))
    assert [round(1000 * (frame.pts - frames[0].pts) * frame.time_base) for frame in frames] == times
    pictures = [frame.to_ndarray(format="rgb24").astype(int) for frame in frames]
    assert pictures[0].shape == (panels[1], panels[0], 3)
    with av.open(io.BytesIO(data)) as container:
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    if panels[0] < LONG_SIDE:
        upper = pictures[2][: size[1], : size[0]]
        assert np.abs(upper - shown[2]).mean() < 12, "the picture itself is in the first panel"
    lower = pictures[-1][-4:, -4:]
    assert np.abs(lower - 128).max() < 12, "grey where there is no next frame"


def test_a_preview_works_for_a_single_frame(tiny: str, tmp_path: Path) -> None:
    task = task_of(tiny, "preview=true")
    data = make_video(frames=1)
    made = join(task, data, process(task, data, tmp_path), tmp_path)
    assert [output.suffix for output, _ in made] == [".parquet", ".preview.mp4"]


def test_times_too_fine_for_a_preview_are_refused_before_any_clip(tiny: str) -> None:
    info = VideoInfo("matroska", 0, "h264", 64, 48, "yuv420p", Fraction(1, 10**10), (0, 4), 4, ())
    task_of(tiny).check_video(info)
    with pytest.raises(UnsupportedVideo, match="preview=false"):
        task_of(tiny, "preview=true").check_video(info)
