"""Turns are taken one at a time on a store where a put decides nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from steel_batch.errors import LockHeldError
from steel_batch.lake import Lake
from steel_batch.lake.turns import Turn
from tests.conftest import new_bucket

pytestmark = pytest.mark.s3
PLACE = "locks/turns/test"


@pytest.fixture
def store(ignoring_endpoint: str) -> Lake:
    lake = Lake(f"{new_bucket(ignoring_endpoint)}/store", endpoint_url=ignoring_endpoint)
    return lake.for_single_writer()


def at_once(num: int, act: Callable[[int], None]) -> None:
    start = threading.Barrier(num)

    def run(number: int) -> None:
        start.wait()
        act(number)

    with ThreadPoolExecutor(num) as pool:
        list(pool.map(run, range(num)))


def test_of_eight_at_once_each_is_alone_and_all_have_their_turn(store: Lake) -> None:
    """Each contender reads a number and writes it back increased; two at once would lose steps."""
    store.write("count", b"0")
    inside: list[int] = []

    def add(number: int) -> None:
        for _ in range(2):
            with Turn(store, PLACE):
                inside.append(number)
                assert inside == [number]
                count = int(store.read("count"))
                store.write("count", str(count + 1).encode())
                inside.remove(number)

    at_once(8, add)
    assert store.read("count") == b"16"
    assert [item.key for item in store.list_objects()] == ["count"]


def test_the_flag_of_one_that_died_does_not_keep_the_others_for_long(store: Lake) -> None:
    store.write(f"{PLACE}/000000000000000-dead.json", b"dead")
    started = time.monotonic()
    with Turn(store, PLACE, flag_seconds=0.5):
        assert time.monotonic() - started >= 0.5


def test_a_flag_that_is_renewed_is_waited_for_until_the_patience_ends(store: Lake) -> None:
    with (
        Turn(store, PLACE, flag_seconds=0.4),
        pytest.raises(LockHeldError, match="run the same command again"),
        Turn(store, PLACE, flag_seconds=1.5, wait_seconds=4.0),
    ):
        raise AssertionError("two at once")
    assert list(store.list_objects()) == []
