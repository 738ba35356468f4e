"""One run with tables of decisions, previews and a self-check; and a second, cut otherwise and without the check."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.cain_sd import CAIN
from models.cain_sd.adaptive import CAINSD
from models.cain_sd.light_sr import LightSizes, LightSR
from pipeline.records import read_decisions
from tests.e2e.support import Cluster, Done, Output, frames_of, packets_of, run, write
from tests.media_factory import RGB, make_video


def half_still(index: int, width: int, height: int) -> RGB:
    """A texture whose right half moves, 3 px a frame, and a cut to another one every nine frames."""
    texture = np.random.default_rng(index // 9).integers(0, 200, (height // 8, width // 8, 3)).repeat(8, 0).repeat(8, 1)
    moving = np.roll(texture, 3 * (index % 9), 1)
    moving[:, : width // 2] = texture[:, : width // 2]
    return moving.astype(np.uint8)


UNEVEN = [0, 1, 4, 5, 6, 9, 11, 12, 13, 15, 18, 19, 20, 21, 24, 25]
VIDEOS = {
    "uneven.mp4": make_video(frames=16, pts=UNEVEN, time_base=Fraction(1, 50), image=half_still, audio=True),
    "day1/large.mkv": make_video(
        container="matroska", frames=8, size=(320, 240), image=half_still, options={"qp": "0"}
    ),
    "one.mp4": make_video(frames=1),
}


def weights_file(folder: Path) -> Path:
    """A small CAIN-SD of random weights."""
    torch.manual_seed(2)
    network = CAINSD(CAIN(channels=16, rcabs=1, groups=5, reduction=4), LightSR(LightSizes(8)))
    path = folder / "tiny-sd.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.to_tensors().items()}, str(path))
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [
        f"model={weights_file(tmp_path_factory.mktemp('weights'))}", "adaptive_patch.size=96", "preview=true",
        "encode.preset=ultrafast", "encode.crf=0", "resources.cpu_threads=1", "target.factor=3",
        "max_t_error=1/4",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("in"), VIDEOS)


@pytest.fixture(scope="module")
def checked(
    tmp_path_factory: pytest.TempPathFactory, source: Path, cluster: Cluster, sets: list[str]
) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("checked")
    flags = ["clip.frames=5", "resources.actors=2", "self_check=1"]
    done = run(source, folder, [*sets, *flags], env=cluster.job_env())
    assert done.code == 0, done.text
    return folder, done


def test_every_output_frame_has_its_record(checked: tuple[Path, Done]) -> None:
    folder, done = checked
    output = Output.of(folder)
    output.check_settled()
    assert sorted(output.videos) == [
        "day1/large.mkv.decisions.parquet", "day1/large.mkv.mp4", "day1/large.mkv.preview.mp4",
        "one.mp4", "one.mp4.decisions.parquet", "one.mp4.preview.mp4",
        "uneven.mp4", "uneven.mp4.decisions.parquet", "uneven.mp4.preview.mp4",
    ]  # fmt: skip
    for video, made in (("uneven.mp4", "uneven.mp4"), ("day1/large.mkv", "day1/large.mkv.mp4"), ("one.mp4",) * 2):
        records = list(read_decisions(str(folder), video))
        times = [time for time, _ in output.frames(made)]
        assert [record.pts * record.time_base for record in records] == times
        assert [record.frame_index for record in records] == list(range(len(times)))
        kinds = output.commits[video]["extra"]["kinds"]
        assert {kind: sum(record.kind == kind for record in records) for kind in kinds} == kinds
        assert {record.weights_sha256 for record in records} == {output.commits[video]["provenance"]["weights_sha256"]}
    made = [record for record in read_decisions(str(folder)) if record.kind == "synthesised"]
    assert {record.t for record in made} == {Fraction(1, 3), Fraction(2, 3)}
    assert {record.t_error for record in made} == {Fraction(1, 6)}, "the middle is near enough"
    choices = [choice for record in made for choice in record.choices]
    assert {choice.depth == 0 for choice in choices} == {True, False}, "the left half stands still"
    assert all((record.flops or 0) > 0 for record in made)
    assert "decisions  " in done.text
    assert "by scale/exit: " in done.text


def test_previews_have_the_output_s_frames_and_no_sound(checked: tuple[Path, Done]) -> None:
    output = Output.of(checked[0])
    for name, beside in (("uneven.mp4", "uneven.mp4"), ("day1/large.mkv.mp4", "day1/large.mkv")):
        preview = output.files[f"video/{beside}.preview.mp4"]
        assert [time for time, _ in frames_of(preview)] == [time for time, _ in output.frames(name)]
        assert not packets_of(preview, "audio")
    assert packets_of(output.files["video/uneven.mp4"], "audio")


def test_the_summary_tells_how_known_frames_came_out(checked: tuple[Path, Done]) -> None:
    folder, done = checked
    output = Output.of(folder)
    assert output.summary["self_check"]["unreachable"] == 0
    table = output.summary["self_check"]["by_motion"]
    assert "self-check motion" in done.text
    by_video = [commit["extra"]["self_check"]["by_motion"] for commit in output.commits.values()]
    frames = sum(row["frames"] for row in table.values())
    assert frames == sum(row["frames"] for one in by_video for row in one.values())
    assert 10 <= frames <= 18, "those at both ends and beside the cut are left out"
    for row in table.values():
        assert 0 < row["psnr"] < row["average_psnr"], "random weights are behind the frame average"
    assert "worse than the frame average" in done.text
    assert output.summary["stage_s"]["self_check"] > 0


def test_neither_clips_nor_actors_nor_the_check_change_a_frame_or_a_record(
    checked: tuple[Path, Done], source: Path, tmp_path: Path, cluster: Cluster, sets: list[str]
) -> None:
    done = run(source, tmp_path, [*sets, "clip.frames=1000", "resources.actors=1"], env=cluster.job_env())
    assert done.code == 0, done.text
    one, other = Output.of(checked[0]), Output.of(tmp_path)
    assert one.below("video/") == other.below("video/")
    for path in one.videos:
        if path.endswith(".parquet"):
            assert one.files[f"video/{path}"] == other.files[f"video/{path}"], path
        elif not path.endswith(".preview.mp4"):
            assert one.frames(path) == other.frames(path), path
    assert other.summary["self_check"] == {}
    assert "self-check" not in done.text
