"""Ends a process if one image blocks its decoder, or one batch blocks the engine.

A thread that is stuck in native code cannot be stopped; its process can. The cluster then restarts
the scoring actor, and its shards are decoded in child processes, where the blocking image is found
(`isolate`). If the engine blocks in every process, the shard fails.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

log = logging.getLogger(__name__)

EXIT_CODE: Final = 86
Done = TypeVar("Done")


class Unwatched:
    """Does work without a time limit."""

    def decode(self, work: Callable[[Any], Done], subject: Any) -> Done:
        """See `Watchdog`."""
        return work(subject)

    infer = decode

    def close(self) -> None:
        """Do nothing: there is nothing to stop."""


class Watchdog:
    """A time limit that only ending the process can enforce.

    Thread-safe. The process ends at most a quarter of the limit after the limit has passed.

    Args:
        limit_seconds: Longest time to decode one image, or a batch of them on a GPU.
        infer_seconds: Longest time for the engine to score a decoded batch, and to copy its masks.
    """

    def __init__(self, limit_seconds: float, infer_seconds: float) -> None:
        self._limit_seconds, self._infer_seconds = limit_seconds, infer_seconds
        self._works: dict[int, tuple[float, float, str]] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def decode(self, work: Callable[[Any], Done], subject: Any) -> Done:
        """Decode an image or a batch."""
        return self._run(work, subject, self._limit_seconds, "an image was decoded")

    def infer(self, work: Callable[[Any], Done], subject: Any) -> Done:
        """Score a decoded batch with the engine."""
        return self._run(work, subject, self._infer_seconds, "the engine was at one batch")

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _run(
        self, work: Callable[[Any], Done], subject: Any, limit_seconds: float, what: str
    ) -> Done:
        thread = threading.get_ident()
        self._works[thread] = (time.monotonic(), limit_seconds, what)
        try:
            return work(subject)
        finally:
            del self._works[thread]

    def _watch(self) -> None:
        while not self._closed.wait(min(self._limit_seconds, self._infer_seconds) / 4):
            for begun, limit_seconds, what in list(self._works.values()):
                if time.monotonic() - begun > limit_seconds:
                    log.error("%s for more than %g s: ending", what, limit_seconds)
                    os._exit(EXIT_CODE)
