from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from models.cain_sd import CAIN
from pipeline.config import InterpolateConfig
from pipeline.media.colour import from_rgb, to_rgb
from pipeline.media.frame import Frame, PixelFormat
from pipeline.tasks.interpolators import MidpointModel, Pair
from pipeline.types import Colour

pytestmark = pytest.mark.gpu


def _pairs(count: int) -> list[Pair]:
    generator = torch.Generator().manual_seed(7)
    frames = torch.rand(count + 1, 3, 136, 200, generator=generator)
    return [Pair(frames[i], frames[i + 1], (Fraction(1, 2), Fraction(1, 4))) for i in range(count)]


def _network() -> CAIN:
    torch.manual_seed(3)
    return CAIN(channels=48, rcabs=1, shuffle=4, reduction=8).eval()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-3), ("bf16", 3e-2)])
def test_the_gpu_agrees_with_the_cpu_within_the_precision(cuda: str, precision: str, tolerance: float) -> None:
    pairs = _pairs(3)
    wanted = MidpointModel(_network(), InterpolateConfig(), "cpu", "fp32").between(pairs)
    moved = [Pair(p.left.to(cuda), p.right.to(cuda), p.places) for p in pairs]
    found = MidpointModel(_network(), InterpolateConfig(), cuda, precision).between(moved)
    for ours, theirs in zip(found, wanted, strict=True):
        for (picture, node, _), (expected, place, _) in zip(ours, theirs, strict=True):
            assert node == place
            assert (picture.cpu() - expected).abs().max() < tolerance


def test_batches_do_not_change_a_picture_on_the_gpu(cuda: str) -> None:
    pairs = [Pair(p.left.to(cuda), p.right.to(cuda), p.places) for p in _pairs(5)]
    alone = MidpointModel(_network(), InterpolateConfig(batch=1), cuda, "fp32").between(pairs)
    together = MidpointModel(_network(), InterpolateConfig(batch=4), cuda, "fp32").between(pairs)
    for one, many in zip(alone, together, strict=True):
        for (picture, _, _), (other, _, _) in zip(one, many, strict=True):
            assert (picture - other).abs().max() < 1e-4


def test_colour_conversion_on_the_gpu_gives_the_cpu_s_samples(cuda: str) -> None:
    form = PixelFormat.of("yuv420p10le")
    generator = np.random.default_rng(1)
    planes = tuple(generator.integers(64, 940, shape, dtype=np.uint16) for shape in form.plane_shapes(64, 48))
    frame = Frame(0, planes, form)
    on_cpu = to_rgb(frame, Colour(matrix=9))
    assert torch.allclose(to_rgb(frame, Colour(matrix=9), cuda).cpu(), on_cpu, atol=1e-5)
    for ours, theirs in zip(
        from_rgb(on_cpu.to(cuda), form, Colour(matrix=9)), from_rgb(on_cpu, form, Colour(matrix=9)), strict=True
    ):
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
