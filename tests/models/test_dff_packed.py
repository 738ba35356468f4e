"""Packed convolutions are torch's own, whatever came before."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from models.dff.cost import multiply_adds
from models.dff.packed import PackedConv2d, PackedConvTranspose2d
from pipeline.training.trainer import uses_bf16

SHAPES = [(1, 6, 9, 14), (2, 6, 9, 14), (1, 6, 1, 1)]


def layers() -> list[tuple[nn.Module, nn.Module]]:
    """(ours, torch's own with the same weights)."""
    torch.manual_seed(0)
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (PackedConv2d(6, 5, 3, 2, padding=1), nn.Conv2d(6, 5, 3, 2, padding=1)),
        (PackedConv2d(6, 8, 1), nn.Conv2d(6, 8, 1)),
        (PackedConvTranspose2d(6, 7, 4, stride=2), nn.ConvTranspose2d(6, 7, 4, stride=2)),
    ]
    for ours, plain in pairs:
        ours.load_state_dict(plain.state_dict())
    return [(ours.eval(), plain.eval()) for ours, plain in pairs]


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert (found.float() - expected.float()).abs().max() <= tolerance * expected.float().abs().max()


@pytest.mark.parametrize("inference", [False, True])
def test_they_compute_what_torchs_layers_do_at_any_size(inference: bool) -> None:
    for ours, plain in layers():
        for shape in (*SHAPES, *SHAPES):
            x = torch.randn(shape)
            with torch.inference_mode(inference), torch.no_grad():
                assert_near(ours(x), plain(x))
                assert ours._packed is not None, "torch's own layer ran"
                assert_near(ours(x.contiguous(memory_format=torch.channels_last)), plain(x))


def test_bits_do_not_depend_on_what_was_computed_before() -> None:
    for (ours, _), (fresh, _) in zip(layers(), layers(), strict=True):
        first = torch.randn(1, 6, 9, 14)
        with torch.no_grad():
            before = ours(first)
            ours(torch.randn(3, 6, 20, 31))
            assert torch.equal(ours(first), before)
            assert torch.equal(fresh(first), before)


def test_changed_weights_are_noticed() -> None:
    for ours, plain in layers():
        x = torch.randn(1, 6, 9, 14)
        with torch.no_grad():
            ours(x)
            for layer in (ours, plain):
                layer.weight.mul_(3)  # type: ignore[operator, union-attr]
            assert_near(ours(x), plain(x))
            ours.load_state_dict({name: 2 * value for name, value in plain.state_dict().items()})
            assert_near(ours(x), 2 * plain(x))


def test_weights_that_keep_no_count_of_their_changes_are_not_packed() -> None:
    with torch.inference_mode():
        for ours, plain in layers():
            x = torch.randn(1, 6, 9, 14)
            ours(x)
            for layer in (ours, plain):
                layer.weight.mul_(3)  # type: ignore[operator, union-attr]
            assert_near(ours(x), plain(x))


def test_they_are_copied_and_pickled_after_use() -> None:
    for ours, plain in layers():
        x = torch.randn(1, 6, 9, 14)
        with torch.no_grad():
            ours(x)
            for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
                assert_near(again(x), plain(x))


def test_gradients_flow_in_training_and_where_they_are_wanted() -> None:
    for ours, plain in layers():
        x = torch.randn(1, 6, 9, 14, requires_grad=True)
        (wanted,) = torch.autograd.grad(plain(x).square().sum(), x)
        for layer in (ours, ours.train()):
            (found,) = torch.autograd.grad(layer(x).square().sum(), x)
            assert torch.equal(found, wanted)


def test_autocast_computes_in_bf16() -> None:
    if not uses_bf16("auto", torch.device("cpu")):
        pytest.skip("this processor does not compute in bf16")
    for ours, plain in layers():
        x = torch.randn(1, 6, 9, 14)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert_near(ours(x), plain(x), 2**-8)
        with torch.no_grad():
            assert_near(ours(x), plain(x))


def test_their_arithmetic_is_counted() -> None:
    for ours, plain in layers():
        assert multiply_adds(ours, (1, 6, 32, 32)) == multiply_adds(plain, (1, 6, 32, 32)) > 0


def test_other_numbers_are_left_to_torch() -> None:
    for ours, plain in layers():
        x = torch.randn(1, 6, 9, 14, dtype=torch.float64)
        with torch.no_grad():
            assert torch.equal(ours.double()(x), plain.double()(x))
