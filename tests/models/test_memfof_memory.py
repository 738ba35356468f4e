"""A budget of bytes bounds what grows with the square of the frame, and changes no flow."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.memfof import MEMFOF, Sizes, stream
from models.memfof.attention import Attention
from models.memfof.budget import plan_memory, pyramid_cells
from models.memfof.corr import FramePair, all_pairs
from models.memfof.upsample import UpsampleWeight
from tests.models.memfof_weights import clip, compact, triplets

GRID = {"height": 68, "width": 120, "levels": 4, "radius": 4, "mask_channels": 4608}  # 1080p


class Allocations(TorchDispatchMode):
    """Bytes of the largest tensor that any operator puts out, and of all of them by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.by_operator: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in inputs:
                size = leaf.untyped_storage().nbytes()
                self.largest = max(self.largest, size)
                name = func.overloadpacket.__name__
                self.by_operator[name] = max(self.by_operator.get(name, 0), size)
        return out


class Live(TorchDispatchMode):
    """Bytes that are allocated at once at most, beside what existed before: on the meta device, the device's need."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            storage = leaf.untyped_storage() if isinstance(leaf, Tensor) else None
            if storage is not None and storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                self.live += storage.nbytes()
                weakref.finalize(storage, self.forget, storage._cdata)
        self.peak = max(self.peak, self.live)
        return out

    def forget(self, key: int) -> None:
        self.live -= self.sizes.pop(key, 0)


@pytest.fixture(scope="module")
def network() -> MEMFOF:
    return compact().requires_grad_(False)


def test_without_a_budget_everything_is_kept() -> None:
    plan = plan_memory(None, samples=1, **GRID)
    assert plan.correlation_rows is None
    assert plan.attention_rows is None


def test_a_budget_keeps_the_correlation_first_and_spends_the_rest_on_rows() -> None:
    cells = 68 * 120
    pyramids = 2 * 4 * cells * pyramid_cells(68, 120, 4)
    assert pyramids == pytest.approx(707e6, rel=0.01)  # specs 11
    everything = plan_memory(pyramids + 2 * 4 * cells**2, samples=1, **GRID)
    assert (everything.correlation_rows, everything.attention_rows) == (None, None)
    some = plan_memory(750_000_000, samples=1, **GRID)
    assert some.correlation_rows is None
    assert some.attention_rows is not None
    assert some.attention_rows * 8 * cells <= 750_000_000 - pyramids
    little = plan_memory(64_000_000, samples=1, **GRID)
    assert little.correlation_rows is not None
    assert little.correlation_rows * 4 * 2 * pyramid_cells(68, 120, 4) <= 64_000_000
    least = plan_memory(1, samples=1, **GRID)
    assert (least.correlation_rows, least.attention_rows, least.mask_rows) == (1, 1, 1)


def test_two_samples_get_half_the_rows() -> None:
    one, two = (plan_memory(64_000_000, samples=samples, **GRID) for samples in (1, 2))
    assert one.correlation_rows is not None
    assert two.correlation_rows is not None
    assert abs(one.correlation_rows - 2 * two.correlation_rows) <= 1


def test_a_budget_that_is_none_at_all_is_refused(network: MEMFOF) -> None:
    with pytest.raises(ValueError, match="memory_budget is 0 bytes"):
        network(triplets(clip(3, 128, 128)), 1, memory_budget=0)


@pytest.mark.parametrize("budget", [1, 50_000, 400_000, 1_200_000])
def test_a_budget_changes_no_flow(network: MEMFOF, budget: int) -> None:
    """Up to rounding: products of fewer rows may add in another order."""
    frames = triplets(clip(3, 200, 233))
    free, bound = network(frames, 3), network(frames, 3, memory_budget=budget)
    assert (free.flow - bound.flow).abs().max() < 2e-4
    assert (free.info - bound.info).abs().max() < 2e-4


def test_blocks_of_correlation_never_exceed_the_budget() -> None:
    height, width, budget = 24, 40, 400_000
    plan = plan_memory(budget, samples=1, height=height, width=width, levels=4, radius=4, mask_channels=4608)
    maps = [torch.randn(1, 32, height, width) for _ in range(2)]
    flow = 20 * torch.randn(1, 2, height, width)
    stored, blocked = FramePair(*maps, 4, 4, None), FramePair(*maps, 4, 4, plan.correlation_rows)
    for name in ("towards_later", "towards_earlier"):
        expected = getattr(stored, name)()(flow)
        with Allocations() as seen:
            read = getattr(blocked, name)()
            found = read(flow)
        assert (found - expected).abs().max() < 1e-4
        # The result itself is linear in the frame's size and outside the budget.
        result = expected.numel() * 4
        assert seen.by_operator["bmm"] <= budget / 2
        assert max(size for operator, size in seen.by_operator.items() if operator != "cat") <= budget
        assert seen.by_operator["cat"] <= result
        assert budget < 4 * (height * width) ** 2 / 8  # the volume would not have fitted eight times over


@pytest.mark.parametrize(("rows_before", "rows_now"), [(None, 16), (16, None), (None, None), (16, 32)])
def test_a_pair_joins_a_batch_that_has_another_budget_a_sample(rows_before: int | None, rows_now: int | None) -> None:
    """A stream's last chunk is smaller than those before, so that more of it may fit."""
    maps = torch.randn(4, 16, 8, 9)
    flow = torch.randn(3, 2, 8, 9)
    before = FramePair(maps[:1], maps[1:2], 3, 4, rows_before)
    joined = before.followed_by(FramePair(maps[1:], maps[1:].roll(-1, 0), 3, 4, rows_now))
    assert (joined.volume is None) == (rows_now is not None)
    expected = FramePair(maps[:3], maps[1:], 3, 4, None).towards_earlier()(flow)
    assert (joined.towards_earlier()(flow) - expected).abs().max() < 1e-5


def test_blocks_of_attention_never_exceed_the_budget() -> None:
    budget = 200_000
    attention = Attention(32).requires_grad_(False)
    context = torch.randn(1, 32, 24, 40)
    values = torch.randn(1, 24 * 40, 32)
    plan = plan_memory(budget, samples=1, height=24, width=40, levels=4, radius=4, mask_channels=4608)
    with Allocations() as seen:
        found = attention(context, plan.attention_rows)(values)
    assert seen.by_operator["bmm"] + seen.by_operator["_softmax"] <= budget + values.numel() * 4
    assert seen.largest <= max(budget, 2 * values.numel() * 4)  # queries and keys are linear in the frame's size
    assert (found - attention(context)(values)).abs().max() < 1e-5


def test_strips_of_the_upsampling_mask_never_exceed_the_budget() -> None:
    budget = 3 * 4608 * 40 * 4 * 2  # of two grid rows
    head = UpsampleWeight(16).requires_grad_(False)
    net, fields = torch.randn(1, 16, 24, 40), torch.randn(1, 2, 6, 24, 40)
    plan = plan_memory(budget, samples=1, height=24, width=40, levels=4, radius=4, mask_channels=4608)
    assert plan.mask_rows == 2
    with Allocations() as seen:
        found = head.upsample(net, fields, plan.mask_rows)
    assert seen.by_operator["_softmax"] <= budget / 3
    assert seen.by_operator["convolution"] <= budget / 3
    assert (found - head.upsample(net, fields)).abs().max() < 1e-5


def test_nothing_quadratic_is_ever_made_where_the_budget_cannot_hold_it() -> None:
    """The whole network: 1,280 cells, whose square is 6.5 MB; the output, 2.6 MB a field pair, is the largest left."""
    network = compact(Sizes(dim=8, widths=(4, 4, 8), blocks=(1, 1, 1))).requires_grad_(False)
    frames = triplets(clip(3, 512, 640))
    square = 4 * (32 * 40) ** 2
    with Allocations() as free:
        network(frames, 1)
    assert free.by_operator["_softmax"] >= square
    assert free.by_operator["bmm"] >= square
    with Allocations() as bound:
        network(frames, 1, memory_budget=300_000)
    assert bound.by_operator["bmm"] <= 300_000
    assert bound.by_operator["_softmax"] <= 4608 * 40 * 4  # one grid row of the mask, the least that can be
    output = 2 * 6 * 512 * 640 * 4
    assert bound.largest <= output


@pytest.mark.parametrize(("budget", "megabytes"), [(None, 1530), (720_000_000, 1310), (128_000_000, 760)])
def test_a_1080p_stream_lives_in_its_memory(budget: int | None, megabytes: int) -> None:
    """fp32, beside 303 MB of weights; upstream takes 2,090 MB with them (specs 13). Half precision takes less."""
    with torch.device("meta"):
        network = MEMFOF().eval().requires_grad_(False)
    frames = (torch.empty(3, 1080, 1920, dtype=torch.uint8, device="meta") for _ in range(4))
    with Live() as seen:
        flows = stream(network, frames, 0 if budget == 128_000_000 else 1, memory_budget=budget)
        for _ in range(2):
            next(flows)
    assert seen.peak < megabytes * 1e6


def test_correlation_stays_fp32_under_autocast() -> None:
    maps = [torch.randn(1, 16, 8, 8) for _ in range(2)]
    exact = all_pairs(*maps)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(all_pairs(*maps), exact)
        halves = FramePair(*(one.bfloat16() for one in maps), 3, 4, 16)
        assert halves.towards_earlier()(torch.zeros(1, 2, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize("budget", [None, 100_000])
def test_autocast_changes_the_flow_by_rounding_only(network: MEMFOF, budget: int | None) -> None:
    frames = triplets(clip(4, 140, 170))
    exact = network(frames, 2)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(frames, 2, memory_budget=budget)
    assert rounded.flow.dtype == rounded.info.dtype == torch.float32
    scale = exact.flow.abs().mean()
    assert (rounded.flow - exact.flow).abs().mean() < 0.02 * scale
    assert not torch.equal(rounded.flow, exact.flow)


def test_upsampling_is_the_same_under_autocast_but_for_its_first_layer() -> None:
    """bf16 logits alone would move pixels: the mask, its softmax and the flows it weights stay fp32."""
    head = UpsampleWeight(16).requires_grad_(False)
    net, fields = torch.randn(1, 16, 8, 9), torch.full((1, 2, 6, 8, 9), 100.3)
    with torch.autocast("cpu", torch.bfloat16):
        inner = head.upsample(net, fields)[..., 16:-16, 16:-16]
    assert (inner - 100.3).abs().max() < 1e-4
