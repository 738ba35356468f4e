"""Contract 3: a folder of broken, lying and hostile files costs nobody else anything, and each is accounted for."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.support import LOSSLESS, Cluster, Output, frames_of, run, write
from tests.media_factory import (
    claim_samples,
    claim_size,
    cut,
    faststart,
    make_codec,
    make_video,
    only_audio,
    scramble,
)

X264 = {"preset": "ultrafast"}


def _mp4(frames: int = 48, **more: object) -> bytes:
    return faststart(frames=frames, options=X264, **more)


def _flipped(data: bytes) -> bytes:
    """A bit flipped in every 97th byte of the second half."""
    half = len(data) // 2
    return data[:half] + bytes(b ^ 16 if i % 97 == 0 else b for i, b in enumerate(data[half:]))


@dataclass(frozen=True)
class Bad:
    data: bytes
    stages: tuple[str, ...]
    says: str
    """Part of the message."""
    prefix: bool = False
    """Whether a good beginning must be kept."""


BAD = {
    "cut.mp4": Bad(cut(_mp4(), 0.7), ("decode", "read"), "", True),
    "cut.mkv": Bad(cut(make_video(container="matroska", frames=48, options=X264), 0.7), ("decode",), "", True),
    "cut.ts": Bad(cut(make_codec("h264 ts", 48, gop=12), 0.71), ("decode",), "", True),
    "flipped.mp4": Bad(_flipped(_mp4()), ("decode",), "", True),
    "noisy.mkv": Bad(scramble(make_video(container="matroska", frames=48, options=X264), 0.5), ("decode",), "", True),
    "empty.mp4": Bad(b"", ("probe",), "0 bytes"),
    "text.mp4": Bad(b"Dear customer, your video is in the other folder.\n" * 40, ("probe",), "text.mp4"),
    "no_moov.mp4": Bad(cut(make_video(frames=48, options=X264), 0.8), ("probe",), "no_moov.mp4"),
    "many_samples.mp4": Bad(claim_samples(_mp4(), 2**31), ("probe",), "input.max_frames"),
    "huge.mp4": Bad(claim_size(_mp4(), 30000, 30000), ("probe",), "30000x30000"),
    "sound.mp4": Bad(only_audio(), ("probe",), "sound.mp4"),
    "noise.mkv": Bad(random.Random(7).randbytes(5000), ("probe",), "noise.mkv"),
    "sub/..%2Fescape.mp4": Bad(b"no video either", ("probe",), ""),
}
GOOD = {
    "good.mp4": _mp4(30),
    'it\'s "quoted" & spaced; $(rm -rf) – 動画 🎬.mp4': _mp4(20),
    "..hidden..mp4": _mp4(10),
    "sub/good.mp4": _mp4(12),
}
NOT_UTF8 = b"broken-\xff\xfe.mp4"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tmp_path_factory.mktemp("in"), {name: bad.data for name, bad in BAD.items()} | GOOD)
    Path(os.fsdecode(os.fsencode(folder) + b"/" + NOT_UTF8)).write_bytes(_mp4(10))
    (folder / "readme.txt").write_text("not a video, and not taken for one")
    (folder / "dangling.mp4").symlink_to(folder / "nothing-here")
    return folder


def test_a_folder_of_broken_and_hostile_files_is_accounted_for_to_the_last(
    corpus: Path, tmp_path: Path, cluster: Cluster
) -> None:
    done = run(corpus, tmp_path / "out", [*LOSSLESS, "clip.frames=10"], env=cluster.job_env())
    assert done.code == 3, done.text
    output = Output.of(tmp_path / "out")
    output.check_settled()
    assert set(output.videos) == set(GOOD)
    for name, frames in zip(GOOD, (30, 20, 10, 12), strict=True):
        assert len(output.frames(name)) == 2 * frames

    rows = {row["uri"].removeprefix(f"{corpus}/"): row for row in output.quarantine() if row["clip"] is None}
    not_utf8 = next(name for name in rows if name.startswith("broken-"))
    assert "not UTF-8" in rows.pop(not_utf8)["message"]
    assert set(rows) == set(BAD)
    for name, bad in BAD.items():
        row = rows[name]
        assert row["stage"] in bad.stages, row
        assert bad.says in row["message"], row["message"]
        assert row["attempts"] == 1, "trying again would not help"
        assert len(row["message"]) > 20
        assert row["error_type"] in ("UnreadableVideo", "CorruptVideo", "LimitExceeded", "UnsupportedVideo"), row
        assert (row["prefix_uri"] is not None) == bad.prefix, row
        if bad.prefix:
            assert 0 < row["prefix_frames"] < 96
            assert row["pts"] is not None, "how far it got"
            kept = frames_of(Path(row["prefix_uri"]))
            assert len(kept) == row["prefix_frames"]
            assert [time for time, _ in kept] == sorted({time for time, _ in kept})
    assert output.summary["videos_committed"] == len(GOOD)
    assert output.summary["in_quarantine"] == len(output.quarantine())
    for name in ("text.mp4", "empty.mp4"):
        assert f"quarantined: {corpus / name}" in done.text
    assert not [path for path in tmp_path.rglob("*") if path.name == "escape.mp4"]


def test_the_good_beginning_is_what_an_intact_file_would_have_given(tmp_path: Path, cluster: Cluster) -> None:
    whole = _mp4(60)
    source = write(tmp_path / "in", {"whole.mp4": whole, "cut.mp4": cut(whole, 0.6)})
    done = run(source, tmp_path / "out", [*LOSSLESS, "clip.frames=7"], env=cluster.job_env())
    assert done.code == 3, done.text
    output = Output.of(tmp_path / "out")
    output.check_settled()
    (prefix,) = output.below("_motionmill/quarantine/video/")
    kept, intact = frames_of(output.files[prefix]), output.frames("whole.mp4")
    assert 40 < len(kept) < 110
    assert kept[:-1] == intact[: len(kept) - 1]
    assert kept[-1] == intact[len(kept) - 1], "the last one is a source frame"


@pytest.mark.slow
def test_videos_that_vanish_or_change_while_the_run_is_on_are_their_own_fault_alone(
    tmp_path: Path, cluster: Cluster
) -> None:
    write(tmp_path / "in", {"a-good.mp4": _mp4(20), "z-good.mp4": _mp4(24), "next.mp4": _mp4(30)})
    listing = tmp_path / "in" / "list.txt"
    listing.write_text("a-good.mp4\nmissing.mp4\nz-good.mp4\nnext.mp4\nftp://elsewhere/x.mp4\n\n# a remark\n")
    done = run(listing, tmp_path / "out", [*LOSSLESS, "clip.frames=10"], env=cluster.job_env())
    assert done.code == 3, done.text
    output = Output.of(tmp_path / "out")
    output.check_settled()
    assert output.videos == ["a-good.mp4", "next.mp4", "z-good.mp4"]
    assert sorted(row["error_type"] for row in output.quarantine()) == ["UnreadableVideo", "UnreadableVideo"]
    assert any("missing.mp4" in row["member"] for row in output.quarantine())

    # A new version of an input replaces the old one's output, and the old version's traces go.
    (tmp_path / "in" / "next.mp4").write_bytes(_mp4(33))
    (tmp_path / "in" / "missing.mp4").write_bytes(_mp4(9))
    done = run(listing, tmp_path / "out", [*LOSSLESS, "clip.frames=10"], ["--retry-quarantined"], env=cluster.job_env())
    assert done.code == 3, done.text
    output = Output.of(tmp_path / "out")
    output.check_settled()
    assert len(output.commits) == 5
    assert len(output.frames("next.mp4")) == 66
    assert len(output.frames("missing.mp4")) == 18
    assert len(output.quarantine()) == 1
