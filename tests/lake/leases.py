"""Leases that tests take, and entries that holders on other machines put."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from steel_batch.errors import LockHeldError
from steel_batch.lake import Lake, series
from steel_batch.lake.lock import FORMAT, Holder, Lease

NAME = "locks/date"


EXAMPLE = {
    "token": "another",
    "host": "mill-7",
    "pid": 4711,
    "user": "otto",
    "run_id": "r3",
    "acquired_at": 1.0,
    "expires_at": 2.0,
    "released": False,
}
"""What an entry holds."""


def lease(
    store: Lake, *, run_id: str = "", lease_seconds: float = 60.0, wait_seconds: float = 0.0
) -> Lease:
    return Lease(
        store,
        NAME,
        what="the date",
        run_id=run_id,
        lease_seconds=lease_seconds,
        wait_seconds=wait_seconds,
    )


def newest(store: Lake) -> Holder:
    found = series.latest(store, NAME)
    assert found is not None
    return Holder(**FORMAT.load(found[1], source=NAME))


def put_entry(
    store: Lake, *, expires_in_seconds: float, clock_ahead_seconds: float = 0.0
) -> Holder:
    """An entry that a holder on another machine puts, whose clock may be wrong."""
    now = time.time() + clock_ahead_seconds
    times = {
        "acquired_at": now - 100.0,
        "expires_at": now + expires_in_seconds,
        "lease_seconds": expires_in_seconds,
    }
    holder = Holder(**{**EXAMPLE, **times})  # type: ignore[arg-type]  # of mixed types
    number = max(series.numbers(store, NAME), default=0) + 1
    assert series.put_next(store, NAME, number, json.dumps(asdict(holder)).encode())
    return holder


def is_free(store: Lake) -> bool:
    try:
        with lease(store):
            return True
    except LockHeldError:
        return False
