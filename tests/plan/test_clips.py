"""Clips tile a video, see their halo, and start decoding where they can."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan.clips import plan_clips
from pipeline.types import KeyPacket, VideoInfo, VideoRef

VIDEO = VideoRef("s3://in/a.mp4", "etag", "a.mp4", 1000)


def info_of(pts: list[int], keys: list[int], last: int = 1) -> VideoInfo:
    packets = tuple(KeyPacket(place, pts[place], pts[place]) for place in keys)
    return VideoInfo("mov", 0, "h264", 64, 48, "yuv420p", Fraction(1, 24), tuple(pts), last, packets)


@st.composite
def videos(draw: st.DrawFn) -> VideoInfo:
    steps = draw(st.lists(st.integers(1, 50), max_size=60))
    pts = [draw(st.integers(-100, 100))]
    for step in steps:
        pts.append(pts[-1] + step)
    keys = {0} | draw(st.sets(st.integers(0, len(pts) - 1), max_size=8))
    return info_of(pts, sorted(keys), draw(st.integers(1, 50)))


@given(info=videos(), frames=st.integers(1, 70), halo=st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_clips_tile_the_video_without_gap_or_overlap(info: VideoInfo, frames: int, halo: tuple[int, int]) -> None:
    clips = plan_clips(VIDEO, info, frames, halo)
    assert [clip.index for clip in clips] == list(range(len(clips)))
    assert [frame for clip in clips for frame in range(clip.start_frame, clip.start_frame + clip.frames)] == list(
        range(len(info.pts))
    )
    ends = [clip.end_pts for clip in clips]
    assert [clip.start_pts for clip in clips] == [info.pts[0], *ends[:-1]]
    assert ends[-1] == info.end_pts
    assert all(1 <= clip.frames <= frames and clip.count == len(clips) for clip in clips)
    assert all(clip.start_pts == info.pts[clip.start_frame] and clip.origin_pts == info.pts[0] for clip in clips)
    assert len({clip.clip_id for clip in clips}) == len(clips)
    assert sorted(clip.clip_id for clip in clips) == [clip.clip_id for clip in clips]


@given(info=videos(), frames=st.integers(1, 70), halo=st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_halos_have_the_frames_asked_for_or_all_that_exist(info: VideoInfo, frames: int, halo: tuple[int, int]) -> None:
    for clip in plan_clips(VIDEO, info, frames, halo):
        end = clip.start_frame + clip.frames
        assert clip.halo_before == min(halo[0], clip.start_frame)
        assert clip.halo_after == min(halo[1], len(info.pts) - end)


@given(info=videos(), frames=st.integers(1, 70), before=st.integers(0, 5))
def test_decoding_starts_at_the_last_key_packet_at_or_before_the_first_halo_frame(
    info: VideoInfo, frames: int, before: int
) -> None:
    for clip in plan_clips(VIDEO, info, frames, (before, 0)):
        first = info.pts[clip.start_frame - clip.halo_before]
        assert clip.seek.pts == max(key.pts for key in info.keys if key.pts <= first)


@given(info=videos(), frames=st.integers(1, 70))
def test_planning_twice_gives_the_same_clips(info: VideoInfo, frames: int) -> None:
    assert plan_clips(VIDEO, info, frames, (1, 1)) == plan_clips(VIDEO, info, frames, (1, 1))


def test_frames_shown_before_the_first_key_packet_are_decoded_from_it() -> None:
    info = info_of([0, 1, 2, 3], [2])
    assert [clip.seek.pts for clip in plan_clips(VIDEO, info, 1, (0, 0))] == [2, 2, 2, 3 - 1]
