"""Large frames in patches: covered, blended to the same picture, and no seam where patches meet."""

from __future__ import annotations

import zlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.cain_sd import CAIN
from pipeline.config import InterpolateConfig, PatchConfig
from pipeline.plan.patches import blend_weights, patch_grid, windows
from pipeline.tasks.interpolators import MidpointModel, patched

SIZES = st.sampled_from([(128, 16), (128, 64), (256, 32)])


@given(length=st.integers(1, 3000), size=SIZES)
def test_windows_cover_a_side_and_share_at_least_the_overlap(length: int, size: tuple[int, int]) -> None:
    side, overlap = size
    starts = windows(length, side, overlap)
    assert starts[0] == 0
    assert starts[-1] + side == length or (starts == [0] and length <= side)
    for left, right in pairwise(starts):
        assert left < right <= left + side - overlap


@given(blocks=st.integers(1, 400), size=SIZES)
def test_windows_start_on_the_networks_blocks(blocks: int, size: tuple[int, int]) -> None:
    side, overlap = size
    starts = windows(8 * blocks, side, overlap, multiple=8)
    assert all(start % 8 == 0 for start in starts), "else neighbours fold different blocks, and a seam shows"
    assert all(left < right <= left + side - overlap for left, right in pairwise(starts))
    assert starts[-1] + side >= 8 * blocks


@given(height=st.integers(1, 400), width=st.integers(1, 400), size=SIZES)
def test_patches_are_of_one_size_and_weigh_every_pixel(height: int, width: int, size: tuple[int, int]) -> None:
    side, overlap = size
    total = np.zeros((height, width))
    for patch in patch_grid(height, width, side, overlap):
        assert (patch.height, patch.width) == (min(side, height), min(side, width))
        weights = blend_weights(patch, height, width, overlap)
        assert weights.shape == (patch.height, patch.width)
        assert weights.min() > 0
        total[patch.top : patch.top + patch.height, patch.left : patch.left + patch.width] += weights
    assert total.min() > 0
    assert total.max() <= 4 + 1e-6, "nowhere do more than two patches meet in a direction"


def test_a_frame_below_the_patch_size_is_one_patch_of_even_weight() -> None:
    (patch,) = patch_grid(100, 60, 128, 16)
    assert (blend_weights(patch, 100, 60, 16) == 1).all()


def test_weights_change_by_small_steps_from_pixel_to_pixel() -> None:
    shares = []
    for patch in patch_grid(300, 300, 128, 32):
        share = np.zeros((300, 300))
        share[patch.top : patch.top + 128, patch.left : patch.left + 128] = blend_weights(patch, 300, 300, 32)
        shares.append(share)
    portions = np.stack(shares) / np.sum(shares, 0)
    for axis in (1, 2):
        assert np.abs(np.diff(portions, axis=axis)).max() < 1.5 / 32


def average(left: Tensor, right: Tensor, means: tuple[Tensor, Tensor] | None) -> Tensor:
    assert means is not None
    return (left + right) / 2


@pytest.mark.parametrize("size", [(16, 16), (130, 301), (257, 128), (400, 400)])
def test_blending_gives_a_picture_back_unchanged(size: tuple[int, int]) -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, size[0]), torch.linspace(0, 1, size[1]), indexing="ij")
    frame = torch.stack([x, y, (x + y) / 2])[None]
    for multiple in (1, 8):
        made = patched(average, frame, frame, PatchConfig(size=128, overlap=32), multiple)
        assert made.shape == frame.shape
        assert torch.allclose(made, frame, atol=1e-5)


def test_every_patch_is_given_the_means_of_the_whole_frame() -> None:
    frame = torch.rand(1, 3, 200, 300, generator=torch.Generator().manual_seed(0))
    seen = []

    def run(left: Tensor, right: Tensor, means: tuple[Tensor, Tensor] | None) -> Tensor:
        assert means is not None
        seen.append((left.shape[-2:], means[0], means[1]))
        return left

    patched(run, frame, frame, PatchConfig(size=128, overlap=32))
    assert len(seen) == 6
    for shape, *means in seen:
        assert tuple(shape) == (128, 128)
        for mean in means:
            assert torch.allclose(mean, frame.mean((2, 3), keepdim=True), atol=1e-6)


def network() -> CAIN:
    """The shipped compact weights where they are there; else random ones under which every branch matters."""
    from models import weights

    try:
        return CAIN.from_reference(weights.load("cain-compact").tensors)
    except weights.WeightsError:
        small = CAIN(channels=48, rcabs=2, groups=5)
        with torch.no_grad():
            for name, value in small.named_parameters():
                noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(value.shape))
                scale = 0.6 / np.sqrt(np.prod(value.shape[1:])) if value.ndim > 1 else 0.05
                value.copy_(torch.from_numpy(noise * scale))
        return small.eval()


def scene(shift: float, height: int = 180, width: int = 244) -> Tensor:
    """[1,3,H,W] in 0..1: smooth light, soft-edged discs and fine texture, moved by `shift` pixels."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x = x - shift
    image = np.stack([0.4 + 0.2 * np.sin(x / 61 + k) * np.cos(y / 47 - k) for k in range(3)])
    for _ in range(25):
        cy, cx, radius = random.uniform(0, height), random.uniform(0, width), random.uniform(6, 40)
        edge = 1 / (1 + np.exp(((np.hypot(y - cy, x - cx) - radius) / 1.2).clip(-50, 50)))
        image = image * (1 - edge) + random.uniform(0, 1, 3)[:, None, None] * edge
    image += 0.03 * np.sin(x * 1.3) * np.sin(y * 0.9)
    return torch.from_numpy(image.clip(0, 1)).float()[None]


def test_patches_meet_without_a_seam_that_the_whole_frame_does_not_have() -> None:
    """With the default overlap, in patches of a quarter of the default side, which know less of the frame.

    What counts is the patch: the network's averages over one differ from the whole frame's (at 128 pixels, by a grey
    level everywhere, whatever the overlap; at 256, by a fifth of one).
    """
    left, right = scene(0, 360, 488), scene(5, 360, 488)
    height, width = left.shape[-2:]
    model = network()
    size, overlap = 256, PatchConfig().overlap
    assert size * 4 == PatchConfig().size
    ways = {
        name: MidpointModel(model, InterpolateConfig(patch=config), "cpu", "fp32").midpoint(left, right)
        for name, config in {
            "whole": PatchConfig(max_area=height * width),
            "patched": PatchConfig(max_area=4096, size=size, overlap=overlap),
        }.items()
    }
    whole, pieces = ways["whole"][0].double(), ways["patched"][0].double()
    assert not torch.equal(whole, pieces), "the frame did go through in patches"
    difference = pieces - whole  # a seam is a step in it
    for axis, side in ((1, height), (2, width)):
        steps = difference.diff(dim=axis).abs().mean(dim=(0, 3 - axis)) * 255  # of each line between rows or columns
        before = -side % model.shuffle // 2  # of the padding, which is cropped off again
        starts = windows(side + -side % model.shuffle, size, overlap, model.shuffle)
        borders = {at - before - 1 for start in starts for at in (start, start + size) if 0 < at < side}
        assert borders
        for border in borders:
            around = steps[max(0, border - 8) : border + 9].mean().item()
            at_border = steps[border].item()
            print(f"axis {axis}, line {border}: {at_border:.3f} grey levels, {around:.3f} around it")
            # Far below a grey level of an 8-bit picture, and a line that does not stand out from those beside it.
            assert at_border < 0.5
            assert at_border < 1.35 * around + 0.05
