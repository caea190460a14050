"""Many streams as one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from steel_batch.sources.parallel import QUEUE_LENGTH, expand_parallel


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
            yield from [n] * 2 * QUEUE_LENGTH
        finally:
            closed.append("expand")

    before = set(threading.enumerate())
    stream = expand_parallel(items(), expand, num_threads=2)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before
    assert sorted(closed) == ["expand", "expand", "items"]
