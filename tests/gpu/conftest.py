"""GPU tests: skipped where there is no GPU, failed where one was promised (`make test-gpu`)."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture
def cuda() -> str:
    if not torch.cuda.is_available():
        if os.environ.get("MOTIONMILL_REQUIRE_GPU"):
            pytest.fail("MOTIONMILL_REQUIRE_GPU is set, but torch finds no GPU")
        pytest.skip("no GPU")
    return "cuda"
