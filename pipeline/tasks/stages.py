"""Threads on either side of the model: decode runs ahead of it, encode follows behind it, both in bounded queues.

The threads are daemons and watch a stop flag: a Ray actor that ends never waits for them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.2
_GLANCE_S = 0.001


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Ahead(Generic[T]):
    """Runs an iterator on a background thread, at most `size` items ahead. An error arrives after the items before it.

    An item counts from when its making begins until the consumer takes it: memory holds `size` of them, and no more.
    `busy_s` is the time that the iterator itself took; `waited_s` the time that the consumer waited for it.
    """

    def __init__(self, source: Iterator[T], size: int, name: str) -> None:
        self.busy_s = 0.0
        self.waited_s = 0.0
        self._source = source
        self._queue: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._room = size
        self._resting = False
        """The thread waits for room."""
        self._ended = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            started = time.perf_counter()
            item = self._queue.get()
            self.waited_s += time.perf_counter() - started
            if isinstance(item, _End):
                self._queue.put(item)  # for whoever asks again
                if item.error is not None:
                    raise item.error
                return
            with self._changed:
                self._room += 1
                self._resting = False
                self._changed.notify_all()
            yield item

    def rest(self) -> None:
        """Waits until the thread has nothing to do: it is as far ahead as it may be, or at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._resting or self._ended)

    def close(self) -> None:
        """Stops the thread and closes the iterator; safe to call twice."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _may_go_on(self) -> bool:
        """Waits for room, and takes it; False when the thread must end."""
        with self._changed:
            while not self._room and not self._stopped:
                self._resting = True
                self._changed.notify_all()
                self._changed.wait()
            self._room -= 1
            return not self._stopped

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            while self._may_go_on():
                started = time.perf_counter()
                try:
                    item = next(self._source)
                except StopIteration:
                    break
                finally:
                    self.busy_s += time.perf_counter() - started
                self._queue.put(item)
            if isinstance(self._source, Generator):
                self._source.close()
        except BaseException as caught:
            error = caught
        self._queue.put(_End(error))
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Behind(Generic[T]):
    """Hands items to `consume` on a background thread, at most `size` waiting. Its errors surface in put() or close().

    `busy_s` is the time that `consume` took; `waited_s` the time that the producer waited for room.
    """

    def __init__(self, consume: Callable[[T], None], size: int, name: str) -> None:
        self.busy_s = 0.0
        self.waited_s = 0.0
        self._consume = consume
        self._queue: queue.Queue[T | _End] = queue.Queue(size)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        self._offer(item)

    def rest(self) -> None:
        """Waits until everything put so far has been consumed, or cannot be."""
        while self._queue.unfinished_tasks and self._error is None:
            time.sleep(_GLANCE_S)

    def close(self) -> None:
        """Waits until everything put has been consumed."""
        self._offer(_End(None))
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Ends the thread without consuming what still waits."""
        if self._error is None:
            self._error = RuntimeError("abandoned")
        self._thread.join()

    def _offer(self, item: T | _End) -> None:
        started = time.perf_counter()
        try:
            while True:
                if self._error is not None:
                    raise self._error
                try:
                    return self._queue.put(item, timeout=_POLL_S)
                except queue.Full:
                    continue
        finally:
            self.waited_s += time.perf_counter() - started

    def _run(self) -> None:
        while self._error is None:
            try:
                item = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if isinstance(item, _End):
                return
            started = time.perf_counter()
            try:
                self._consume(item)
            except BaseException as error:
                self._error = error
            self.busy_s += time.perf_counter() - started
            self._queue.task_done()


class Bare:
    """How fast the model is while neither decoding nor encoding takes anything from it.

    Measured on an actor's first pictures, which wait until the threads on both sides rest; the first of all, which
    warms caches and compiles kernels, does not count. Nothing is computed that the run does not need. `work` is in any
    unit that is proportional to the model's effort (FLOPs, pixels made), the same for the whole run.
    """

    PICTURES = 4
    ENOUGH_S = 1.0

    def __init__(self, batch: int = 1) -> None:
        """`batch`: pictures that the model makes at a time."""
        self._batch = batch
        self._over = False
        self.begin()

    def begin(self) -> None:
        """Before each clip: what a clip that failed left unfinished does not count."""
        self._pictures = 0
        self._first: tuple[float, float] | None = None
        """(work, model seconds) of the clip when counting began."""
        self._found = (0.0, 0.0)
        self._enough = self._over

    def settle(self, decoder: Ahead[Any], writer: Behind[Any] | None) -> None:
        """Before each picture: while the measurement lasts, waits until the model has the process for itself."""
        if not self._enough:
            if writer is not None:
                writer.rest()
            decoder.rest()

    def made(self, work: float, model_s: float) -> None:
        """After each picture: the clip's work and model seconds so far."""
        if self._enough:
            return
        self._pictures += 1
        if self._first is None:
            if self._pictures >= self._batch and work > 0:
                self._first, self._pictures = (work, model_s), 0
        elif self._pictures % self._batch == 0 and work > self._first[0]:
            self._found = (work - self._first[0], model_s - self._first[1])
            self._enough = self._pictures >= self.PICTURES * self._batch or self._found[1] >= self.ENOUGH_S

    def result(self) -> tuple[float, float]:
        """After each clip: (work, seconds) of what was timed in it. The first clip that gives any is the last."""
        self._over = self._over or self._found[0] > 0
        return self._found


def stage_seconds(started: float, decoder: Ahead[Any], model_s: float, writer: Behind[Any] | None) -> dict[str, float]:
    """A clip's times by stage, for its receipt; `started` by time.perf_counter, no writer where nothing was written."""
    return {
        "total": time.perf_counter() - started,
        "decode": decoder.busy_s,
        "decode_starved": decoder.waited_s,
        "model": model_s,
        "encode": writer.busy_s if writer else 0.0,
        "encode_blocked": writer.waited_s if writer else 0.0,
    }
