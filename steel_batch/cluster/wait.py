"""Waits for results of Ray tasks in a way that a signal can end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import ray

from steel_batch import interrupt

POLL_SECONDS: Final = 0.25
"""How often signals are checked."""


def wait_for(
    refs: Sequence[Any], *, num_returns: int = 1, seconds: float | None = None
) -> list[Any]:
    """Return the finished ones of `refs`, once there are `num_returns` of them.

    Args:
        refs: Results of tasks or actor methods.
        num_returns: How many to wait for.
        seconds: How long to wait; None waits without end.

    Raises:
        Interrupted: A signal asked to stop.
    """
    give_up = None if seconds is None else time.monotonic() + seconds
    while True:
        interrupt.check()
        left = POLL_SECONDS if give_up is None else min(POLL_SECONDS, give_up - time.monotonic())
        done, _ = ray.wait(list(refs), num_returns=num_returns, timeout=max(0.0, left))
        if len(done) >= num_returns or (give_up is not None and time.monotonic() >= give_up):
            return list(done)


def result_of(ref: Any) -> Any:
    """Wait for a task; return what it returned, or raise what it raised.

    Raises:
        Interrupted: A signal asked to stop.
    """
    wait_for([ref])
    return ray.get(ref)
