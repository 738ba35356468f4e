"""Contract 1: a frame's result does not depend on clip length, batch, workers or the order of work."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.support import LOSSLESS, Cluster, Output, run, write
from tests.media_factory import flat, make_codec, make_video, picture

MS = Fraction(1, 1000)


def _repeating(index: int, width: int, height: int) -> np.ndarray:
    """Runs of one, two, three (all replaced) and four (kept) repeats, and a still end."""
    lengths = [1, 2, 3, 1, 4, 2, 5, 3, 1, 2, 4, 1, 3, 2, 2, 6]
    shown = np.repeat(np.arange(len(lengths)), lengths)
    return picture(int(shown[min(index, len(shown) - 1)]) * 3, width, height)


def _cutting(index: int, width: int, height: int) -> np.ndarray:
    """A cut every seven frames."""
    shot = index // 7
    texture = np.random.default_rng(shot).integers(0, 200, (height // 8, width // 8, 3)).repeat(8, 0).repeat(8, 1)
    return (texture + index % 7).astype(np.uint8)


def _uneven(frames: int) -> list[int]:
    return np.cumsum([0, *np.random.default_rng(3).integers(7, 90, frames - 1)]).tolist()


VIDEOS = {
    "uneven.mkv": lambda: make_video(
        container="matroska", frames=45, pts=_uneven(45), time_base=MS, options={"x264-params": "bframes=3"}
    ),
    "repeats.mp4": lambda: make_video(frames=42, image=_repeating, options={"crf": "0"}),
    "cuts.mp4": lambda: make_video(frames=40, image=_cutting, options={"crf": "10"}),
    "open_gop.mkv": lambda: make_codec("h264 open gop mkv", 45),
    "hevc_open_gop.mkv": lambda: make_codec("hevc open gop", 40),
    "one.mp4": lambda: make_video(frames=1),
    "still.mp4": lambda: make_video(frames=20, image=lambda i, w, h: flat((90, 20, 160), w, h)),
    "vp9.webm": lambda: make_codec("vp9", 33, rate=Fraction(30000, 1001)),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("in"), {name: make() for name, make in VIDEOS.items()})


def _outputs(
    source: Path, folder: Path, cluster: Cluster, target: tuple[str, ...], shape: tuple[int, int, int]
) -> Output:
    clip, batch, actors = shape
    folder = folder / f"{clip}-{batch}-{actors}"
    sets = [
        *LOSSLESS,
        *target,
        f"clip.frames={clip}",
        f"batch={batch}",
        f"resources.actors={actors}",
        "resources.cpu_threads=1",
    ]
    done = run(source, folder, sets, env=cluster.job_env())
    assert done.code == 0, done.text
    output = Output.of(folder)
    output.check_settled()
    return output


def _compare(
    source: Path, folder: Path, cluster: Cluster, target: tuple[str, ...], shapes: list[tuple[int, int, int]]
) -> Output:
    whole = _outputs(source, folder, cluster, target, shapes[0])
    assert len(whole.videos) == len(VIDEOS)
    for shape in shapes[1:]:
        other = _outputs(source, folder, cluster, target, shape)
        assert other.videos == whole.videos
        for name in whole.videos:
            assert other.frames(name) == whole.frames(name), f"{name} with {shape} differs from one clip"
    return whole


def test_a_factor_with_repeats_replaced_gives_the_same_frames_however_the_video_is_cut(
    source: Path, tmp_path: Path, cluster: Cluster
) -> None:
    target = ("target.factor=2", "duplicates.mode=resynthesise")
    whole = _compare(source, tmp_path, cluster, target, [(1000, 1, 1), (5, 4, 3), (1, 2, 2)])
    kinds = {name: commit["extra"]["kinds"] for name, commit in whole.commits.items()}
    assert kinds["cuts.mp4"]["held_cut"] == 5, "the video has five cuts"
    assert kinds["repeats.mp4"]["source"] < 42, "some repeats are replaced"
    assert kinds["still.mp4"].get("synthesised", 0) == 0, "a still picture is left as it is"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["target.fps=60000/1001", "target.fps=11"])
def test_an_exact_rate_gives_the_same_frames_however_the_video_is_cut(
    source: Path, tmp_path: Path, cluster: Cluster, target: str
) -> None:
    whole = _compare(source, tmp_path, cluster, (target,), [(1000, 1, 2), (4, 4, 3)])
    rate = Fraction(target.partition("=")[2])
    for name in whole.videos:
        if name.endswith(".mp4") and whole.summary:
            times = [time for time, _ in whole.frames(name)]
            assert [time - times[0] for time in times] == [n / rate for n in range(len(times))], name


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", [("target.factor=4",), ("target.fps=50", "duplicates.mode=resynthesise"), ("target.factor=3",)]
)
def test_many_shapes_of_a_run_give_the_same_frames(
    source: Path, tmp_path: Path, cluster: Cluster, target: tuple[str, ...]
) -> None:
    shapes = [(1000, 1, 1), (1, 1, 1), (2, 8, 3), (3, 1, 2), (7, 2, 3), (12, 4, 1), (13, 3, 2), (39, 1, 3)]
    _compare(source, tmp_path, cluster, target, shapes)
