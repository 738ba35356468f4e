"""The flow of a clip, frame by frame, with everything that neighbouring triplets share computed once.

    frames ──► fnet, once a frame ──► FramePair, once a pair ──┐ C(t-1,t) transposed
                                      C(t,t+1), kept for t+1 ──┴─► iterations ─► upsampling ─► validity

Same bits on the CPU as `MEMFOF.forward` on each triplet: both take the same steps on the same shapes. So a frame's
flow does not depend on the clip it is computed in. A frame without a neighbour takes itself in its place, as the
authors' demo does; the flow in that direction is None.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.memfof.confidence import confidence, consistent
from models.memfof.corr import FramePair
from models.memfof.model import ITERATIONS, MEMFOF


@dataclass(frozen=True, eq=False)
class Field:
    """Flow from one frame to a neighbour.

    flow         [2,H,W] px, x right, y down
    confidence   [H,W] in 0..1 (confidence.py)
    valid        bool [H,W]: points into the neighbour, whose own flow points back; None where not asked for
    """

    flow: Tensor
    confidence: Tensor
    valid: Tensor | None

    def __repr__(self) -> str:
        return f"Field(flow={list(self.flow.shape)}, valid={'no' if self.valid is None else 'yes'})"


@dataclass(frozen=True, eq=False)
class FrameFlow:
    """One frame's flows; None towards a neighbour that its shot does not have."""

    backward: Field | None
    forward: Field | None


def halo(validity: bool = True) -> int:
    """Frames that a clip must see on either side, where its shot has them.

    Its own frames need one for their flow. Validity compares with the neighbours' flows, which need one more.
    """
    return 2 if validity else 1


def stream(
    network: MEMFOF,
    frames: Iterable[Tensor],
    iterations: int = ITERATIONS,
    *,
    before: int = 0,
    after: int = 0,
    validity: bool = True,
    batch: int = 1,
    memory_budget: int | None = None,
) -> Iterator[FrameFlow]:
    """The flows of a clip's frames, in order, a frame or `batch` frames behind the input.

    frames          [3,H,W] each, RGB in 0..255, uint8 or float, all of one shot and size; moved to the network's device
    before, after   how many of the first and last frames are halo: seen, not returned. Fewer than `halo(validity)`
                    says that the shot begins or ends with the frames given. More are refused
    validity        also compare forward and backward flows
    batch           triplets computed together; on the CPU one at a time, whatever is asked
    memory_budget   bytes for all-pairs tensors and the upsampling mask; None: no limit
    Two frames give one forward and one backward flow; a single one gives neither, and costs nothing.
    Raises ValueError for halos, frames or a network in training mode.
    """
    reach = halo(validity)
    for name, count in (("before", before), ("after", after)):
        if not 0 <= count <= reach:
            raise ValueError(f"{name} is {count}; a clip's halo is 0 to {reach} frames (validity={validity})")
    if network.training:
        raise ValueError("the network is in training mode, where batch statistics change with the clip: call .eval()")
    if batch < 1:
        raise ValueError(f"batch is {batch}; it must be positive")
    # A whole halo is no end of the shot: its outermost frame is only seen, and has no flow of its own.
    begins, ends = before < reach, after < reach
    triplets = _Triplets(network, iterations, batch, memory_budget).run(frames, begins, ends)
    flows = _with_validity(triplets, begins, ends) if validity else (_frame_flow(one) for one in triplets)
    return _without_halo(flows, before if begins else 0, after if ends else 0)


@dataclass(frozen=True, eq=False)
class _Estimate:
    """Of one frame; tensors of one sample. None for both where the frame is alone in its shot."""

    backward: tuple[Tensor, Tensor] | None  # flow [1,2,H,W], confidence [1,H,W]
    forward: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, eq=False)
class _Seen:
    """A frame once it has been encoded."""

    frame: Tensor  # (1, 3, H, W), as it came: uint8 takes a quarter of what the network reads
    features: Tensor  # (1, 2 dim, h, w)


class _Triplets:
    """Turns frames into estimates of all frames that have neighbours, or stand at the shot's ends."""

    def __init__(self, network: MEMFOF, iterations: int, batch: int, memory_budget: int | None) -> None:
        self.network, self.iterations, self.budget = network, iterations, memory_budget
        self.device = next(network.parameters()).device
        self.batch = 1 if self.device.type == "cpu" else batch
        self.size: torch.Size | None = None
        self.pair: FramePair | None = None  # of the next triplet's first two frames

    def run(self, frames: Iterable[Tensor], begins: bool, ends: bool) -> Iterator[_Estimate]:
        line: list[_Seen] = []  # consecutive frames; the middle ones are to be estimated
        first = True  # whether line[0] stands in for the predecessor that the shot's first frame lacks
        count = 0
        for fresh in _chunks(frames, self.batch):
            if not count and begins:
                line = self._encode(fresh[:1])
                line += [line[0], *self._encode(fresh[1:])]
            else:
                line += self._encode(fresh)
            count += len(fresh)
            if len(line) > 2:
                yield from self._estimate(line, begins and first, False)
                first, line = False, line[-2:]
        if not ends or not count or (count == 1 and not begins):
            return
        if count == 1:
            yield _Estimate(None, None)
        else:
            yield from self._estimate([*line, line[-1]], begins and first, True)

    @torch.no_grad()
    def _encode(self, fresh: list[Tensor]) -> list[_Seen]:
        if not fresh:
            return []
        for frame in fresh:
            self.size = self.size or frame.shape
            if frame.shape != self.size or frame.ndim != 3 or frame.shape[0] != 3 or 0 in frame.shape:
                raise ValueError(
                    f"a frame has shape {list(frame.shape)}; a clip's frames are [3,H,W], all as its first, "
                    f"{list(self.size)}"
                )
        frames = torch.stack([frame.to(self.device) for frame in fresh])
        maps = self.network.fnet(self.network.padded(frames)[0])
        return [_Seen(frame, one) for frame, one in zip(torch.split(frames, 1), torch.split(maps, 1), strict=True)]

    @torch.no_grad()
    def _estimate(self, line: list[_Seen], first: bool, last: bool) -> list[_Estimate]:
        """Estimates of line[1:-1]; `first` and `last` say which ends of the line are stand-ins."""
        network = self.network
        samples = len(line) - 2
        frames = torch.stack([torch.cat([seen.frame for seen in line[i : i + 3]]) for i in range(samples)])
        images, padding = network.padded(frames)  # (samples, 3, 3, H', W')
        plan = network.plan(images, self.budget)
        state = network.start(images, plan)  # before the volumes: its convolutions take the most memory
        del frames, images

        carried, self.pair = self.pair, None
        if carried is None:
            carried = network.pair(line[0].features, line[1].features, plan)
        if samples == 1:
            earlier = carried.towards_earlier()
            del carried  # and with it one volume: from here on two exist
            later = self.pair = network.pair(line[1].features, line[2].features, plan)
        else:
            maps = torch.cat([seen.features for seen in line[1:]])
            later = network.pair(maps[:-1], maps[1:], plan)
            earlier = carried.followed_by(later).towards_earlier()
            self.pair = later.last()
        for fields in network.refinements(state, (earlier, later.towards_later()), self.iterations):
            done = fields
        del state, earlier, later
        prediction = network.upsampled(*done, plan, padding)
        flow, sure = prediction.flow, confidence(prediction.info)  # (samples, 2, 2, H, W), (samples, 2, H, W)
        return [
            _Estimate(
                None if first and i == 0 else (flow[i : i + 1, 0], sure[i : i + 1, 0]),
                None if last and i == samples - 1 else (flow[i : i + 1, 1], sure[i : i + 1, 1]),
            )
            for i in range(samples)
        ]


def _field(direction: tuple[Tensor, Tensor] | None, valid: Tensor | None) -> Field | None:
    if direction is None:
        return None
    flow, sure = direction
    return Field(flow[0], sure[0], None if valid is None else valid[0])


def _frame_flow(one: _Estimate) -> FrameFlow:
    return FrameFlow(_field(one.backward, None), _field(one.forward, None))


def _with_validity(estimates: Iterable[_Estimate], begins: bool, ends: bool) -> Iterator[FrameFlow]:
    """Each frame's flows once its neighbours' are known; those at the halo's edge stay unjudged and unreturned."""
    current: _Estimate | None = None
    backward_valid: Tensor | None = None
    known = begins  # whether what lies before `current` is
    for following in estimates:
        if current is None:
            current = following
            continue
        forward_valid = _agree(current.forward, following.backward)
        if known:
            yield FrameFlow(_field(current.backward, backward_valid), _field(current.forward, forward_valid))
        backward_valid = _agree(following.backward, current.forward)
        current, known = following, True
    if current is not None and ends and known:
        yield FrameFlow(_field(current.backward, backward_valid), _field(current.forward, None))


@torch.no_grad()
def _agree(there: tuple[Tensor, Tensor] | None, back: tuple[Tensor, Tensor] | None) -> Tensor | None:
    return None if there is None or back is None else consistent(there[0], back[0])


def _without_halo(flows: Iterable[FrameFlow], before: int, after: int) -> Iterator[FrameFlow]:
    waiting: deque[FrameFlow] = deque()
    for one in flows:
        waiting.append(one)
        del one  # or, at 1080p, 50 MB would stay here until the next is computed
        if before:
            before -= 1
            waiting.clear()
        if len(waiting) > after:
            yield waiting.popleft()


def _chunks(frames: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    chunk: list[Tensor] = []
    for frame in frames:
        chunk.append(frame)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
