"""A clip's flows in one pass: the same as triplet by triplet, with what they share computed once."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.memfof import MEMFOF, FrameFlow, confidence, consistent, halo, stream
from models.memfof.stream import Field, _Triplets
from tests.models.memfof_weights import clip, compact, triplets

SIDES = (140, 170)


@pytest.fixture(scope="module")
def network() -> MEMFOF:
    return compact().requires_grad_(False)


def both(one: FrameFlow) -> Tensor:
    assert one.backward is not None
    assert one.forward is not None
    return torch.stack([one.backward.flow, one.forward.flow])


def same(a: Field | None, b: Field | None) -> bool:
    if a is None or b is None:
        return a is b
    valid = a.valid is b.valid or (a.valid is not None and b.valid is not None and torch.equal(a.valid, b.valid))
    return valid and all(torch.equal(getattr(a, f), getattr(b, f)) for f in ("flow", "confidence"))


def test_a_stream_gives_the_bits_of_triplets_computed_one_by_one(network: MEMFOF) -> None:
    frames = clip(6, *SIDES)
    flows = list(stream(network, frames, 3, before=1, after=1, validity=False))
    expected = network(triplets(frames), 3)
    sure = confidence(expected.info)
    assert len(flows) == 4
    for i, one in enumerate(flows):
        assert torch.equal(both(one), expected.flow[i])
        assert one.backward is not None
        assert one.forward is not None
        assert torch.equal(torch.stack([one.backward.confidence, one.forward.confidence]), sure[i])


@pytest.mark.parametrize("start", [0, 1, 2, 3])
@pytest.mark.parametrize("end", [5, 6, 7, 8])
def test_a_frame_does_not_depend_on_its_clip(network: MEMFOF, start: int, end: int) -> None:
    """Clips with as much halo as their shot has: contract 1 of the design."""
    shot = clip(8, 128, 136)
    whole = list(stream(network, shot, 1))
    before, after = min(halo(), start), min(halo(), len(shot) - end)
    part = list(stream(network, shot[start - before : end + after], 1, before=before, after=after))
    assert len(part) == end - start
    for one, expected in zip(part, whole[start:end], strict=True):
        assert same(one.backward, expected.backward)
        assert same(one.forward, expected.forward)


def test_a_shot_ends_with_frames_that_stand_in_for_their_missing_neighbours(network: MEMFOF) -> None:
    frames = clip(3, *SIDES)
    first, middle, last = stream(network, frames, 2)
    assert first.backward is None
    assert last.forward is None
    assert middle.backward is not None
    assert middle.forward is not None
    doubled = torch.stack([frames[[0, 0, 1]], frames[[1, 2, 2]]])
    expected = network(doubled, 2).flow
    assert first.forward is not None
    assert last.backward is not None
    assert torch.equal(first.forward.flow, expected[0, 1])
    assert torch.equal(last.backward.flow, expected[1, 0])


def test_two_frames_have_one_flow_each_way_and_one_frame_none(network: MEMFOF) -> None:
    first, second = stream(network, clip(2, *SIDES), 1)
    assert first.backward is None
    assert first.forward is not None
    assert first.forward.valid is not None
    assert second.backward is not None
    assert second.forward is None
    (alone,) = stream(network, clip(1, *SIDES), 1)
    assert alone.backward is None
    assert alone.forward is None
    assert list(stream(network, [], 1)) == []


def test_validity_compares_with_the_neighbours_flows(network: MEMFOF) -> None:
    flows = list(stream(network, clip(4, *SIDES), 1))
    for one, following in itertools.pairwise(flows):
        assert one.forward is not None
        assert following.backward is not None
        there, back = one.forward.flow[None], following.backward.flow[None]
        assert torch.equal(one.forward.valid, consistent(there, back)[0])  # type: ignore[arg-type]
        assert torch.equal(following.backward.valid, consistent(back, there)[0])  # type: ignore[arg-type]
    unjudged = list(stream(network, clip(4, *SIDES), 1, validity=False))
    assert all(field is None or field.valid is None for one in unjudged for field in (one.backward, one.forward))


def test_a_stream_runs_a_frame_behind_its_input(network: MEMFOF) -> None:
    taken = 0

    def source():  # type: ignore[no-untyped-def]
        nonlocal taken
        for frame in clip(8, 128, 128):
            taken += 1
            yield frame

    for produced, _ in enumerate(stream(network, source(), 1, validity=False)):
        assert taken <= produced + 2


def counted(network: MEMFOF, iterations: int, batch: int, flows_wanted: int = 5) -> list[float]:
    """MACs spent before each frame's flow of a 1080p clip of five; on the meta device, so nothing is computed."""
    frames = (torch.empty(3, 1080, 1920, device="meta") for _ in range(5))
    flows = stream(network, frames, iterations, batch=batch, validity=False)
    spent = []
    for _ in range(flows_wanted):
        with FlopCounterMode(display=False) as counter:
            next(flows)
        spent.append(counter.get_total_flops() / 2)
    return spent


def test_a_1080p_frame_takes_at_most_4_10_tmac() -> None:
    """Upstream: 5.77; its repetitions done once: 4.05; with the collapsed refinement tails: 3.64."""
    with torch.device("meta"):
        network = MEMFOF().eval()
    first, second = counted(network, 8, batch=1, flows_wanted=2)
    assert first > second  # two frames are encoded before the first flow, one before each that follows
    assert second <= 3.65e12
    assert sum(counted(network, 1, batch=2)) == pytest.approx(sum(counted(network, 1, batch=1)), rel=0.01)


def test_batches_of_triplets_agree_with_single_ones(network: MEMFOF, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU never batches; the code that accelerators run is checked here all the same."""
    frames = clip(7, *SIDES)
    for budget in (None, 100_000):
        expected = list(stream(network, frames, 2, memory_budget=budget))
        original = _Triplets.__init__

        def batched(self: _Triplets, net: MEMFOF, iterations: int, batch: int, memory: int | None) -> None:
            original(self, net, iterations, batch, memory)  # noqa: B023
            self.batch = batch

        with monkeypatch.context() as patch:
            patch.setattr(_Triplets, "__init__", batched)
            for batch in (2, 3, 7):
                found = list(stream(network, frames, 2, batch=batch, memory_budget=budget))
                assert len(found) == len(expected)
                for one, other in zip(found, expected, strict=True):
                    for a, b in ((one.backward, other.backward), (one.forward, other.forward)):
                        assert (a is None) == (b is None)
                        if a is not None and b is not None:
                            assert (a.flow - b.flow).abs().max() < 1e-3


def test_wrong_streams_are_refused(network: MEMFOF) -> None:
    frames = clip(3, 128, 128)
    with pytest.raises(ValueError, match="before is 3; a clip's halo is 0 to 2"):
        stream(network, frames, before=3)
    with pytest.raises(ValueError, match=r"after is 2.*0 to 1 frames \(validity=False\)"):
        stream(network, frames, after=2, validity=False)
    with pytest.raises(ValueError, match="batch is 0"):
        stream(network, frames, batch=0)
    with pytest.raises(ValueError, match="training mode"):
        stream(compact().train(), frames)
    with pytest.raises(ValueError, match=r"a frame has shape \[3, 128, 130\].*\[3, 128, 128\]"):
        list(stream(network, [frames[0], clip(1, 128, 130)[0]], 1))
