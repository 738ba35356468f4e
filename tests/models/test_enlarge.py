from __future__ import annotations

import pytest
import torch
from torch import nn

from models.enlarge import Enlarge


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 7)])
def test_it_is_the_library_s_transposed_convolution_with_its_gradients(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = Enlarge(5, 3), nn.ConvTranspose2d(5, 3, 4, 2, 1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, *size)
    probe = torch.randn(2, 3, 2 * size[0], 2 * size[1])
    for network in (ours, theirs):
        (network(x) * probe).sum().backward()
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-4)


@pytest.mark.parametrize("size", [(3, 4), (9, 15), (40, 61)])
def test_the_number_of_threads_changes_no_bit(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network, x, threads, outputs = Enlarge(192, 24), torch.randn(1, 192, *size), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.inference_mode():
                outputs.append(network(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*outputs)
