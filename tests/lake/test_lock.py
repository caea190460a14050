"""A lease has one holder at a time, whatever holders and clocks do."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import pytest

from steel_batch.errors import LakeError, LockHeldError
from steel_batch.lake import Lake, series
from steel_batch.lake.lock import CLOCK_SKEW_SECONDS, KEPT_ENTRIES, Lease
from tests.conftest import new_bucket
from tests.fault_proxy import FaultProxy, Faults
from tests.lake.leases import EXAMPLE, NAME, is_free, lease, newest, put_entry

NUM_RIVALS = 8


def winners(tries: list[Callable[[], Lease]]) -> int:
    """How many of as many threads enter their lease, where those that do stay until all tried."""
    ready, tried = threading.Barrier(len(tries)), threading.Barrier(len(tries))

    def attempt(make: Callable[[], Lease]) -> bool:
        ready.wait()
        try:
            with make() as held:
                tried.wait()
                held.check()
                return True
        except LockHeldError:
            tried.wait()
            return False

    with ThreadPoolExecutor(len(tries)) as pool:
        return sum(pool.map(attempt, tries))


def test_of_many_that_try_at_once_one_gets_it(lake: Lake) -> None:
    for _ in range(2):
        assert winners([lambda: lease(lake)] * NUM_RIVALS) == 1


def test_of_many_that_take_over_from_a_dead_holder_at_once_one_gets_it(lake: Lake) -> None:
    for _ in range(2):
        put_entry(lake, expires_in_seconds=-CLOCK_SKEW_SECONDS)
        assert winners([lambda: lease(lake)] * NUM_RIVALS) == 1


@pytest.mark.s3
def test_a_lease_that_is_held_is_always_some_time_from_its_end_and_keeps_few_entries(
    bucket: str, s3_endpoint: str
) -> None:
    store = Lake(bucket, endpoint_url=s3_endpoint)
    with lease(store, lease_seconds=6.0) as held:  # and renewed after every third of that
        until = time.monotonic() + 6.5
        while time.monotonic() < until or max(series.numbers(store, NAME)) <= 2:
            assert newest(store).expires_at > time.time()
            assert len(series.numbers(store, NAME)) <= KEPT_ENTRIES + 1
            held.check()
            time.sleep(0.05)
    assert len(series.numbers(store, NAME)) == 1


@pytest.mark.s3
def test_a_renewal_is_one_request_and_old_entries_are_deleted_together(
    bucket: str, s3_endpoint: str
) -> None:
    num_renewals = KEPT_ENTRIES + 2
    with FaultProxy(s3_endpoint) as proxy:
        store = Lake(bucket, endpoint_url=proxy.url)
        with lease(store, lease_seconds=3.0):
            proxy.set(Faults())
            while max(series.numbers(Lake(bucket, endpoint_url=s3_endpoint), NAME)) <= num_renewals:
                time.sleep(0.05)
            assert proxy.counts()["requests"] == num_renewals + 1, "and one to delete them"
            left = series.numbers(Lake(bucket, endpoint_url=s3_endpoint), NAME)
            assert left == list(range(KEPT_ENTRIES + 1, num_renewals + 2))


@pytest.mark.parametrize("hours", [-1, 1], ids=["behind", "ahead"])
def test_a_live_lock_is_not_taken_by_whose_clock_is_wrong(lake: Lake, hours: int) -> None:
    """The holder's clock against ours: which of the two is wrong makes no difference."""
    put_entry(lake, expires_in_seconds=60.0, clock_ahead_seconds=hours * 3600.0)
    assert not is_free(lake)


@pytest.mark.parametrize("hours", [-1, 1], ids=["behind", "ahead"])
def test_a_dead_holder_whose_clock_was_wrong_keeps_the_lock_for_its_lease_and_no_longer(
    tmp_path: Path, hours: int
) -> None:
    store = Lake(str(tmp_path))
    began = time.monotonic()
    put_entry(store, expires_in_seconds=0.5, clock_ahead_seconds=hours * 3600.0)
    with lease(store, wait_seconds=30.0) as held:
        assert 0.5 + CLOCK_SKEW_SECONDS <= time.monotonic() - began < 25.0
        assert held.took_over


def test_an_entry_of_an_earlier_version_is_over_when_it_says(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    for expires_in_seconds in (60.0, -CLOCK_SKEW_SECONDS):
        entry = EXAMPLE | {"expires_at": time.time() + expires_in_seconds}
        number = max(series.numbers(store, NAME), default=0) + 1
        assert series.put_next(store, NAME, number, json.dumps(entry).encode())
        assert is_free(store) is (expires_in_seconds < 0)


def test_only_who_takes_it_from_a_holder_that_did_not_give_it_back_took_it_over(
    tmp_path: Path,
) -> None:
    store = Lake(str(tmp_path))
    for _ in range(2):
        with lease(store) as held:
            assert not held.took_over
    put_entry(store, expires_in_seconds=-CLOCK_SKEW_SECONDS)
    with lease(store) as held:
        assert held.took_over


@pytest.mark.s3
def test_on_a_store_that_does_not_decide_one_of_many_gets_it(ignoring_endpoint: str) -> None:
    url = f"{new_bucket(ignoring_endpoint)}/store"
    store = Lake(url, endpoint_url=ignoring_endpoint, single_writer=True)
    for _ in range(2):
        assert winners([lambda: lease(store)] * NUM_RIVALS) == 1


def test_waiting_for_a_holder_ends_when_it_is_said_to(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    put_entry(store, expires_in_seconds=60.0)
    started = time.monotonic()
    with pytest.raises(LockHeldError), lease(store, wait_seconds=0.3):
        pass
    assert 0.3 <= time.monotonic() - started < 30.0  # the holder's entry lasts for 60


def test_what_is_released_is_free_at_once_and_one_entry_says_so(lake: Lake) -> None:
    with lease(lake):
        pass
    assert newest(lake).released
    assert len(list(lake.list_objects(""))) == 1
    with lease(lake) as held:
        held.check()


@pytest.mark.s3
def test_a_lock_is_taken_by_three_requests_checked_by_one_and_released_by_two(
    bucket: str, s3_endpoint: str
) -> None:
    with FaultProxy(s3_endpoint) as proxy:
        store = Lake(bucket, endpoint_url=proxy.url)
        with lease(store):
            pass
        proxy.set(Faults())
        with lease(store) as held:
            assert proxy.counts()["requests"] == 4, "one more reads the entry of the last holder"
            time.sleep(1.1)
            held.check()
            assert proxy.counts()["requests"] == 5
        assert proxy.counts()["requests"] == 7
        assert len(series.numbers(store, NAME)) == 1


def test_a_block_that_fails_releases_too(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    with pytest.raises(ZeroDivisionError), lease(store):
        raise ZeroDivisionError
    assert is_free(store)


def test_the_error_names_the_holder(lake: Lake) -> None:
    theirs = put_entry(lake, expires_in_seconds=60.0)
    with pytest.raises(LockHeldError) as caught, lease(lake):
        pass
    since = datetime.fromtimestamp(theirs.acquired_at, timezone.utc).isoformat(timespec="seconds")
    for part in ("the date", "process 4711 of otto on mill-7", "run r3", since, "--lock-wait"):
        assert part in str(caught.value)
    assert caught.value.exit_code == 4


def test_the_error_names_this_process_where_it_is_the_holder(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    with lease(store, run_id="r7"):
        with pytest.raises(LockHeldError) as caught, lease(store):
            pass
        assert f"process {os.getpid()} of " in str(caught.value)
        assert f" on {socket.gethostname()} (run r7), since " in str(caught.value)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\x00\xff",
        b'{"token": "half',
        b"[]",
        b"null",
        b"{}",
        b'{"version": 9, "owner": "somebody"}',
        json.dumps({**EXAMPLE, "fence": 3}).encode(),
        json.dumps({**EXAMPLE, "expires_at": "tomorrow"}).encode(),
        json.dumps({**EXAMPLE, "released": None}).encode(),
    ],
)
def test_an_entry_that_is_damaged_or_of_another_version_is_named_and_kept(
    damaged: bytes, tmp_path: Path
) -> None:
    store = Lake(str(tmp_path))
    key = series.entry_key(NAME, 5)
    store.write(key, damaged)
    with pytest.raises(LakeError) as caught, lease(store):
        pass
    assert store.uri(key) in str(caught.value)
    assert "delete it" in str(caught.value)
    assert [item.key for item in store.list_objects("")] == [key]
