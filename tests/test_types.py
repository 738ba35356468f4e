"""Identities of videos and clips."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.types import ClipRef, KeyPacket, VideoInfo, VideoRef

VIDEO = VideoRef("s3://in/day1/a b.mp4", "etag-1", "day1/a b.mp4", 1000)
CLIP = ClipRef(VIDEO, 0, 2, 0, 12, -5, 100, Fraction(1, 24), 0, 1, KeyPacket(0, -5, -7), -5)


def test_a_videos_id_names_its_place_and_its_version() -> None:
    changed = replace(VIDEO, version="etag-2")
    assert changed.source_id == VIDEO.source_id
    assert changed.video_id != VIDEO.video_id
    assert VIDEO.video_id.rpartition("-")[0] == VIDEO.source_id, "the driver finds older versions so"


@pytest.mark.parametrize("change", [{"uri": "s3://in/day2/a b.mp4"}, {"member": "a.mp4"}])
def test_another_place_is_another_video(change: dict[str, str]) -> None:
    assert replace(VIDEO, **change).source_id != VIDEO.source_id


def test_a_uri_and_a_member_do_not_run_together() -> None:
    assert replace(VIDEO, uri="s3://a", member="b").source_id != replace(VIDEO, uri="s3://ab", member="").source_id


def test_what_only_describes_a_video_does_not_rename_it() -> None:
    assert replace(VIDEO, size=5, offset=512).video_id == VIDEO.video_id


@given(name=st.text(max_size=80), uri=st.text(max_size=80), version=st.text(max_size=20))
def test_ids_are_safe_in_any_bucket_or_folder(name: str, uri: str, version: str) -> None:
    video_id = VideoRef(uri, version, name, 1).video_id
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", video_id)
    assert len(video_id) <= 40 + 1 + 16 + 1 + 8


def test_printed_references_name_the_object_and_the_frames() -> None:
    assert str(VIDEO) == "s3://in/day1/a b.mp4"
    assert str(replace(VIDEO, member="x/1.mp4")) == "s3://in/day1/a b.mp4#x/1.mp4"
    assert str(CLIP) == "s3://in/day1/a b.mp4 frames 0..11"


def test_clip_ids_sort_in_time_and_say_which_frames_they_hold() -> None:
    ids = [replace(CLIP, index=index, start_pts=index * 7).clip_id for index in range(0, 1200, 100)]
    assert ids == sorted(ids)
    assert replace(CLIP, end_pts=99).clip_id != CLIP.clip_id
    assert not CLIP.is_last
    assert replace(CLIP, index=1).is_last


def test_a_videos_end_is_the_end_of_its_last_frames_display() -> None:
    info = VideoInfo("mov", 0, "h264", 64, 48, "yuv420p", Fraction(1, 24), (3, 4, 9), 5, ())
    assert info.end_pts == 14


def test_values_that_travel_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        VIDEO.uri = "elsewhere"  # type: ignore[misc]
