"""Threads that score batches: those of a run's first shard before all others.

The first shard of a run is small, so that its receipt soon shows how the run goes. Other shards may
reach an actor together with it, or before.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Done = TypeVar("Done")


class BatchThreads(Generic[Done]):
    """Does work in threads, in the order in which it was submitted but for what goes first.

    Args:
        num_threads: How many threads there are.
    """

    def __init__(self, num_threads: int) -> None:
        self._threads = ThreadPoolExecutor(num_threads, "batch")
        self._waiting: list[tuple[bool, int, Future[Done], Callable[[], Done]]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], Done], *, goes_first: bool) -> Future[Done]:
        """Have a thread do some work.

        Args:
            work: What to do.
            goes_first: Whether to do it before what waits and does not go first.

        Raises:
            RuntimeError: The threads were stopped.
        """
        future: Future[Done] = Future()
        with self._lock:
            self._threads.submit(self._do_next)
            heapq.heappush(self._waiting, (not goes_first, next(self._numbers), future, work))
        return future

    def _do_next(self) -> None:
        with self._lock:
            if not self._waiting:  # it was cancelled
                return
            _, _, future, work = heapq.heappop(self._waiting)
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised by who waits
            future.set_exception(error)
        finally:
            del future, work  # or the error's traceback would keep the shard in memory

    def shutdown(self) -> None:
        """Cancel what waits, and stop the threads once they are done."""
        self._cancel()
        self._threads.shutdown(cancel_futures=True)
        self._cancel()  # what was submitted meanwhile

    def _cancel(self) -> None:
        with self._lock:
            while self._waiting:
                self._waiting.pop()[2].cancel()
