"""Reads many streams at once as one, in constant memory."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from steel_batch import interrupt

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_SECONDS = 0.2
CHUNK = 100
"""Results passed between threads at a time: one by one, passing costs more than most of them."""


def expand_parallel(
    items: Iterator[Item],
    expand: Callable[[Item], Iterator[Result]],
    *,
    num_threads: int,
    chunk: int = CHUNK,
) -> Generator[Result, None, None]:
    """Yield the results of `expand` for every item, several items at once, in no particular order.

    Args:
        items: Must not contain None; taken one at a time, as threads become free; closed at the
            end.
        expand: Called in threads.
        num_threads: How many items are expanded at once.
        chunk: How many results are passed between threads at a time; 1 if each is large.

    Raises:
        BaseException: The first exception of `items` or `expand`; the other threads are stopped.
        Interrupted: A signal asked to stop.
    """
    # One chunk of each thread waits to be taken: more would only take memory.
    found: queue.Queue[list[Result] | BaseException | None] = queue.Queue(num_threads)
    stop = threading.Event()
    taking = threading.Lock()

    def put(entry: list[Result] | BaseException | None) -> None:
        while not stop.is_set():
            try:
                found.put(entry, timeout=0.2)
            except queue.Full:
                continue
            return

    threads: list[threading.Thread] = []

    def start() -> None:
        """Start a thread; called with `taking` held, so that it begins when it is counted."""
        thread = threading.Thread(target=work, name=f"expand-{len(threads)}", daemon=True)
        thread.start()
        threads.append(thread)  # by a thread that has not ended, so that none is missed

    def work() -> None:
        try:
            while not stop.is_set():
                with taking:
                    item = next(items, None)
                    if item is not None and len(threads) < num_threads and not stop.is_set():
                        start()  # for the next item: few items need few threads
                if item is None:
                    break
                results = expand(item)
                while found_now := list(itertools.islice(results, chunk)):
                    put(found_now)
                    if stop.is_set():
                        break
                _close(results)
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
            put(error)
        put(None)

    num_ended = 0
    try:
        with taking:
            start()
        while num_ended < len(threads):
            try:
                entry = found.get(timeout=POLL_SECONDS)
            except queue.Empty:
                interrupt.check()
                continue
            if entry is None:
                num_ended += 1
            elif isinstance(entry, BaseException):
                raise entry
            else:
                yield from entry
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        _close(items)


def _close(stream: Iterator[object]) -> None:
    if isinstance(stream, Generator):
        stream.close()
