"""CAIN against the official code's outputs (golden/README.md), and what the official code does not have."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.cain_sd import CAIN
from models.cain_sd.cain import spatial_mean

GOLDEN = Path(__file__).parents[1] / "golden"


def named_value(name: str, shape: list[int]) -> Tensor:
    """The golden files' test weights: they depend on a parameter's name and shape only."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    scale = 0.6 / np.sqrt(np.prod(shape[1:])) if len(shape) >= 2 else 0.05
    return torch.from_numpy((values * scale).astype(np.float32))


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    keys = json.loads((GOLDEN / "cain.state_dict.json").read_text())["keys"]
    return {name: named_value(name, shape) for name, shape in keys.items()}


@pytest.fixture(scope="module")
def official(published: dict[str, Tensor]) -> CAIN:
    return CAIN.from_reference(published)


def compact(seed: int = 0, **sizes: int) -> CAIN:
    torch.manual_seed(seed)
    return CAIN(**{"channels": 16, "rcabs": 1, "groups": 3, "shuffle": 2, "reduction": 4, **sizes}).eval()


def frames(golden: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    first, last = (torch.from_numpy(golden[key]).permute(2, 0, 1)[None].float() / 255 for key in ("im0", "im1"))
    return first, last


@pytest.mark.parametrize("name", ["cain_96x160", "cain_101x203"])
def test_the_evaluated_frame_is_the_official_one(official: CAIN, name: str) -> None:
    golden = np.load(GOLDEN / f"{name}.npz")
    with torch.inference_mode():
        output = official.eval()(*frames(golden))
    assert output.shape[1:] == golden["out_eval"].shape
    assert np.abs(output[0].numpy() - golden["out_eval"]).max() <= 1e-5


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_every_exit_is_the_official_groups_through_the_official_tail(official: CAIN, depth: int) -> None:
    golden = np.load(GOLDEN / "cain_96x160.npz")
    with torch.inference_mode():
        output = official.eval()(*frames(golden), exit_depth=depth)
    assert np.abs(output[0].numpy() - golden["exits_eval"][depth - 1]).max() <= 1e-5


def test_head_and_first_group_give_the_official_features(official: CAIN) -> None:
    golden, seen = np.load(GOLDEN / "cain_96x160.npz"), {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, key=key: seen.__setitem__(key, out[0, :8].numpy()))
        for key, module in (("head_c0_7", official.head), ("group1_c0_7", official.groups[0]))
    ]
    with torch.inference_mode():
        official.eval()(*frames(golden), exit_depth=1)
    for hook in hooks:
        hook.remove()
    for key, value in seen.items():
        assert np.abs(value - golden[key]).max() <= 1e-5, key


def test_in_training_nothing_is_padded(official: CAIN) -> None:
    golden = np.load(GOLDEN / "cain_96x160.npz")
    with torch.inference_mode():
        output = official.train()(*frames(golden))
    official.eval()
    assert np.abs(output[0].numpy() - golden["out_train"]).max() <= 1e-5


def test_the_official_architecture_has_the_published_names_and_sizes(published: dict[str, Tensor]) -> None:
    network = CAIN()
    assert {name: list(value.shape) for name, value in network.to_reference().items()} == {
        name: list(value.shape) for name, value in published.items()
    }
    assert sum(p.numel() for p in network.parameters()) == 42_780_432


@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": 16, "rcabs": 1, "groups": 2, "shuffle": 2, "reduction": 4},
        {"channels": 48, "rcabs": 3, "groups": 5, "shuffle": 4, "reduction": 16},
        {"channels": 192, "rcabs": 2, "groups": 1, "shuffle": 8, "reduction": 16},
    ],
)
def test_a_variants_sizes_are_read_off_its_tensors(sizes: dict[str, int]) -> None:
    network = CAIN(**sizes)
    again = CAIN.from_reference(network.to_reference())
    assert again.sizes == sizes
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (16, 16), (43, 44), (43, 300), (129, 50)])
def test_any_size_keeps_its_shape_and_the_callers_tensors(height: int, width: int) -> None:
    network = compact(shuffle=8)
    first, last = torch.rand(2, 3, height, width), torch.rand(2, 3, height, width)
    before = first.clone(), last.clone()
    with torch.inference_mode():
        output = network(first, last)
        tight = network(first, last, pad_multiple=8)
    assert output.shape == tight.shape == first.shape
    assert torch.isfinite(output).all()
    assert torch.equal(first, before[0])
    assert torch.equal(last, before[1])


def test_a_patch_with_its_frames_means_differs_from_one_with_its_own() -> None:
    network, first, last = compact(), torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    patch = (first[..., :16, :16], last[..., :16, :16])
    own = (spatial_mean(patch[0]), spatial_mean(patch[1]))
    with torch.inference_mode():
        plain = network(*patch, pad_multiple=2)
        assert torch.equal(plain, network(*patch, means=own, pad_multiple=2))
        whole = network(*patch, means=(spatial_mean(first), spatial_mean(last)), pad_multiple=2)
    assert (plain - whole).abs().max() > 1e-4


def test_the_last_exit_is_the_default_and_exits_differ() -> None:
    network, first, last = compact(), torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        outputs = [network(first, last, exit_depth=depth) for depth in (1, 2, 3)]
        assert torch.equal(outputs[2], network(first, last))
    assert (outputs[0] - outputs[2]).abs().max() > 1e-4


@pytest.mark.parametrize("bf16", [False, True])
def test_a_frame_does_not_depend_on_its_batch_or_the_number_of_threads(bf16: bool) -> None:
    network = compact(channels=32, rcabs=2).to(memory_format=torch.channels_last)
    first, last = (torch.rand(3, 3, 90, 118).contiguous(memory_format=torch.channels_last) for _ in range(2))
    threads = torch.get_num_threads()
    outputs = []
    try:
        for count, size in ((1, 1), (2, 1), (1, 3), (2, 3)):
            torch.set_num_threads(count)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                parts = [
                    network(a, b, pad_multiple=2) for a, b in zip(first.split(size), last.split(size), strict=True)
                ]
            outputs.append(torch.cat(parts))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_bf16_stays_within_a_grey_level_of_fp32() -> None:
    network, first, last = compact(channels=32), torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        exact = network(first, last)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(first, last)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 1 / 255


def test_wrong_arguments_are_named() -> None:
    network, frame = compact(), torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match="exit_depth is 4; this network has exits 1 to 3"):
        network(frame, frame, exit_depth=4)
    with pytest.raises(ValueError, match=r"got \[1, 3, 16, 16\] and \[1, 3, 16, 8\]"):
        network(frame, frame[..., :8])
    with pytest.raises(ValueError, match="no multiple of this network's shuffle factor 2"):
        network(frame, frame, pad_multiple=7)
    with pytest.raises(ValueError, match="must be multiples of 2"):
        network.train()(frame[..., :15], frame[..., :15])


def test_checkpoints_that_are_not_cain_are_refused(published: dict[str, Tensor]) -> None:
    with pytest.raises(KeyError, match="not a CAIN checkpoint"):
        CAIN.from_reference({"conv.weight": torch.zeros(1)})
    tensors = compact().to_reference()
    gone = "encoder.interpolate.body.1.body.0.body.2.conv.bias"
    with pytest.raises(KeyError, match=r"1 tensors missing.*body\.1\.body\.0\.body\.2\.conv\.bias"):
        CAIN.from_reference({name: value for name, value in tensors.items() if name != gone})
    with pytest.raises(KeyError, match=r"1 unknown.*extra"):
        CAIN.from_reference({**tensors, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"has shape \[3\]; CAIN needs \[16\]"):
        CAIN.from_reference({**tensors, gone: torch.zeros(3)})
    with pytest.raises(KeyError, match="not a CAIN checkpoint"):
        CAIN.from_reference({f"module.{name}": value for name, value in published.items()})
