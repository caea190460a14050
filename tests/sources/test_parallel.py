"""Many streams as one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from steel_batch.sources.parallel import CHUNK, expand_parallel


def test_everything_arrives_once() -> None:
    found = expand_parallel(iter(range(100)), lambda n: iter([n] * n), num_threads=4)
    assert sorted(found) == [n for n in range(100) for _ in range(n)]


@pytest.mark.parametrize("fails", ["items", "expand"])
def test_an_error_reaches_the_reader(fails: str) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        if fails == "items":
            raise ValueError("broken")

    def expand(n: int) -> Iterator[int]:
        yield n
        if fails == "expand" and n == 1:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(expand_parallel(items(), expand, num_threads=3))


def test_a_reader_that_stops_closes_what_it_read_from() -> None:
    closed = []
    both_began = threading.Barrier(2)

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.append("items")

    def expand(n: int) -> Iterator[int]:
        both_began.wait()
        try:
            yield from [n] * 10 * CHUNK
        finally:
            closed.append("expand")

    before = set(threading.enumerate())
    stream = expand_parallel(items(), expand, num_threads=2)
    next(stream)
    stream.close()
    assert set(threading.enumerate()) <= before
    assert sorted(closed) == ["expand", "expand", "items"]


def test_few_chunks_wait_to_be_taken() -> None:
    made = []

    def expand(n: int) -> Iterator[int]:
        for _ in range(50):
            made.append(n)
            yield n

    stream = expand_parallel(iter(range(4)), expand, num_threads=4, chunk=1)
    num_taken = 0
    for _ in stream:
        num_taken += 1
        time.sleep(0.001)
        # Each thread has one in its hands and one waits; one of each may just be on its way.
        assert len(made) - num_taken <= 3 * 4
    assert num_taken == 200
