"""RIFE by patches through the job: random weights at a path of the user's own, judged by the finder that ships."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from safetensors.torch import save_file

from models import weights
from pipeline.config import InterpolateConfig, load
from pipeline.records import read_decisions
from pipeline.tasks.interpolate import InterpolateTask
from tests.e2e.support import Cluster, Done, Output, frames_of, run, write
from tests.e2e.test_decisions import half_still
from tests.media_factory import make_video
from tests.models.test_rife_adaptive import network
from tests.tasks.clip_support import process

FRAMES = 7
VIDEO = make_video(frames=FRAMES, size=(320, 192), image=half_still, options={"qp": "0"})
THIRDS = (Fraction(1, 3), Fraction(2, 3))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("weights") / "rife.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network().to_reference().items()}, str(path))
    return [
        f"model={path}", "adaptive=true", "quality=0.9", "target.factor=3", "encode.preset=ultrafast", "encode.crf=0",
        "resources.cpu_threads=1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster, sets: list[str]) -> tuple[Path, Done]:
    source = write(tmp_path_factory.mktemp("in"), {"a.mp4": VIDEO})
    folder = tmp_path_factory.mktemp("out")
    flags = ["clip.frames=3", "resources.actors=2", "preview=true"]
    done = run(source, folder, [*sets, *flags], env=cluster.job_env())
    assert done.code == 0, done.text
    return folder, done


def test_each_picture_lies_at_its_time_and_says_what_its_patches_got(made: tuple[Path, Done]) -> None:
    folder, done = made
    output = Output.of(folder)
    output.check_settled()
    records = list(read_decisions(str(folder), "a.mp4"))
    assert [record.pts * record.time_base for record in records] == [time for time, _ in output.frames("a.mp4")]
    assert len(records) == 3 * FRAMES
    inner = [record for record in records if record.kind == "synthesised"]
    assert [record.t for record in inner] == [*THIRDS] * (FRAMES - 1)
    assert {record.t_error for record in inner} == {0}
    patches = [pair for record in inner for pair in zip(record.patches, record.choices, strict=True)]
    depths = {(patch.left, choice.depth) for patch, choice in patches}
    assert {depth for left, depth in depths if left < 64} == {0}, "the left side stands still"
    assert {depth for left, depth in depths if left >= 128} <= {1, 2, 3, 4}
    assert all(0 < (record.flops or 0) < (record.full_flops or 0) for record in inner)
    assert "decisions  " in done.text
    preview = output.files["video/a.mp4.preview.mp4"]
    assert [time for time, _ in frames_of(preview)] == [time for time, _ in output.frames("a.mp4")]


def test_the_finder_that_judged_is_named(made: tuple[Path, Done]) -> None:
    run_record = json.loads(Output.of(made[0]).files["_motionmill/run.json"])
    assert weights.TABLE["rife-finder"].sha256 in json.dumps(run_record)


def test_frames_and_decisions_are_those_of_one_clip_without_ray(
    made: tuple[Path, Done], sets: list[str], tmp_path: Path
) -> None:
    (whole,) = process(InterpolateTask(load(InterpolateConfig, None, sets)), VIDEO, tmp_path)
    assert whole.path is not None
    output = Output.of(made[0])
    assert [pixels for _, pixels in frames_of(whole.path)] == [pixels for _, pixels in output.frames("a.mp4")]
    spent = sum(record.flops or 0 for record in read_decisions(str(made[0])) if record.kind == "synthesised")
    assert spent == whole.spent_flops
