from __future__ import annotations

import collections
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from steel_batch.engine.ring import SlotRing
from steel_batch.errors import EngineError


def test_a_slot_is_held_by_one_thread_at_a_time() -> None:
    ring = SlotRing([collections.Counter[str]() for _ in range(3)])
    clashes: list[str] = []
    in_flight = collections.Counter[str]()
    lock = threading.Lock()

    def work(_: int) -> None:
        with ring.acquire() as slot:
            slot["holders"] += 1
            with lock:
                in_flight["now"] += 1
                in_flight["most"] = max(in_flight["most"], in_flight["now"])
            if slot["holders"] != 1:
                clashes.append("two holders")
            time.sleep(0.001)
            slot["holders"] -= 1
            with lock:
                in_flight["now"] -= 1

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(work, range(200)))
    assert clashes == []
    assert in_flight["most"] == 3


def test_a_slot_comes_back_when_its_batch_fails() -> None:
    ring = SlotRing(["only"])
    with pytest.raises(ValueError, match="bad batch"), ring.acquire():
        raise ValueError("bad batch")
    with ring.acquire() as slot:
        assert slot == "only"


def test_the_slot_that_was_idle_longest_is_next() -> None:
    ring = SlotRing([1, 2])
    seen = []
    for _ in range(4):
        with ring.acquire() as slot:
            seen.append(slot)
    assert seen == [1, 2, 1, 2]


def test_close_waits_for_the_batch_in_flight_and_frees_each_slot_once() -> None:
    ring = SlotRing([1, 2])
    begun, finish = threading.Event(), threading.Event()
    finished: list[float] = []

    def hold() -> None:
        with ring.acquire():
            begun.set()
            finish.wait()
            finished.append(time.monotonic())

    def close() -> tuple[list[int], float]:
        return ring.close(), time.monotonic()

    with ThreadPoolExecutor(3) as threads:
        held = threads.submit(hold)
        begun.wait()
        closing = [threads.submit(close) for _ in range(2)]
        time.sleep(0.05)
        finish.set()
        closes = [future.result(timeout=100) for future in closing]
        held.result()
    assert sorted(slot for freed, _ in closes for slot in freed) == [1, 2]
    assert all(ended >= finished[0] for _, ended in closes)


def test_who_waits_for_a_slot_is_told_of_the_close() -> None:
    ring = SlotRing([1])
    begun, finish = threading.Event(), threading.Event()

    def hold() -> None:
        with ring.acquire():
            begun.set()
            finish.wait()

    def wait_for_it() -> None:
        with ring.acquire():
            pass

    with ThreadPoolExecutor(3) as threads:
        threads.submit(hold)
        begun.wait()
        waiting = threads.submit(wait_for_it)
        time.sleep(0.05)
        closing = threads.submit(ring.close)
        with pytest.raises(EngineError, match="was closed"):
            waiting.result(timeout=100)
        finish.set()
        assert closing.result(timeout=100) == [1]
    with pytest.raises(EngineError, match="was closed"):
        wait_for_it()
