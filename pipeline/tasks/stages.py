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
        self._room = threading.Semaphore(size)
        self._stop = threading.Event()
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
            self._room.release()
            yield item

    def close(self) -> None:
        """Stops the thread and closes the iterator; safe to call twice."""
        self._stop.set()
        self._room.release()
        self._thread.join()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            while self._room.acquire() and not self._stop.is_set():
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
