"""The evaluation that ours is compared with does what upstream's does: same output, same arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.memfof import MEMFOF
from pipeline.benchmark_upstream import evaluate_as_upstream
from tests.models.memfof_weights import GOLDEN, clip, compact, published, triplets

SIDES = (250, 300)  # padded on both axes, to 256 and 304


@pytest.fixture(scope="module")
def network() -> MEMFOF:
    return compact().requires_grad_(False)


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_its_flows_are_ours(network: MEMFOF, iterations: int) -> None:
    frames = triplets(clip(4, *SIDES))
    expected = network(frames, iterations)
    found = evaluate_as_upstream(network, frames, iterations)
    assert expected.flow.abs().max() > 1, "zero flows would agree whatever was computed"
    assert found.flow.shape == expected.flow.shape
    assert (found.flow - expected.flow).abs().max() < 2e-3
    assert (found.info - expected.info).abs().max() < 1e-4


@pytest.mark.slow
def test_its_flows_are_the_official_codes() -> None:
    golden = dict(np.load(Path(GOLDEN) / "memfof_277x501_seed1_iters4.npz"))
    frames = torch.from_numpy(golden["frames"]).permute(0, 3, 1, 2)[None]
    found = evaluate_as_upstream(published(seed=1), frames, 4)
    np.testing.assert_allclose(found.flow[0, ..., ::5, ::5].numpy(), golden["flow"], rtol=0, atol=2e-3)
    np.testing.assert_allclose(found.info[0, ..., ::5, ::5].numpy(), golden["info"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width", "gmacs"), [(540, 960, 1351), (1080, 1920, 5771)])
def test_it_multiplies_as_often_as_upstream(height: int, width: int, gmacs: float) -> None:
    """The specs' figures (section 11), which were counted on the official code."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        evaluate_as_upstream(MEMFOF().eval(), torch.empty(1, 3, 3, height, width), 8)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=1e-3)


def test_every_head_runs_in_every_iteration(network: MEMFOF) -> None:
    calls = {"mask head": 0, "flow head": 0, "frame encoder": 0}

    def count(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def counted(*_: object) -> None:
            calls[name] += 1

        return module.register_forward_hook(counted)

    hooks = [
        count("mask head", network.upsample_weight),
        count("flow head", network.flow_head),
        count("frame encoder", network.fnet.final_conv),
    ]
    evaluate_as_upstream(network, triplets(clip(3, *SIDES)), 5)
    for hook in hooks:
        hook.remove()
    assert calls == {"mask head": 6, "flow head": 6, "frame encoder": 3}


def test_sides_that_upstream_cannot_read_are_refused(network: MEMFOF) -> None:
    with pytest.raises(ValueError, match=r"300x240: upstream takes sides of 241 px and more"):
        evaluate_as_upstream(network, triplets(clip(3, 240, 300)), 1)
