"""The flow benchmark measures what it says, on a network of milliseconds."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.memfof import MEMFOF
from pipeline import benchmark_flow_loops
from pipeline.benchmark_flow import FlowSpeed, Job, scaled, size_of, upstream_macs
from pipeline.benchmark_flow_loops import Plan, _Bare, peak_rss
from pipeline.config_flow import FlowConfig
from pipeline.errors import ConfigError, WeightsUnusable
from pipeline.run import allocator
from pipeline.tasks import flow_model
from tests.models.memfof_weights import compact

SAMPLE = Path(__file__).parents[1] / "jobs" / "samples" / "bigbuckbunny.mp4"
MEASURED = FlowSpeed(
    video="a.mp4", width=960, height=540, model="m", iterations=8, precision="fp32", processes=2, threads=1, cores=2,
    rounds=8, load=0.1, upstream=0.5, ours=1.0, time_share=0.5, cpu_share=0.4, difference_px=2e-4,
    upstream_macs=1351 * 10**9, ours_macs=900 * 10**9, loaded_rss=2**28, upstream_rss=2**31, ours_rss=2**30, job=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("benchmark")
    weights = folder / "tiny.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in compact().to_reference().items()}, str(weights))
    clip = folder / "clip.mp4"
    assert scaled(str(SAMPLE), clip, (320, 256), 5, FlowConfig()) == (320, 256)
    return Plan(str(clip), (f"model={weights}", "iterations=2", "precision=fp32"), 1)


class _Alone:
    """A barrier for one."""

    def wait(self, _timeout: float) -> None: ...

    def abort(self) -> None: ...


def test_both_ways_compute_the_same_frames_in_turn(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_flow_loops, "_BARRIER", _Alone())
    turns = benchmark_flow_loops._turns(plan, 3)
    assert len(turns) == 3
    assert all(turn.upstream_s > 0 and turn.ours_s > 0 and turn.cpu_share > 0 for turn in turns)
    assert max(turn.difference_px for turn in turns) < 2e-3, "of different frames they would differ by pixels"


def test_the_loops_go_to_and_fro(plan: Plan) -> None:
    bare = _Bare(plan)
    assert len(bare.distinct) == 5
    seen = [
        next(i for i, one in enumerate(bare.distinct) if one is frame)
        for frame in itertools.islice(bare.frames(), 10)
    ]  # fmt: skip
    assert seen == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1]
    assert bare.distinct[0].dtype == torch.uint8
    assert bare.distinct[0].shape == (3, 256, 320)


def test_a_process_that_fails_lets_the_others_go(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted = []
    monkeypatch.setattr(benchmark_flow_loops, "_BARRIER", _Alone())
    monkeypatch.setattr(_Alone, "abort", lambda _: aborted.append(True))
    with pytest.raises(WeightsUnusable, match="/nowhere/weights"):
        benchmark_flow_loops._turns(Plan("/nowhere/clip.mp4", ("model=/nowhere/weights",), 1), 1)
    assert aborted


def test_the_job_does_not_inherit_how_the_loops_manage_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    with allocator.inherited():
        assert "arena_max" in os.environ["GLIBC_TUNABLES"]
    assert "GLIBC_TUNABLES" not in os.environ
    monkeypatch.setenv("GLIBC_TUNABLES", "mine")
    with allocator.inherited():
        pass
    assert os.environ["GLIBC_TUNABLES"] == "mine"


def _grown(count: int) -> tuple[int, int]:
    before = peak_rss()
    data = b"1" * count
    del data
    return before, peak_rss()


def test_peak_memory_is_the_process_own() -> None:
    """Not its parent's, which ru_maxrss of a child starts with; and it remembers what has been freed."""
    ballast = b"1" * (300 << 20)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        before, after = pool.apply(_grown, (100 << 20,))
    assert before < peak_rss() - len(ballast) // 2
    assert after - before > 90 << 20


def test_upstreams_arithmetic_is_counted_for_the_weights_given(plan: Plan) -> None:
    model = plan.settings[0].removeprefix("model=")
    ours = flow_model.macs(model, 256, 320, 2)[1]
    theirs = upstream_macs(model, 256, 320, 2)
    assert ours < theirs
    with pytest.raises(ConfigError, match="320x200: upstream takes sides of 241 px and more"):
        upstream_macs(model, 200, 320, 2)


def test_sizes_are_read_or_refused() -> None:
    assert size_of("960x540") == (960, 540)
    assert size_of("") is None
    for wrong in ("960", "960x", "0x540", "-1x5", "960x540x3"):
        with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
            size_of(wrong)


def test_a_video_of_two_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 frames; a triplet takes 3"):
        scaled(str(SAMPLE), tmp_path / "clip.mp4", (320, 256), 2, FlowConfig())


def test_the_report_sets_rates_shares_arithmetic_and_memory_side_by_side() -> None:
    job = Job(frames_per_s=0.97, with_start_up=0.5, peak_rss=3 * 2**29, frames=96, output_bytes=1, stage_s={"model": 9})
    text = replace(MEASURED, job=job).text()
    _, _, upstream, ours, whole, start_up, *_ = text.splitlines()
    assert upstream.split()[-3:] == ["0.5000", "1351.0", "2048"]
    assert ours.split()[4:7] == ["1.0000", "900.0", "1024"]
    assert "0.50 of upstream's time (0.40 of its processor time); flows differ by 0.0002 px at most" in ours
    assert whole.split()[2:] == ["0.9700", "1536", "0.97", "of", "the", "bare", "model"]
    assert "0.5000" in start_up
    assert "the job" not in MEASURED.text()


def test_full_size_random_weights_are_a_models_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import benchmark_flow

    monkeypatch.setattr(benchmark_flow, "MEMFOF", compact)  # the real one takes 300 MB
    (setting,) = benchmark_flow._model_setting("random-full", tmp_path)
    network, _ = flow_model.load_network(setting.removeprefix("model="))
    assert isinstance(network, MEMFOF)
    assert torch.equal(network.flow_head[2].weight, compact().flow_head[2].weight / 100)
    assert benchmark_flow._model_setting("memfof-compact", tmp_path) == ["model=memfof-compact"]
    assert benchmark_flow._model_setting(None, tmp_path) == []
