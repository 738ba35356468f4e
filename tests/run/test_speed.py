"""Where the actors' time went: synthetic receipts with known times, and shares that add up."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.run.rows import Receipt, Row, Times
from pipeline.run.speed import CAUSES, Clock, Speed
from pipeline.types import ClipRef, KeyPacket, VideoRef

VIDEO = VideoRef("s3://in/a.mp4", "1", "a.mp4", 10)
CLIP = ClipRef(VIDEO, 0, 1, 0, 8, 0, 8, Fraction(1, 24), 0, 1, KeyPacket(0, 0, 0), 0)
T0 = 1_000_000.0


def receipt(
    worker: str, began: float, span: float, *, model: float, starved: float = 0.0, blocked: float = 0.0,
    after: float = 0.0, work: float = 0.0, bare: tuple[float, float] = (0.0, 0.0), frames: int = 10, born: float = 1.0,
    check: float = 0.0,
) -> Receipt:  # fmt: skip
    """Moments in seconds after T0."""
    seconds = {"model": model, "decode_starved": starved, "encode_blocked": blocked, "self_check": check, "total": span}
    times = Times(worker, T0 + born, T0 + born + 1, T0 + began, span, 0.1, after, work, bare)
    return Receipt(Row("clip", VIDEO, clip=CLIP), "ok", frames, seconds, times=times)


def speed_of(receipts: list[Receipt], actors: int, ended: float) -> Speed:
    clock = Clock()
    for one in receipts:
        clock.add(one)
    found = clock.speed(actors, T0, T0 + ended)
    assert found is not None
    return found


def test_every_cause_gets_its_time() -> None:
    """Two actors, 20 seconds each. a: clips 4..10 and 11..16; b: one clip 4..12; everything ends at 20."""
    found = speed_of(
        [
            receipt("a", 4, 6, model=4.0, starved=1.0, blocked=0.5, after=0.25, work=80, bare=(20, 0.8)),
            receipt("b", 4, 8, model=6.0, starved=0.5, blocked=0.0, after=0.5, work=120, bare=(20, 0.8), check=0.5),
            receipt("a", 11, 5, model=4.0, after=1.0, work=80),
        ],
        actors=2,
        ended=20,
    )
    seconds = {name: share * 40 for name, share in found.shares.items()}
    assert seconds == pytest.approx(
        {
            "model": 280 * 0.04,  # 1.6 s for 40 units, alone
            "contention": 14 - 280 * 0.04,
            "self_check": 0.5,
            "starved": 1.5,
            "blocked": 0.5 + 1.75,
            "start_up": 8,
            "waiting": 1,
            "tail": 4,
            "joining": 8,
            "other": 19 - 14 - 0.5 - 1.5 - 2.25,
        },
        abs=0.01,
    )
    assert found.calibrated
    assert found.reached == 30 / 20
    assert found.ceiling == pytest.approx(30 / (280 * 0.04) * 2, rel=1e-3)
    assert found.reached / found.ceiling == pytest.approx(found.shares["model"], rel=1e-3)
    assert [name for name, _ in found.lost()][:3] == ["start_up", "joining", "tail"]


def test_an_actor_without_a_clip_was_idle() -> None:
    found = speed_of([receipt("a", 2, 6, model=6.0)], actors=2, ended=10)
    assert found.shares["tail"] == pytest.approx(8 / 20)
    assert not found.calibrated
    assert found.shares["contention"] == 0


def test_a_run_that_beats_its_calibration_is_its_own_bound() -> None:
    found = speed_of([receipt("a", 0, 6, model=5.0, work=10, bare=(1, 9.0))], actors=1, ended=6)
    assert found.shares["model"] == pytest.approx(5 / 6, abs=1e-4)
    assert found.ceiling == pytest.approx(2.0)


def test_the_time_between_a_worker_s_death_and_its_successor_s_first_clip_is_not_start_up() -> None:
    found = speed_of(
        [
            receipt("dead", 2, 2, model=2.0, born=1),
            receipt("other", 2, 18, model=18.0, born=1),
            receipt("successor", 10, 10, model=10.0, born=8),
        ],
        actors=2,
        ended=20,
    )
    assert found.shares["start_up"] == pytest.approx(4 / 40)
    assert found.shares["tail"] == 0
    assert found.shares["other"] == pytest.approx(6 / 40)


def test_nothing_made_has_no_speed() -> None:
    assert Clock().speed(2, T0, T0 + 9) is None
    clock = Clock()
    clock.add(Receipt(Row("clip", VIDEO, clip=CLIP), "ok", 10))  # of an older worker: no times
    assert clock.speed(2, T0, T0 + 9) is None


PART = st.floats(0, 30)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.floats(-5, 100), PART, PART, PART, PART, PART, PART), min_size=1),
    st.integers(1, 6),
    st.floats(0.1, 120),
)
@example([("a", -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)], 2, 1.0)  # ended before the job began, by its clock
def test_shares_add_up_whatever_the_clocks_say(
    clips: list[tuple[str, float, float, float, float, float, float, float]], actors: int, ended: float
) -> None:
    receipts = [
        receipt(worker, began, span, model=model, starved=starved, blocked=blocked, after=after, work=1, bare=(1, bare))
        for worker, began, span, model, starved, blocked, after, bare in clips
    ]
    found = speed_of(receipts, actors, ended)
    assert sum(found.shares.values()) == pytest.approx(1, abs=0.001)
    assert all(share >= 0 for share in found.shares.values())
    assert set(found.shares) == set(CAUSES)
