"""Ends a process if its decoder hangs on an image.

A thread that is stuck in native code cannot be stopped; its process can. The cluster then restarts
the scoring actor and decodes its shards in child processes, where the image that hangs is found
(`isolate`).
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


class Watchdog:
    """A time limit on decoding, enforced by ending the process.

    Thread-safe. The process ends at most a quarter of the limit after the limit has passed.

    Args:
        limit_seconds: How long one image, or a batch of images on a GPU, may take.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._since: dict[int, float] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def run(self, work: Callable[[Any], Done], subject: Any) -> Done:
        """Decode an image or a batch, or wait for a GPU to decode it, within the limit."""
        thread = threading.get_ident()
        self._since[thread] = time.monotonic()
        try:
            return work(subject)
        finally:
            del self._since[thread]

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self._limit_seconds / 4):
            begun = min(list(self._since.values()), default=None)
            if begun is not None and time.monotonic() - begun > self._limit_seconds:
                log.error(
                    "decoding an image took more than %g s: ending the process", self._limit_seconds
                )
                os._exit(EXIT_CODE)
