"""Adaptive interpolation as pure values: which patches, which scale and depth each gets, and what runs together.

A network's judgement of a pair of frames comes in as numbers (a score for every choice of every patch) and a batch plan
goes out. Nothing here looks beyond one pair of frames, except `batches`, which only says what shares a call.

The user's knob is a price: each patch takes the choice with the largest  score - price * cost,  cost as a share of full
depth at scale 1. As the price rises, a patch moves along its own frontier from the dearest choice to the cheapest one
and never back, so FLOPs never rise with the price, whatever the scores are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, log
from typing import NamedTuple

from pipeline.plan.patches import Patch

STATIC_DEPTH = 0
PRICE_UNIT = 10.0
"""Price at quality 1/(1+e), 0.27: a share of 0.1 of the full cost is then weighed like a factor e of probability."""


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """What one patch gets."""

    scale: int
    """Its sides are divided by this: 1, 2 or 4."""
    depth: int
    """The exit, from 1; 0: no network, the patch is static and is copied or averaged."""


STATIC = Choice(1, STATIC_DEPTH)


@dataclass(frozen=True, slots=True)
class FrameDecisions:
    """Of one synthesised frame: its patches, in the frame's own pixels and in row order, and what each one got."""

    patches: tuple[Patch, ...]
    choices: tuple[Choice, ...]
    flops: int
    """Spent on this frame, decisions included: two a multiply-accumulate, convolutions, overlaps counted twice."""
    full_flops: int
    """What the same network takes at full depth and scale on the whole frame, not cut."""


def fitted_windows(length: int, size: int, overlap: int, multiple: int) -> tuple[list[int], int]:
    """Starts, and the one side, of windows over `length` pixels: as near to `size` as fits the length evenly.

    Neighbours share at least `overlap`. `length` and `overlap` are multiples of `multiple`; starts and side become so.
    """
    if length % multiple or overlap % multiple or not 0 <= overlap * 2 <= size:
        raise ValueError(
            f"length {length} and overlap {overlap} must be multiples of {multiple}, and overlap at most half of "
            f"size {size}"
        )

    def side(count: int) -> int:
        return -(-(length + (count - 1) * overlap) // (count * multiple)) * multiple

    most = max(1, -(-(length - overlap) // (size - overlap)))
    count = min(range(1, most + 1), key=lambda n: (abs(side(n) - size), n))
    fitted = side(count)
    slack = length - fitted
    starts = [index * slack // ((count - 1) * multiple) * multiple for index in range(count)] if count > 1 else [0]
    return starts, fitted


def fitted_grid(height: int, width: int, size: int, overlap: int, multiple: int = 1) -> list[Patch]:
    """Patches of one shape in row order, about `size` on a side, that cover the frame and share at least `overlap`."""
    rows, tall = fitted_windows(height, size, overlap, multiple)
    columns, wide = fitted_windows(width, size, overlap, multiple)
    return [Patch(top, left, tall, wide) for top in rows for left in columns]


class Offer(NamedTuple):
    """A choice as indices of scale and exit (from 0), its cost, and the price from which a patch takes it."""

    price: float
    scale: int
    exit: int
    cost: float


def frontier(scores: Sequence[Sequence[float]], costs: Sequence[Sequence[float]]) -> list[Offer]:
    """What a patch takes as the price rises from minus infinity, dearest first: prices rise, costs fall.

    scores, costs: [scale][exit]. At a price where two choices are worth the same, the cheaper one is taken.
    Raises ValueError for scores that are no finite numbers.
    """
    offers = [
        (float(cost), float(score), scale, exit_)
        for scale, (worth, spent) in enumerate(zip(scores, costs, strict=True))
        for exit_, (score, cost) in enumerate(zip(worth, spent, strict=True))
    ]
    if not all(isfinite(score) for _, score, _, _ in offers):
        raise ValueError(f"the scores of a patch are {scores}; the weights that judged it are damaged")
    # The dearest; of those that cost the same the best; of equals the first.
    cost, score, scale, exit_ = min(offers, key=lambda offer: (-offer[0], -offer[1], offer[2], offer[3]))
    path = [Offer(-inf, scale, exit_, cost)]
    while cheaper := [offer for offer in offers if offer[0] < cost]:
        price, cost, lost, scale, exit_ = min(
            ((score - other[1]) / (cost - other[0]), other[0], -other[1], other[2], other[3]) for other in cheaper
        )
        score = -lost
        path.append(Offer(max(price, path[-1].price), scale, exit_, cost))
    return path


def taken(path: Sequence[Offer], price: float) -> Offer:
    """What a patch with this frontier takes at a price."""
    return next(offer for offer in reversed(path) if offer.price <= price)


def price_of(quality: float) -> float:
    """The price for `quality` in 0..1: none at 0.5, what training found; 0 is the cheapest, 1 full depth."""
    if not 0 <= quality <= 1:
        raise ValueError(f"quality={quality}: give 0 to 1")
    if quality in (0, 1):
        return inf if quality == 0 else -inf
    return PRICE_UNIT * log((1 - quality) / quality)


def price_within(paths: Sequence[Sequence[Offer]], areas: Sequence[float], budget: float, least: float) -> float:
    """The smallest price from `least` on at which the patches together cost no more than `budget`.

    areas: what each patch's costs are multiplied by. Infinity where not even the cheapest choices meet the budget.
    """

    def affordable(price: float) -> bool:
        return sum(taken(path, price).cost * area for path, area in zip(paths, areas, strict=True)) <= budget

    if affordable(least):
        return least
    prices = sorted({offer.price for path in paths for offer in path if offer.price > least})
    at = bisect_left(prices, True, key=affordable)
    return prices[at] if at < len(prices) else inf


class Piece(NamedTuple):
    """A patch that a network works on: of which frame, which of its patches, up to which exit."""

    frame: int
    patch: int
    depth: int


class Batch(NamedTuple):
    """Patches of one scale that go through a network together, deepest first: those that exit leave at the end."""

    scale: int
    pieces: tuple[Piece, ...]


def batches(frames: Sequence[Sequence[Choice]], most: Mapping[int, int]) -> list[Batch]:
    """Every patch of the frames that is not static, once, with others of its scale; `most` patches at a time, by scale.

    Patches of equal depth stand together, so that a batch holds few depths. A frame's own patches come in the same
    order whatever other frames there are, and are blended in that order.
    """
    by_scale: dict[int, list[Piece]] = {}
    for frame, choices in enumerate(frames):
        for patch, choice in enumerate(choices):
            if choice.depth != STATIC_DEPTH:
                by_scale.setdefault(choice.scale, []).append(Piece(frame, patch, choice.depth))
    plan = []
    for scale, pieces in sorted(by_scale.items()):
        pieces.sort(key=lambda piece: (-piece.depth, piece.frame, piece.patch))
        plan += [Batch(scale, tuple(pieces[at : at + most[scale]])) for at in range(0, len(pieces), most[scale])]
    return plan
