"""Decoding clips into the cache, and choosing triplets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputNotFound, UnreadableVideo
from pipeline.training.clips import cuts, load_clips
from tests.training.clips_factory import sliding, write_clip


def test_cached_frames_are_the_videos_frames_at_each_scale(tmp_path: Path) -> None:
    frames = sliding(6)
    write_clip(tmp_path / "data.mkv", frames)
    full, half = load_clips(tmp_path, tmp_path / "cache", [1.0, 0.5], 32)
    assert np.array_equal(full.frames, np.stack(frames))
    assert half.frames.shape == (6, 48, 48, 3)
    blocks = np.stack(frames).reshape(6, 48, 2, 48, 2, 3).mean((2, 4))
    assert np.abs(half.frames - blocks).max() <= 2


def test_a_second_load_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "data.mkv", sliding(6))
    first = load_clips(tmp_path, tmp_path / "cache", [1.0], 32)[0]
    monkeypatch.setattr("pipeline.training.clips.decode", lambda *_: pytest.fail("decoded again"))
    again = load_clips(tmp_path, tmp_path / "cache", [1.0], 32)[0]
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.changes, again.changes)


def test_no_triplet_spans_a_cut_or_a_held_frame(tmp_path: Path) -> None:
    shot, other = sliding(12, seed=0), sliding(12, seed=5)
    shot[6] = shot[5]  # held
    write_clip(tmp_path / "data.mkv", shot + other)
    clip = load_clips(tmp_path, tmp_path / "cache", [1.0], 32)[0]
    assert cuts(clip.changes) == [11]
    starts = set(clip.triplets(1).tolist())
    assert {10, 11} & starts == set()
    assert {4, 5} & starts == set()
    assert {0, 3, 6, 9, 12, 21} <= starts
    assert max(starts) == 21
    assert {8, 9, 10, 11} & set(clip.triplets(2).tolist()) == set()


def test_still_clips_give_no_triplets(tmp_path: Path) -> None:
    write_clip(tmp_path / "data.mkv", sliding(6, speed=0))
    assert len(load_clips(tmp_path, tmp_path / "cache", [1.0], 32)[0].triplets(1)) == 0


def test_unusable_folders_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound, match="no video files"):
        load_clips(tmp_path, tmp_path / "cache", [1.0], 32)
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(UnreadableVideo, match=r"broken\.mp4"):
        load_clips(tmp_path, tmp_path / "cache", [1.0], 32)
    (tmp_path / "broken.mp4").unlink()
    write_clip(tmp_path / "short.mkv", sliding(2))
    with pytest.raises(UnreadableVideo, match=r"short\.mkv: 2 frames"):
        load_clips(tmp_path, tmp_path / "cache", [1.0], 32)
    with pytest.raises(InputNotFound, match="at least 200 px"):
        load_clips(tmp_path, tmp_path / "cache", [1.0], 200)
