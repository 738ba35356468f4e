"""The interpolation benchmark: its bound, and its loops on a clip of a few frames."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline import benchmark
from pipeline import config as configuration
from pipeline.benchmark import Speed
from pipeline.config import InterpolateConfig
from tests.training.clips_factory import sliding, write_clip

FULL = Speed(
    video="clip.mp4", width=64, height=48, model="blend", actors=2, threads=1, cores=2, bare=4.0, codecs=12.0, job=2.7,
    job_with_start_up=2.0, plain=1.5, job_stage_s={"model": 1.0},
)  # fmt: skip


def test_model_and_codecs_share_the_cores_where_actors_fill_them() -> None:
    assert FULL.bound == pytest.approx(3.0)  # 1/4 + 1/12 = 1/3
    assert "0.90 of the bound, 0.68 of the bare model" in FULL.text()
    assert "1.80 times" in FULL.text()


def test_cores_to_spare_take_the_codecs_until_these_are_the_slower_ones() -> None:
    one = replace(FULL, actors=1, bare=2.0, codecs=6.0)
    assert one.bound == 2.0, "the model's own rate: decode and encode run beside it"
    assert replace(one, codecs=0.5).bound == pytest.approx(0.8)  # 2 cores / (1/2 + 2) s


@pytest.fixture
def threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_kept")
def test_each_way_makes_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, settings = tmp_path / "clip.mkv", ("model=blend", "encode.preset=ultrafast")
    write_clip(clip, sliding(6, 64, speed=2))
    monkeypatch.setattr(benchmark, "_BARRIER", threading.Barrier(1))
    assert benchmark._bare_loop(str(clip), settings, 1, 0.05) > 0
    assert benchmark._codec_loop(str(clip), settings, 1, 0.05) > 0
    assert benchmark.plain(str(clip), configuration.load(InterpolateConfig, None, settings)) > 0
