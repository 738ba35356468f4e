"""Frames of two runs, brought together in one pass: what is missing on either side, and what lies at other times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

T = TypeVar("T")
SAME = Fraction(0)
ABOUT = Fraction(1, 1000)
"""Seconds within which two pictures are taken for the same frame: Matroska rounds times to this."""


@dataclass(slots=True)
class Pairing:
    """How a video's frames fit together. All but `frames` are 0 where two runs made the same frames."""

    frames: int = 0
    """On both sides."""
    only_a: int = 0
    only_b: int = 0
    other_times: int = 0
    """Of `frames`: those whose times differ."""
    incomparable: int = 0
    """Of `frames`: those of other sizes, or with a field that the other side lacks."""

    @property
    def differs(self) -> bool:
        return bool(self.only_a or self.only_b or self.other_times or self.incomparable)

    def add(self, other: Pairing) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Paired(Generic[T]):
    """Iterates over (a, b) of one frame each; `pairing` counts. Both sides must come in ascending order.

    place   where a frame belongs: a frame index, or a time
    time    in seconds
    about   how far apart two places may be
    """

    def __init__(
        self,
        first: Iterable[T],
        second: Iterable[T],
        place: Callable[[T], Fraction],
        time: Callable[[T], Fraction],
        about: Fraction = SAME,
    ) -> None:
        self.pairing = Pairing()
        self._sides = iter(first), iter(second)
        self._place, self._time, self._about = place, time, about

    def __iter__(self) -> Iterator[tuple[T, T]]:
        found = self.pairing
        firsts, seconds = self._sides
        a, b = next(firsts, None), next(seconds, None)
        while a is not None and b is not None:
            gap = self._place(a) - self._place(b)
            if abs(gap) <= self._about:
                found.frames += 1
                found.other_times += self._time(a) != self._time(b)
                yield a, b
                a, b = next(firsts, None), next(seconds, None)
            elif gap < 0:
                found.only_a += 1
                a = next(firsts, None)
            else:
                found.only_b += 1
                b = next(seconds, None)
        found.only_a += (a is not None) + sum(1 for _ in firsts)
        found.only_b += (b is not None) + sum(1 for _ in seconds)
