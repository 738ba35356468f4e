"""A seeded sample of the mutation corpus, and videos muxed in every way that hypothesis thinks of."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.corpus.judge import plain_decode
from tests.corpus.mutate import MUTATIONS, mutant
from tests.corpus.run import run
from tests.corpus.sandbox import Sandbox
from tests.corpus.seeds import seeds
from tests.media_factory import make_video

SAMPLE = range(7000, 7060)


def test_each_damaged_file_is_committed_with_correct_frames_or_refused(tmp_path: Path) -> None:
    totals = run(SAMPLE, seed=8, keep=tmp_path)
    assert not totals.wrong, totals.text()
    assert totals.files == len(SAMPLE)
    assert totals.outcomes["committed"] + totals.outcomes["refused"] == totals.files
    assert len(totals.by_mutation) == len(MUTATIONS), "every mutation is in the sample"
    assert min(totals.outcomes["committed"], totals.outcomes["refused"]) > 10


def test_sound_whose_sizes_lie_is_the_video_s_fault() -> None:
    totals = run([1950])  # a packet of gigabytes, by its header
    assert not totals.wrong, totals.text()
    assert totals.errors["CorruptVideo"] == 1


def test_a_mutant_is_the_same_every_time() -> None:
    assert mutant(3, 8).data == mutant(3, 8).data != mutant(3 + len(seeds()), 8).data


def test_a_worker_that_dies_or_hangs_is_told_apart_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(seeds()[0].data)
    with Sandbox(tmp_path / "log") as sandbox:
        assert sandbox.examine(path)["outcome"] == "committed"
        assert sandbox._process is not None
        sandbox._process.kill()
        assert sandbox.examine(path)["outcome"] == "died"
        assert sandbox.examine(path)["outcome"] == "committed"
        assert sandbox.deaths == 1


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("sandbox") / "log") as made:
        yield made


X264 = st.fixed_dictionaries(
    {"preset": st.just("ultrafast")},
    optional={"x264-params": st.sampled_from(["bframes=3", "bframes=2:open-gop=1", "intra-refresh=1", "slices=3"])},
)


@st.composite
def videos(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Arguments of `make_video`: containers, rates, uneven times, groups of pictures, late starts, sizes, sound."""
    container = draw(st.sampled_from(["mp4", "matroska", "mov", "mpegts"]))
    frames = draw(st.integers(1, 30))
    even = draw(st.booleans())
    made: dict[str, Any] = {
        "frames": frames,
        "gop": draw(st.integers(1, 20)),
        "size": (draw(st.integers(9, 40)) * 2, draw(st.integers(9, 40)) * 2),
        "options": dict(draw(X264)),
        "audio": draw(st.booleans()) and frames > 2,
        "rate": draw(st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(1, 2)])),
    }
    if not even:
        steps = draw(st.lists(st.integers(10, 500), min_size=frames, max_size=frames))
        made["pts"] = (np.cumsum(steps) - steps[0] + draw(st.integers(0, 5000))).tolist()
        made["time_base"] = Fraction(1, 1000)
    if container in ("mp4", "mov") and not made["audio"]:  # see the next test
        flags = draw(st.sampled_from(["", "frag_keyframe+empty_moov", "frag_every_frame+empty_moov"]))
        made["container_options"] = {"movflags": flags} if flags else {}
    return container, made


SLOW_WITH_SOUND: dict[str, Any] = {
    "frames": 10, "gop": 1, "size": (18, 18), "options": {"preset": "ultrafast"}, "audio": True, "rate": Fraction(1, 2),
}  # fmt: skip
"""Its sound's packets come without durations, and the last was lost in MP4."""


@given(videos())
@example(video=("matroska", SLOW_WITH_SOUND))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_what_a_muxer_can_write_is_committed_frame_by_frame(
    sandbox: Sandbox, video: tuple[str, dict[str, Any]]
) -> None:
    container, arguments = video
    data = make_video(container=container, **arguments)
    path = sandbox.log.with_name("video.bin")
    path.write_bytes(data)
    answer = sandbox.examine(path)
    assert answer["outcome"] == "committed", answer
    plain, failure = plain_decode(data)
    assert not failure
    assert len(plain) == arguments["frames"]
    assert [digest for _, digest in answer["frames"]][::2] == plain
    times = [Fraction(time) for time, _ in answer["frames"]]
    assert times == sorted({*times})


def test_sound_with_two_packets_at_one_time_is_refused_with_the_remedy(sandbox: Sandbox) -> None:
    """FFmpeg writes fragments so where they are shorter than a packet of sound."""
    fragments = {"movflags": "frag_every_frame+empty_moov"}
    path = sandbox.log.with_name("fragments.bin")
    path.write_bytes(
        make_video(frames=3, gop=1, audio=True, options={"preset": "ultrafast"}, container_options=fragments)
    )
    answer = sandbox.examine(path)
    assert (answer["outcome"], answer.get("error")) == ("refused", "UnsupportedVideo"), answer
    assert "does not take its packet" in answer["message"]
    assert "genpts" in answer["message"]


def test_the_plain_decoder_is_plain() -> None:
    with av.open(str(Path(__file__).parents[2] / "jobs" / "samples" / "bigbuckbunny.mp4")) as container:
        frames = sum(1 for _ in container.decode(video=0))
    whole = Path(__file__).parents[2] / "jobs" / "samples" / "bigbuckbunny.mp4"
    assert len(plain_decode(whole.read_bytes())[0]) == frames
