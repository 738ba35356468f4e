"""Reaching a time by recursion on midpoints, for models that know only t = 1/2 (CAIN).

A node is a multiple of 1/2^depth in [0, 1]; 0 and 1 are the source frames. A wanted `t` takes the shallowest node that
is near enough: deeper ones cost more passes and accumulate the model's error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction


class NoMidpoint(ValueError):
    """No midpoint is near enough to a wanted place."""


@dataclass(frozen=True, slots=True)
class Midpoint:
    """One pass of the model: `node` lies half-way between the finished nodes `left` and `right`."""

    left: Fraction
    node: Fraction
    right: Fraction


def nearest_node(t: Fraction, max_error: Fraction, max_depth: int) -> Fraction:
    """The shallowest dyadic fraction within `max_error` of `t`, at most `max_depth` deep.

    An exactly dyadic `t` is always met exactly when it is within reach.

    Raises NoMidpoint when no node up to `max_depth` is near enough, ValueError for a place outside 0..1.
    """
    if not 0 <= t <= 1:
        raise ValueError(f"t={t} lies outside the interval 0..1")
    if t.denominator & (t.denominator - 1) == 0 and t.denominator <= 2**max_depth:
        return t
    for depth in range(max_depth + 1):
        node = Fraction(round(t * 2**depth), 2**depth)
        if abs(t - node) <= max_error:
            return node
    raise NoMidpoint(f"no midpoint within {max_error} of t={t} at depth {max_depth}")


def passes(nodes: Iterable[Fraction]) -> list[Midpoint]:
    """The passes that make `nodes` and all they stand on, shallow ones first; those of one depth are independent."""
    wanted: dict[Fraction, Midpoint] = {}
    stack = [node for node in nodes if node.denominator > 1]
    while stack:
        node = stack.pop()
        if node in wanted:
            continue
        half = Fraction(1, node.denominator)
        step = Midpoint(node - half, node, node + half)
        wanted[node] = step
        stack += [side for side in (step.left, step.right) if side.denominator > 1]
    return sorted(wanted.values(), key=lambda step: (step.node.denominator, step.node))
