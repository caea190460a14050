"""The first shard's batches are scored before others that wait."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import CancelledError
from functools import partial

import pytest

from steel_batch.scoring.batch_threads import BatchThreads


def held(threads: BatchThreads[None], until: threading.Event) -> None:
    """Keep the only thread busy until an event."""
    is_held = threading.Event()

    def hold() -> None:
        is_held.set()
        until.wait()

    threads.submit(hold, goes_first=False)
    is_held.wait()


def test_what_goes_first_is_done_before_what_waits_and_otherwise_in_order() -> None:
    threads, until, done = BatchThreads[None](1), threading.Event(), list[str]()
    held(threads, until)
    submitted = [
        threads.submit(partial(done.append, name), goes_first=name.startswith("first"))
        for name in ("a", "b", "first a", "c", "first b")
    ]
    until.set()
    for future in submitted:
        future.result()
    threads.shutdown()
    assert done == ["first a", "first b", "a", "b", "c"]


def test_an_error_is_raised_by_who_waits_and_the_thread_works_on() -> None:
    threads = BatchThreads[int](1)
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0, goes_first=False).result()
    assert threads.submit(lambda: 7, goes_first=False).result() == 7
    threads.shutdown()
    with pytest.raises(RuntimeError):
        threads.submit(lambda: 7, goes_first=False)


def test_stopping_cancels_what_waits() -> None:
    threads, until = BatchThreads[None](1), threading.Event()
    held(threads, until)
    waiting = threads.submit(lambda: None, goes_first=True)
    stopping = threading.Thread(target=threads.shutdown)
    stopping.start()
    with pytest.raises(CancelledError):
        waiting.result()
    until.set()
    stopping.join()


def test_a_failure_does_not_keep_its_work_in_memory() -> None:
    class Shard:
        """What the work holds."""

    def fail(shard: Shard) -> None:
        raise RuntimeError(repr(shard))

    threads, shard = BatchThreads[None](1), Shard()
    seen = weakref.ref(shard)
    gc.disable()
    try:
        future = threads.submit(partial(fail, shard), goes_first=False)
        del shard
        with pytest.raises(RuntimeError):
            future.result()
        del future
        threads.shutdown()
        assert seen() is None
    finally:
        gc.enable()
