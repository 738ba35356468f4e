"""Intervals are the same wherever a video is cut into clips; cuts, repeats and damage are respected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import CutsConfig, DuplicatesConfig, TargetConfig
from pipeline.errors import CorruptVideo
from pipeline.media.frame import Frame, PixelFormat
from pipeline.plan.clips import plan_clips
from pipeline.plan.grid import make_grid
from pipeline.tasks.intervals import Interval, halo, intervals
from pipeline.types import ClipRef, KeyPacket, VideoInfo, VideoRef

GRAY = PixelFormat.of("gray")
BASE = Fraction(1, 24)
VIDEO = VideoRef("memory://a.mp4", "v", "a.mp4", 1)
NO_CUTS = CutsConfig(detect=False)
KEEP = DuplicatesConfig()


def frames_of(pictures: str, pts: Sequence[int] | None = None, size: int = 4) -> list[Frame]:
    """A frame a letter, one gray level each: a repeated letter is a repeated picture."""
    pts = range(len(pictures)) if pts is None else pts
    return [
        Frame(time, (np.full((size, size), ord(letter), np.uint8),), GRAY)
        for time, letter in zip(pts, pictures, strict=True)
    ]


def clips_of(frames: Sequence[Frame], length: int, duplicates: DuplicatesConfig, last: int = 1) -> list[ClipRef]:
    pts = tuple(frame.pts for frame in frames)
    key = KeyPacket(0, pts[0], pts[0])
    info = VideoInfo("mov", 0, "h264", frames[0].width, frames[0].height, "gray", BASE, pts, last, (key,))
    return plan_clips(VIDEO, info, length, halo(duplicates))


def intervals_of(
    frames: Sequence[Frame],
    target: TargetConfig,
    length: int,
    duplicates: DuplicatesConfig = KEEP,
    cuts: CutsConfig = NO_CUTS,
    last: int = 1,
) -> list[list[Interval]]:
    """The intervals of each clip, from the frames that the clip may see."""
    result = []
    for clip in clips_of(frames, length, duplicates, last):
        start, end = clip.start_frame - clip.halo_before, clip.start_frame + clip.frames + clip.halo_after
        grid = make_grid(target, BASE, clip.origin_pts)
        result.append(list(intervals(iter(frames[start:end]), clip, grid, cuts, duplicates)))
    return result


def plain(clips: list[list[Interval]]) -> list[tuple[int, int | None, tuple[tuple[int, Fraction], ...], str]]:
    return [(i.left.pts, None if i.right is None else i.right.pts, i.outputs, i.reason) for clip in clips for i in clip]


DOUBLE = TargetConfig(factor=2)
TARGETS = st.sampled_from([DOUBLE, TargetConfig(factor=3), TargetConfig(fps="60"), TargetConfig(fps="5")])


@st.composite
def videos(draw: st.DrawFn) -> list[Frame]:
    """Pictures that repeat in runs, at uneven times."""
    runs = draw(st.lists(st.integers(1, 7), min_size=1, max_size=8))
    pictures = "".join(chr(ord("A") + index) * run for index, run in enumerate(runs))
    steps = draw(st.lists(st.integers(1, 9), min_size=len(pictures), max_size=len(pictures)))
    return frames_of(pictures, [sum(steps[:index]) for index in range(len(pictures))])


@given(
    frames=videos(),
    target=TARGETS,
    length=st.integers(1, 20),
    mode=st.sampled_from(["keep", "resynthesise"]),
    max_run=st.integers(1, 5),
    residual=st.sampled_from([0.0, 1.0]),
    detect=st.booleans(),
)
def test_every_way_of_cutting_a_video_into_clips_gives_the_same_intervals(
    frames: list[Frame], target: TargetConfig, length: int, mode: str, max_run: int, residual: float, detect: bool
) -> None:
    duplicates = DuplicatesConfig.model_validate({"mode": mode, "max_run": max_run, "residual": residual})
    cuts = CutsConfig(detect=detect, threshold=0.05)
    whole = plain(intervals_of(frames, target, len(frames), duplicates, cuts, last=5))
    assert plain(intervals_of(frames, target, length, duplicates, cuts, last=5)) == whole
    # And replacing repeats moves no output frame in time.
    kept = plain(intervals_of(frames, target, length, KEEP, NO_CUTS, last=5))
    assert [[pts for pts, _ in outputs] for _, _, outputs, _ in whole] == [
        [pts for pts, _ in outputs] for _, _, outputs, _ in kept
    ]
    assert all(0 <= t < 1 for _, _, outputs, _ in whole for _, t in outputs)


@given(frames=videos(), max_run=st.integers(1, 5), target=TARGETS)
def test_places_between_kept_pictures_are_the_output_frames_true_times(
    frames: list[Frame], max_run: int, target: TargetConfig
) -> None:
    duplicates = DuplicatesConfig(mode="resynthesise", max_run=max_run)
    grid = make_grid(target, BASE, frames[0].pts)
    for (interval,) in intervals_of(frames, target, 1, duplicates):
        if interval.right is not None:
            span = interval.right.pts - interval.left.pts
            for pts, t in interval.outputs:
                assert pts * grid.time_base == (interval.left.pts + t * span) * BASE


def test_between_two_frames_lies_one_interval_and_the_last_frame_is_held() -> None:
    found = plain(intervals_of(frames_of("ABC"), DOUBLE, 2))
    half = Fraction(1, 2)
    assert found == [
        (0, 1, ((0, Fraction(0)), (1, half)), "motion"),
        (1, 2, ((2, Fraction(0)), (3, half)), "motion"),
        (2, None, ((4, Fraction(0)), (5, half)), "end"),
    ]


def test_repeats_are_kept_as_they_are_unless_asked_otherwise() -> None:
    assert [(left, right, why) for left, right, _, why in plain(intervals_of(frames_of("AAB"), DOUBLE, 3))] == [
        (0, None, "same"),
        (1, 2, "motion"),
        (2, None, "end"),
    ]


def test_a_short_run_of_repeats_is_spread_between_its_neighbours() -> None:
    duplicates = DuplicatesConfig(mode="resynthesise", max_run=2)
    found = plain(intervals_of(frames_of("AAAB"), DOUBLE, 4, duplicates))
    assert [(left, right) for left, right, _, _ in found] == [(0, 3), (0, 3), (0, 3), (3, None)]
    assert [t for _, _, outputs, _ in found[:3] for _, t in outputs] == [Fraction(k, 6) for k in range(6)]


def test_a_long_run_of_repeats_is_a_still_and_stays() -> None:
    duplicates = DuplicatesConfig(mode="resynthesise", max_run=2)
    found = plain(intervals_of(frames_of("AAAAB"), DOUBLE, 5, duplicates))
    assert [(left, right, why) for left, right, _, why in found] == [
        (0, None, "same"),
        (1, None, "same"),
        (2, None, "same"),
        (3, 4, "motion"),
        (4, None, "end"),
    ]


def scene(seed: int, shift: int) -> Frame:
    texture = np.random.default_rng(seed).integers(0, 255, (12, 16)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    return Frame(0, (np.ascontiguousarray(np.roll(texture, shift, 1)),), GRAY)


def retimed(frames: Sequence[Frame]) -> list[Frame]:
    return [Frame(pts, frame.planes, frame.format) for pts, frame in enumerate(frames)]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("mode", ["keep", "resynthesise"])
def test_nothing_is_ever_interpolated_across_a_cut(length: int, mode: str) -> None:
    # The cut follows a repeat: with repeats replaced, the interval that reaches over the cut begins at frame 2.
    first = [scene(1, 0), scene(1, 2), scene(1, 4), scene(1, 4)]
    frames = retimed([*first, scene(2, 0), scene(2, 2), scene(2, 4)])
    duplicates = DuplicatesConfig.model_validate({"mode": mode})
    found = [
        interval
        for clip in intervals_of(frames, TargetConfig(factor=4), length, duplicates, CutsConfig())
        for interval in clip
    ]
    assert len(found) == 7
    for interval in found:
        if interval.right is not None:
            assert (interval.left.pts < 4) == (interval.right.pts < 4)
    assert [interval.reason for interval in found] == (
        ["motion", "motion", "same" if mode == "keep" else "cut", "cut", "motion", "motion", "end"]
    )
    assert [interval.left.pts for interval in found if interval.reason == "cut"] == ([3] if mode == "keep" else [2, 3])


def test_without_detection_the_same_frames_are_interpolated() -> None:
    frames = retimed([scene(1, 0), scene(2, 0)])
    assert [i.reason for i in intervals_of(frames, DOUBLE, 2, cuts=NO_CUTS)[0]] == ["motion", "end"]


def test_near_repeats_before_a_cut_keep_their_own_pictures() -> None:
    near = scene(1, 2)
    noisy = Frame(0, (near.planes[0] ^ np.uint8(1),), GRAY)
    frames = retimed([scene(1, 0), near, noisy, scene(2, 0)])
    duplicates = DuplicatesConfig(mode="resynthesise", residual=2.0)
    found = [i for i in intervals_of(frames, DOUBLE, 4, duplicates, CutsConfig())[0] if i.reason == "cut"]
    assert [interval.left.pts for interval in found] == [1, 2], "each holds the source's frame of that time"


def broken(frames: Sequence[Frame], good: int) -> Iterator[Frame]:
    yield from frames[:good]
    raise CorruptVideo("damaged", pts=frames[good - 1].pts if good else None)


@pytest.mark.parametrize("mode", ["keep", "resynthesise"])
@pytest.mark.parametrize("good", range(6))
def test_damage_gives_the_good_frames_first_and_then_the_error(good: int, mode: str) -> None:
    frames = frames_of("ABCDEF")
    duplicates = DuplicatesConfig.model_validate({"mode": mode})
    (clip,) = clips_of(frames, 6, duplicates)
    stream = intervals(broken(frames, good), clip, make_grid(DOUBLE, BASE, 0), NO_CUTS, duplicates)
    found: list[Interval] = []
    with pytest.raises(CorruptVideo):
        found.extend(stream)
    outputs = [pts for interval in found for pts, _ in interval.outputs]
    assert outputs == list(range(max(0, 2 * good - 1))), "every frame up to the last good one, and nothing after it"


def test_damage_in_the_frames_after_a_clip_costs_only_what_needs_them() -> None:
    frames = frames_of("ABCD")
    clip = clips_of(frames, 2, KEEP)[0]
    found: list[Interval] = []
    with pytest.raises(CorruptVideo):
        found.extend(intervals(broken(frames, 2), clip, make_grid(DOUBLE, BASE, 0), NO_CUTS, KEEP))
    assert [pts for interval in found for pts, _ in interval.outputs] == [0, 1, 2]


def test_damage_in_the_frames_before_a_clip_leaves_nothing_of_it() -> None:
    frames = frames_of("ABCDEFGH")
    duplicates = DuplicatesConfig(mode="resynthesise", max_run=1)
    clip = clips_of(frames, 4, duplicates)[1]
    stream = intervals(broken(frames[2:], 1), clip, make_grid(DOUBLE, BASE, 0), NO_CUTS, duplicates)
    with pytest.raises(CorruptVideo):
        next(stream)


def test_a_clip_may_own_no_output_frame_at_all() -> None:
    frames = frames_of("ABCDEFGHIJKL")
    clips = intervals_of(frames, TargetConfig(fps="4"), 3)  # a frame every six, clips of three
    assert [[pts for interval in clip for pts, _ in interval.outputs] for clip in clips] == [[0], [], [1], []]


def test_the_halo_covers_the_longest_run_to_replace() -> None:
    assert halo(KEEP) == (0, 1)
    assert halo(DuplicatesConfig(mode="resynthesise", max_run=3)) == (4, 4)
