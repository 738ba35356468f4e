from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.layout import COMPONENT_BYTES, NAME_BYTES, Layout, final_name, record_name, sanitise

names = st.text(st.characters(exclude_categories=()), max_size=40)
paths = st.lists(names | st.sampled_from(["..", ".", "", "a" * 300 + ".mp4", "é" * 150]), min_size=1, max_size=8).map(
    "/".join
)
videos = st.tuples(
    st.sampled_from(["a", "a.mp4", "b.mkv", "d/a", ".mp4"]),
    st.lists(st.sampled_from(["", ".mp4", ".MP4", ".mkv", ".video", ".webm", ".x", ".preview"]), max_size=4),
).map(lambda pair: pair[0] + "".join(pair[1]))


@given(paths)
def test_a_sanitised_name_is_a_safe_relative_path(name: str) -> None:
    safe = sanitise(name)
    safe.encode()
    assert not safe.startswith("/")
    for part in safe.split("/"):
        assert part not in ("", ".", "..")
        assert len(part.encode()) <= COMPONENT_BYTES
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 or character == "\\" for character in part)
    assert len(safe.encode()) <= NAME_BYTES


@given(paths, paths)
def test_different_names_stay_different_and_equal_ones_equal(one: str, other: str) -> None:
    assert (sanitise(one) == sanitise(other)) == (one == other)


@pytest.mark.parametrize("name", ["day 1/a.mp4", "日本語/クリップ.mkv", "clip [1080p] (2).mov", "ünïcode.webm"])
def test_ordinary_names_are_kept_as_they_are(name: str) -> None:
    assert sanitise(name) == name


def test_a_name_of_two_long_equal_beginnings_keeps_its_suffix_and_its_difference() -> None:
    one, other = (sanitise("x" * 400 + tail + ".mp4") for tail in "ab")
    assert one != other
    assert one.endswith(".mp4")


@given(videos, videos, st.sampled_from([".mp4", ".mkv"]))
def test_different_inputs_never_share_an_output(one: str, other: str, suffix: str) -> None:
    assert (final_name(one, suffix) == final_name(other, suffix)) == (one == other)


@given(
    videos, videos, *[st.sampled_from([".parquet", ".part-00000.parquet", ".part-00001.parquet", ".preview.mp4"])] * 2
)
def test_different_inputs_and_parts_never_share_a_file_of_records(one: str, other: str, part: str, its: str) -> None:
    assert (record_name(one, part) == record_name(other, its)) == ((one, part) == (other, its))
    number = Layout("out").group_data(3, ".parquet", "flow")
    assert f"flow/{record_name(one, part)}" != number
    assert record_name("group-000003", ".parquet") != "group-000003.parquet"


@given(videos, videos, st.sampled_from([".mp4", ".mkv"]), st.sampled_from([".decisions.parquet", ".preview.mp4"]))
def test_what_lies_beside_a_video_never_meets_another_video(one: str, other: str, suffix: str, beside: str) -> None:
    layout = Layout("out")
    assert layout.final(one, suffix) != layout.final(other, beside)
    assert (layout.final(one, beside) == layout.final(other, beside)) == (one == other)


def test_outputs_are_named_after_their_inputs() -> None:
    layout = Layout("s3://bucket/out/")
    assert layout.final("a.mp4") == "video/a.mp4"
    assert layout.final("d/a.webm") == "video/d/a.webm.mp4"
    assert layout.final("a.mkv", ".mkv") == "video/a.mkv"
    assert layout.final("a.mp4", ".preview.mp4") == "video/a.mp4.preview.mp4"
    assert layout.final("d/a", ".decisions.parquet") == "video/d/a.video.decisions.parquet"
    assert layout.final("a.mp4", ".parquet", "flow") == "flow/a.mp4.parquet"
    assert layout.final("d/a", ".part-00001.parquet", "flow") == "flow/d/a.video.part-00001.parquet"
    assert layout.good_prefix("a.mkv", ".parquet", "flow") == "_motionmill/quarantine/flow/a.mkv.parquet"
    assert layout.uri(layout.final("a.mp4")) == "s3://bucket/out/video/a.mp4"
    assert layout.clip_commit("v", "c") == "s3://bucket/out/_motionmill/commit/v/c.json"
    assert layout.clip_data("v", "c", "x1") == "_motionmill/segments/v/c-x1.mp4"
