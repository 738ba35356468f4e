"""A small MEMFOF in a file, and flow clips processed and joined as workers do it, without a cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from pipeline.config import load
from pipeline.config_flow import FlowConfig
from pipeline.records.flow import read_flow_file
from pipeline.records.flow_schema import FlowRecord
from pipeline.tasks.flow import FlowTask
from tests.media_factory import RGB
from tests.models.memfof_weights import compact
from tests.tasks.clip_support import joined_file


def weights_file(folder: Path) -> Path:
    path = folder / "tiny.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in compact().to_reference().items()}, str(path))
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a MEMFOF that takes milliseconds a frame, and gives flows of some pixels."""
    return str(weights_file(tmp_path_factory.mktemp("weights")))


def task_of(model: str, *overrides: str) -> FlowTask:
    return FlowTask(load(FlowConfig, None, [f"model={model}", "iterations=1", *overrides]))


def records(task: FlowTask, data: bytes, folder: Path) -> list[FlowRecord]:
    """A video's records, from its clips through its joined file."""
    return list(read_flow_file(joined_file(task, data, folder)))


def cutting(index: int, width: int, height: int) -> RGB:
    """A texture that moves 2 px to the right a frame, and a cut to another one every seven frames."""
    shot = index // 7
    texture = np.random.default_rng(shot).integers(0, 200, (height // 8, width // 8, 3)).repeat(8, 0).repeat(8, 1)
    return np.roll(texture, 2 * (index % 7), 1).astype(np.uint8)


FIELDS = (
    "flow_forward", "flow_backward", "validity_forward", "validity_backward", "confidence_forward",
    "confidence_backward",
)  # fmt: skip
FACTS = (
    "video_uri", "video_version", "member", "video_id", "shot", "frame_index", "pts", "time_base", "height", "width",
    "previous_pts", "next_pts", "direction", "codec", "max_error_px", "stored_scale", "model", "weights_sha256",
    "iterations", "precision",
)  # fmt: skip


def same(one: FlowRecord, other: FlowRecord) -> bool:
    """Bit for bit, in all that does not say which clip the record came from."""
    if any(getattr(one, name) != getattr(other, name) for name in FACTS):
        return False
    pairs = [(getattr(one, name), getattr(other, name)) for name in FIELDS]
    return all(a is b if a is None or b is None else np.array_equal(a, b) for a, b in pairs)
