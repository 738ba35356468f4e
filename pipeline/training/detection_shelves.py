"""Which labelled frame is drawn next: for a scene's ground, for what is pasted into it, and with followers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.training.detection_recipe import DetectionDataRecipe
from pipeline.training.detection_sources import Source

SMALLEST = 8.0  # px of a box's shorter side
EMPTY, EMPTY_PATCH = 0.2, 0.5  # shares of balanced draws that ask for frames without an object


class Drawn(NamedTuple):
    source: Source
    frame: int
    wanted: int | None  # the class that it was drawn for


class Shelf(NamedTuple):
    """Frames to draw from."""

    frames: list[tuple[Source, int]]
    share: NDArray[np.float64]  # of draws; their sum is 1


def useful(objects: Tensor, sure: float, wanted: int | None = None) -> Tensor:
    """Which of the objects [K,6] (of the class, if one is wanted) are sure, and large enough to be shown larger."""
    found = (objects[:, 5] >= sure) & ((objects[:, 2:4] - objects[:, :2]).amin(1) >= 2 * SMALLEST)
    of_class = found if wanted is None else found & (objects[:, 4] == wanted)
    return of_class if bool(of_class.any()) else found


class Shelves:
    """Draws frames by a recipe; each draw depends on the generator's state alone."""

    def __init__(self, sources: Sequence[Source], classes: int, recipe: DetectionDataRecipe) -> None:
        self._sources, self._balanced = sources, recipe.balanced
        self.videos = [source for source in sources if len(source) > 1]
        self._with_objects = [
            source for source in sources if any(bool((one[:, 5] >= recipe.sure).any()) for one in source.objects)
        ] or list(sources)
        # Long videos show the same for long: their share grows with the root of their length.
        lengths = np.sqrt([len(source) for source in self.videos])
        self._lengths = lengths / lengths.sum() if len(lengths) else lengths
        self._by_class = {
            moving: {kind: one for kind in (*range(classes), None) if (one := _shelf(group, kind, recipe.sure))}
            for moving, group in ((False, sources), (True, self.videos))
        }

    def any(self, rng: np.random.Generator) -> Drawn:
        """Any frame of any source."""
        return self._of_a_class(False, rng, EMPTY) or _within(self._sources[int(rng.integers(len(self._sources)))], rng)

    def moving(self, rng: np.random.Generator) -> Drawn:
        """A frame of a video."""
        drawn = self._of_a_class(True, rng, EMPTY)
        return drawn or _within(self.videos[rng.choice(len(self.videos), p=self._lengths)], rng)

    def pasted(self, rng: np.random.Generator, real: bool) -> Drawn:
        """A frame of a source that has objects; of any, if what is to be pasted need not be one."""
        drawn = self._of_a_class(False, rng, 0.0 if real else EMPTY_PATCH)
        return drawn or _within(self._with_objects[int(rng.integers(len(self._with_objects)))], rng)

    def _of_a_class(self, moving: bool, rng: np.random.Generator, empty: float) -> Drawn | None:
        shelves = self._by_class[moving]
        kinds = [kind for kind in shelves if kind is not None]
        if not self._balanced or not kinds:
            return None
        kind = None if None in shelves and rng.random() < empty else kinds[rng.integers(len(kinds))]
        shelf = shelves[kind]
        return Drawn(*shelf.frames[rng.choice(len(shelf.frames), p=shelf.share)], kind)


def _within(source: Source, rng: np.random.Generator) -> Drawn:
    return Drawn(source, int(rng.integers(len(source))), None)


def _shelf(sources: Sequence[Source], kind: int | None, sure: float) -> Shelf | None:
    """Frames with an object of the class, or (None) without any. Videos' shares grow with the root of their number of
    such frames; all pictures together count as a video."""
    frames, groups = [], []
    for number, source in enumerate(sources):
        for index, objects in enumerate(source.objects):
            found = objects[useful(objects, sure), 4]
            if not len(found) if kind is None else bool((found == kind).any()):
                frames.append((source, index))
                groups.append(number if len(source) > 1 else -1)
    if not frames:
        return None
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    share = counts[group] ** -0.5
    return Shelf(frames, share / share.sum())
