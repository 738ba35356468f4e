"""Training clips on disk: each video decoded once, at several scales, into memory-mapped uint8 frames.

A video decoder cannot serve random crops fast enough to feed even a small network on a CPU; a memory map can, and the
page cache holds what is used. The cache is rebuilt when a video, a scale or the layout's version changes.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputNotFound, UnreadableVideo

Frames = npt.NDArray[np.uint8]
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".y4m"})
LAYOUT = 1
THUMBNAIL = (32, 18)  # width, height: enough to see a cut, small enough to average noise away


@dataclass(frozen=True)
class Clip:
    """One video at one scale. `changes[i]` is the mean absolute difference, 0..255, from frame i to i + 1."""

    name: str
    scale: float
    frames: Frames  # [N,H,W,3] RGB, memory-mapped
    changes: npt.NDArray[np.float32]

    def triplets(self, gap: int) -> npt.NDArray[np.int64]:
        """First frames i of all usable triplets (i, i + gap, i + 2 gap): no cut inside, something moves, evenly."""
        steps = len(self.changes)
        if steps < 2 * gap:
            return np.zeros(0, np.int64)
        cut = np.zeros(steps, bool)
        cut[cuts(self.changes)] = True
        windows = np.lib.stride_tricks.sliding_window_view
        intact = np.logical_not(windows(cut, 2 * gap).any(axis=1))
        first = windows(self.changes, gap).sum(1)
        count = steps - 2 * gap + 1
        before, after = first[:count], first[gap : gap + count]
        # A duplicated frame makes the middle equal to one end: a lie about where things are at half time.
        even = np.minimum(before, after) > 0.35 * np.maximum(before, after)
        moving = np.minimum(before, after) > 0.15
        return np.flatnonzero(intact & even & moving)


def cuts(changes: npt.NDArray[np.float32]) -> list[int]:
    """Indices i where a cut lies between frames i and i + 1: a change that towers above those around it."""
    found = []
    for i, change in enumerate(changes):
        around = np.concatenate([changes[max(0, i - 4) : i], changes[i + 1 : i + 5]])
        usual = float(np.median(around)) if len(around) else 0.0
        if change > 10 and change > 3 * usual + 2:
            found.append(i)
    return found


def decode(path: Path, size: tuple[int, int] | None = None) -> Iterator[Frames]:
    """Frames of the first video stream, [H,W,3] RGB, scaled to size (width, height) if given."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            for frame in container.decode(stream):
                width, height = size or (frame.width, frame.height)
                rgb = frame.reformat(width, height, "rgb24", interpolation="AREA" if size else "BICUBIC")
                yield rgb.to_ndarray().astype(np.uint8, copy=False)
    except (av.error.FFmpegError, IndexError) as error:
        raise UnreadableVideo(f"{path}: cannot be decoded for training ({error}); remove it from the folder") from error


def thumbnail_changes(thumbnails: Sequence[Frames]) -> npt.NDArray[np.float32]:
    """Mean absolute difference of each frame to the next, 0..255."""
    stack = np.stack(thumbnails).astype(np.float32)
    changes: npt.NDArray[np.float32] = np.abs(np.diff(stack, axis=0)).mean((1, 2, 3))
    return changes


def shrink(frame: Frames) -> Frames:
    """A frame's thumbnail, by averaging blocks."""
    width, height = THUMBNAIL
    rows, columns = max(1, frame.shape[0] // height), max(1, frame.shape[1] // width)
    blocks = frame[: rows * height, : columns * width]
    if blocks.shape[:2] != (rows * height, columns * width):  # smaller than the thumbnail itself
        return frame
    mean: npt.NDArray[np.float64] = blocks.reshape(height, rows, width, columns, 3).mean((1, 3))
    return mean.astype(np.uint8)


def find_videos(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES) if folder.is_dir() else []
    if not found:
        raise InputNotFound(f"{folder}: no video files ({', '.join(sorted(VIDEO_SUFFIXES))}); give a folder of clips")
    return found


def load_clips(folder: Path, cache: Path, scales: Sequence[float], smallest_side: int) -> list[Clip]:
    """All clips of a folder at all scales at which a crop of smallest_side still fits, decoding what is not cached."""
    clips = [
        clip
        for video in find_videos(folder)
        for scale in scales
        if (clip := _load_clip(video, cache, scale, smallest_side)) is not None
    ]
    if not clips:
        raise InputNotFound(f"{folder}: no clip is at least {smallest_side} px high and wide at any of {list(scales)}")
    return clips


def _load_clip(video: Path, cache: Path, scale: float, smallest_side: int) -> Clip | None:
    try:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            width, height = round(stream.width * scale), round(stream.height * scale)
    except (av.error.FFmpegError, IndexError) as error:
        raise UnreadableVideo(f"{video}: cannot be opened for training ({error}); remove it from the folder") from error
    if min(width, height) < smallest_side:
        return None
    stat = video.stat()
    identity = json.dumps([LAYOUT, video.name, stat.st_size, stat.st_mtime_ns, width, height])
    folder = cache / f"{video.stem}-{width}x{height}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if not folder.exists():
        _decode_into(folder, video, (width, height) if scale != 1 else None)
    changes = np.load(folder / "changes.npy")
    frames = np.memmap(folder / "frames.u8", np.uint8, "r", shape=(len(changes) + 1, height, width, 3))
    return Clip(video.name, scale, frames, changes)


def _decode_into(folder: Path, video: Path, size: tuple[int, int] | None) -> None:
    """Decode a video into the cache; the folder appears when it is complete, also with several processes at it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        partial = Path(name) / "clip"
        partial.mkdir()
        thumbnails = []
        with (partial / "frames.u8").open("wb") as file:
            for frame in decode(video, size):
                file.write(np.ascontiguousarray(frame).tobytes())
                thumbnails.append(shrink(frame))
        if len(thumbnails) < 3:
            raise UnreadableVideo(
                f"{video}: {len(thumbnails)} frames decoded, a triplet needs 3; remove it from the folder"
            )
        np.save(partial / "changes.npy", thumbnail_changes(thumbnails))
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
