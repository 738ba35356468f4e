"""The triplet protocol, on clips whose true middles are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from models.rife import IFNet
from models.rife.checkpoint import Sizes
from pipeline.errors import ConfigError, InputNotFound, WeightsUnusable
from pipeline.training.evaluation import cain, evaluate_clip, evaluate_folder, fitted, network, table
from tests.training.clips_factory import sliding, write_clip

ROOT = Path(__file__).parents[2]


def test_triplets_start_at_every_tenth_frame_and_spare_cuts(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mkv", sliding(21, seed=0) + sliding(14, seed=5))
    seen = []
    score = evaluate_clip(clip, lambda a, b: seen.append(a) or (a + b) / 2)  # type: ignore[func-returns-value]
    assert score is not None
    assert len(seen) == 4  # 0, 10, 20, 30 are looked at
    assert score.triplets == 3  # 20, 21, 22 spans the cut
    assert score.gain == pytest.approx(0, abs=1e-9)
    assert score.model_ssim == score.average_ssim
    assert score.size == (96, 96)


def test_the_average_scores_less_on_faster_motion(tmp_path: Path) -> None:
    write_clip(tmp_path / "fast.mkv", sliding(13, speed=4))
    write_clip(tmp_path / "slow.mkv", sliding(13, speed=1))
    fast, slow = evaluate_folder(tmp_path, lambda a, b: (a + b) / 2)
    assert fast.average_psnr < slow.average_psnr - 3
    printed = table([fast, slow])
    assert "fast.mkv" in printed
    assert "mean over clips" in printed


def test_large_frames_are_scaled_into_720p() -> None:
    assert fitted(1280, 720) == (1280, 720)
    assert fitted(641, 273) == (641, 273)
    assert fitted(1920, 1080) == (1280, 720)
    assert fitted(1080, 1920) == (404, 720)


def test_wrong_choices_and_weights_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision=fp8"):
        cain("cain-compact", "fp8", "tight", None, 1)
    with pytest.raises(ConfigError, match="exit_depth=6: these weights have exits 1 to 5"):
        cain("cain-compact", "fp32", "tight", 6, 1)
    with pytest.raises(WeightsUnusable, match="nothing found"):
        cain("no-such-weights", "fp32", "tight", None, 1)
    with pytest.raises(InputNotFound, match="no video files"):
        evaluate_folder(tmp_path, lambda a, b: a)


def test_rife_s_weights_are_measured_by_the_same_command(tmp_path: Path) -> None:
    rife = IFNet(Sizes(widths=(16, 8, 8, 8), convs=1, hidden=8, features=4))
    safetensors.torch.save_file({k: v.contiguous() for k, v in rife.to_reference().items()}, tmp_path / "w.safetensors")
    first, last = torch.rand(2, 1, 3, 20, 30)
    two = network(str(tmp_path / "w.safetensors"), "fp32", "tight", 2, 1)
    with torch.inference_mode():
        assert torch.allclose(two(first, last), rife.eval()(first, last, 0.5, 2), atol=1e-6)
    with pytest.raises(ConfigError, match="exit_depth=5: these weights have exits 1 to 4"):
        network(str(tmp_path / "w.safetensors"), "fp32", "tight", 5, 1)
    with pytest.raises(WeightsUnusable, match="nothing found"):
        network("no-such-weights", "fp32", "tight", None, 1)


def test_the_job_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv", sliding(13))
    command = [sys.executable, "jobs/evaluate.py", "interpolate", str(tmp_path), "--padding", "tight", "--threads", "1"]
    run = subprocess.run([*command, "--json", str(tmp_path / "out.json")], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "mean over clips" in run.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["weights"] == "cain-compact"
    assert document["clips"][0]["triplets"] == 2
    assert document["mean"]["gain"] == pytest.approx(document["clips"][0]["gain"])
