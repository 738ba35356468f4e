"""Rows and receipts travel as one JSON cell, and stay small whatever the video's length."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from pipeline.errors import CorruptVideo
from pipeline.plan.clips import plan_clips
from pipeline.records.commit import Failure
from pipeline.run.rows import Receipt, Row, headers_only, receipt_from, row_from, to_table
from pipeline.types import HDR, Colour, KeyPacket, VideoInfo, VideoRef

VIDEO = VideoRef("s3://in/ä b.tar", "etag", "ä b/c.mp4", 1000, "tar", "c.mp4", 512)


def info_of(frames: int) -> VideoInfo:
    return VideoInfo(
        "mov", 1, "hevc", 3840, 2160, "yuv420p10le", Fraction(1001, 30000), tuple(range(-3, frames - 3)), 7,
        (KeyPacket(0, -3, None, False), KeyPacket(5, 2, 1)), Fraction(30000, 1001), Fraction(4, 3), 90,
        (1, 2, 3, 4, 5, 6, 7, 8, 9), Colour(9, 16, 9, False, True, 1),
        HDR((Fraction(1, 3),) * 8, (Fraction(1, 10000), Fraction(1000)), 1000, None), False, frames, ("a note",),
    )  # fmt: skip


def row_of(frames: int = 10) -> Row:
    info = info_of(frames)
    clip = plan_clips(VIDEO, info, 4, (1, 1))[1]
    return Row("clip", VIDEO, headers_only(info), clip, 20, frames)


def test_a_row_comes_back_as_it_was_sent() -> None:
    row = row_of()
    table = to_table(row)
    assert (table.num_rows, table.column_names) == (1, ["item"])
    assert row_from(table["item"][0].as_py()) == row


def test_a_refused_video_comes_back_with_its_reason() -> None:
    failure = Failure(stage="probe", error_type=CorruptVideo.__name__, message="no moov", pts=-4, traceback="…")
    row = Row("refused", VIDEO, refusal=failure)
    assert row_from(to_table(row)["item"][0].as_py()) == row


@pytest.mark.parametrize("status", ["ok", "error", "refused"])
def test_a_receipt_comes_back_as_it_was_sent(status: str) -> None:
    receipt = Receipt(row_of(), status, 8, {"model": 1.25}, {"source": 4}, "why", 999, False, 3)
    assert receipt_from(to_table(receipt)["item"][0].as_py()) == receipt


def test_a_row_does_not_grow_with_the_video() -> None:
    short, long = (to_table(row_of(frames)).nbytes for frames in (10, 100_000))
    assert long < short + 50
    assert long < 4000


def test_headers_keep_the_videos_first_and_last_moment() -> None:
    info = info_of(10)
    header = headers_only(info)
    assert (header.pts, header.keys) == ((-3,), info.keys[:1])
    assert header.end_pts == info.end_pts
    assert replace(header, pts=info.pts, last_duration=info.last_duration, keys=info.keys) == info
