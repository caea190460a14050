"""How long requests to a failing store are retried."""

from __future__ import annotations

import collections
import logging
import random
import threading
import time
from dataclasses import dataclass
from typing import Final

WARN_SECONDS: Final = 15.0
"""A request that has failed for this long is worth a warning, at most one per this many seconds."""

log = logging.getLogger("steel_batch.lake")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Exponential backoff with jitter, within limits.

    The defaults survive ten minutes of a store that answers 503 to everything.
    """

    base_seconds: float = 0.2
    """The first pause is at most this long; each further one at most twice the previous."""
    max_seconds: float = 20.0
    """No pause is longer."""
    total_seconds: float = 600.0
    """After this long, the last failure is final."""
    max_refusals: int = 5
    """Consecutive attempts that may be refused for credentials or permission: a temporary fault of
    the store, or an expired token that is read again."""
    unreachable_seconds: float = 20.0
    """Like `total_seconds`, for an address that never answered: it is probably wrong."""
    answer_seconds: float = 30.0
    """Time limit of an attempt to connect, or to receive the next piece of an answer."""


class Patience:
    """The attempts of one request: how long to wait before the next, and when to give up."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._started = time.monotonic()
        self._num_refusals = 0
        self.num_failures = 0

    @property
    def waited_seconds(self) -> float:
        """Seconds since the first attempt began."""
        return time.monotonic() - self._started

    def pause(self, *, refused: bool = False, unreachable: bool = False) -> float | None:
        """Seconds to wait before the next attempt; None if the limits are reached.

        Args:
            refused: The last attempt was refused for credentials or permission.
            unreachable: It reached nothing, like every request to that store so far.
        """
        retry = self._retry
        self._num_refusals = self._num_refusals + 1 if refused else 0
        limit = retry.unreachable_seconds if unreachable else retry.total_seconds
        if self._num_refusals >= retry.max_refusals or self.waited_seconds >= limit:
            return None
        ceiling = min(retry.max_seconds, retry.base_seconds * 2.0 ** min(self.num_failures, 30))
        self.num_failures += 1
        return random.uniform(0.1 * ceiling, ceiling)


class Stats:
    """Counts of one process's requests to a store, and log records of their retries.

    Each retry is a record of the logger ``steel_batch.lake`` whose attribute ``lake_retry`` holds
    ``what``, ``kind``, ``pause_seconds`` and ``waited_seconds``. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()
        self._warned = -WARN_SECONDS

    def add(self, name: str, num: int = 1) -> None:
        """Add to a count."""
        with self._lock:
            self._counts[name] += num

    def retried(self, what: str, kind: str, pause_seconds: float, waited_seconds: float) -> None:
        """Record that a request failed and is retried after a pause."""
        self.add("retries")
        self.add(f"retries_{kind}")
        fields = {
            "what": what, "kind": kind,
            "pause_seconds": pause_seconds, "waited_seconds": waited_seconds,
        }  # fmt: skip
        now = time.monotonic()
        with self._lock:
            is_long = waited_seconds > WARN_SECONDS and now - self._warned > WARN_SECONDS
            if is_long:
                self._warned = now
        log.log(
            logging.WARNING if is_long else logging.INFO,
            "%s: %s for %.0f s; trying again in %.1f s",
            what, kind, waited_seconds, pause_seconds,
            extra={"lake_retry": fields},
        )  # fmt: skip

    def snapshot(self) -> dict[str, int]:
        """The counts so far."""
        with self._lock:
            return dict(self._counts)
