"""Threads on either side of the model: order, bounds, errors, and never a hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from pipeline.tasks.stages import Ahead, Bare, Behind

pytestmark = pytest.mark.timeout(30)


def eventually(holds: Callable[[], bool], limit_s: float = 10.0) -> bool:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.005)
    return False


def alive(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())


def test_items_come_in_order_and_the_thread_ends() -> None:
    stage = Ahead(iter(range(100)), 3, "ordered")
    assert list(stage) == list(range(100))
    stage.close()
    assert not alive("ordered")


def test_an_error_comes_after_the_good_items_before_it() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise LookupError("the sixth is broken")

    seen: list[int] = []
    stage = Ahead(source(), 10, "failing")
    with pytest.raises(LookupError, match="sixth"):
        seen.extend(stage)
    assert seen == [0, 1, 2, 3, 4]
    stage.close()
    assert not alive("failing")


@pytest.mark.parametrize("size", [1, 2, 8])
def test_the_iterator_is_never_more_than_size_items_ahead(size: int) -> None:
    made = 0

    def source() -> Iterator[int]:
        nonlocal made
        for index in range(40):
            made += 1
            yield index

    stage = Ahead(source(), size, "bounded")
    taken = 0
    for _ in stage:
        taken += 1
        assert eventually(lambda: made == min(40, taken + size)), "it uses the room that it has"  # noqa: B023
        time.sleep(0.002)
        assert made <= taken + size
    assert taken == 40


def test_closing_early_stops_the_thread_and_closes_the_generator() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    stage = Ahead(source(), 2, "closed early")
    assert next(iter(stage)) == 1
    started = time.monotonic()
    stage.close()
    stage.close()
    assert time.monotonic() - started < 5
    assert closed.is_set()
    assert not alive("closed early")


def test_iterating_a_stage_that_has_ended_does_not_wait_for_more() -> None:
    stage = Ahead(iter([1]), 2, "ended")
    assert list(stage) == [1]
    assert list(stage) == []
    stage.close()
    assert list(stage) == []


def test_an_error_while_the_iterator_is_closed_reaches_the_consumer() -> None:
    class Source:
        """A generator whose cleaning up fails."""

        def __call__(self) -> Iterator[int]:
            try:
                yield 1
            finally:
                raise OSError("the file would not close")

    with pytest.raises(OSError, match="would not close"):
        list(Ahead(Source()(), 2, "bad close"))


def test_time_is_put_down_to_who_spent_it() -> None:
    def slow() -> Iterator[int]:
        for index in range(5):
            time.sleep(0.02)
            yield index

    stage = Ahead(slow(), 2, "slow source")
    list(stage)
    assert stage.busy_s >= 0.1
    assert stage.waited_s >= 0.05


def test_everything_put_is_consumed_in_order_before_close_returns() -> None:
    consumed: list[int] = []
    stage: Behind[int] = Behind(consumed.append, 3, "writer")
    for index in range(100):
        stage.put(index)
    stage.close()
    assert consumed == list(range(100))
    assert not alive("writer")


def test_the_producer_waits_when_size_items_are_waiting() -> None:
    gate = threading.Event()
    began = threading.Event()
    put = 0

    def consume(item: int) -> None:
        began.set()
        gate.wait(20)

    stage: Behind[int] = Behind(consume, 2, "gated")

    def produce() -> None:
        nonlocal put
        for index in range(6):
            stage.put(index)
            put += 1

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    assert began.wait(10)
    assert eventually(lambda: put == 3)  # one being consumed, two waiting
    time.sleep(0.3)
    assert put == 3
    gate.set()
    producer.join(10)
    stage.close()
    assert put == 6
    assert stage.waited_s >= 0.25


def test_an_error_of_the_consumer_surfaces_in_put_even_when_the_queue_is_full() -> None:
    def consume(item: int) -> None:
        time.sleep(0.05)
        raise ValueError(f"cannot write {item}")

    stage: Behind[int] = Behind(consume, 1, "failing writer")

    def produce() -> None:
        for index in range(10):
            stage.put(index)

    with pytest.raises(ValueError, match="cannot write 0"):
        produce()
    stage.abandon()
    assert not alive("failing writer")


def test_an_error_on_the_last_item_surfaces_in_close() -> None:
    def consume(item: int) -> None:
        raise ValueError("disk full")

    stage: Behind[int] = Behind(consume, 4, "late error")
    stage.put(1)
    with pytest.raises(ValueError, match="disk full"):
        stage.close()
    assert not alive("late error")


def test_abandoning_drops_what_waits_and_ends_the_thread() -> None:
    consumed: list[int] = []
    gate = threading.Event()

    def consume(item: int) -> None:
        gate.wait(20)
        consumed.append(item)

    stage: Behind[int] = Behind(consume, 5, "abandoned")
    for index in range(5):
        stage.put(index)
    threading.Timer(0.1, gate.set).start()
    stage.abandon()
    assert len(consumed) <= 1
    assert not alive("abandoned")


def test_a_stage_that_rests_has_nothing_to_do() -> None:
    made = 0

    def source() -> Iterator[int]:
        nonlocal made
        for index in range(6):
            time.sleep(0.01)
            made += 1
            yield index

    stage = Ahead(source(), 3, "resting")
    stage.rest()
    assert made == 3
    taken = iter(stage)
    for expected in (4, 5, 6, 6, 6, 6):
        next(taken)
        stage.rest()
        assert made == expected
    stage.close()
    stage.rest()  # also after its end

    consumed: list[int] = []
    behind = Behind(lambda item: (time.sleep(0.01), consumed.append(item))[1], 4, "written")
    behind.rest()
    for item in range(3):
        behind.put(item)
    behind.rest()
    assert consumed == [0, 1, 2]
    behind.close()

    def fail(item: int) -> None:
        raise OSError("disk full")

    broken: Behind[int] = Behind(fail, 4, "broken")
    broken.put(1)
    broken.rest()  # although it was not consumed
    with pytest.raises(OSError, match="disk full"):
        broken.close()


def test_a_stage_that_has_just_ended_rests() -> None:
    """Its thread may not be gone yet when the last item is taken: nobody would say that it went."""
    for _ in range(300):
        stage = Ahead(iter(range(2)), 4, "ending")
        for _item in stage:
            stage.rest()
        stage.rest()
        stage.close()


def clip_of(bare: Bare, steps: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Gives a clip's pictures, each (work, seconds), to the measurement."""
    work = seconds = 0.0
    bare.begin()
    for more, took in steps:
        work, seconds = work + more, seconds + took
        bare.made(work, seconds)
    return bare.result()


def test_the_bare_model_is_timed_without_its_first_picture() -> None:
    bare = Bare()
    assert clip_of(bare, [(10, 0.9), (10, 0.1), (0, 0.0), (20, 0.2)]) == pytest.approx((30, 0.3))
    assert clip_of(bare, [(10, 1.0)] * 9) == (0, 0), "once an actor"


def test_few_pictures_suffice() -> None:
    assert clip_of(Bare(), [(1, 0.01)] * 90) == pytest.approx((Bare.PICTURES, 0.01 * Bare.PICTURES))
    assert clip_of(Bare(), [(1, 0.6)] * 90) == pytest.approx((2, 1.2)), "or fewer, when they are slow"


def test_batches_are_timed_whole() -> None:
    steps = [(4, 1.0), (4, 0.0), (4, 0.3), (4, 0.0), (4, 0.3), (4, 0.0), (4, 0.9)]
    assert clip_of(Bare(2), steps) == pytest.approx((16, 0.6)), "the last batch is not complete"


def test_what_a_clip_that_failed_had_measured_does_not_count() -> None:
    bare = Bare()
    bare.begin()
    bare.made(10, 5.0)
    bare.made(20, 6.0)
    assert clip_of(bare, [(1, 0.5), (1, 0.25)]) == (1, 0.25)


def test_a_clip_too_short_to_time_leaves_it_to_the_next() -> None:
    bare = Bare()
    assert clip_of(bare, [(10, 1.0)]) == (0, 0)
    assert clip_of(bare, [(10, 1.0), (10, 0.5)]) == (10, 0.5)
