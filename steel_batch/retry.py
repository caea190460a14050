"""How long a store that fails is asked again."""

from __future__ import annotations

import collections
import logging
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass

log = logging.getLogger("steel_batch.lake")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Exponential backoff with full jitter, within limits.

    The defaults sit out ten minutes of a store that answers 503 to everything.
    """

    base_seconds: float = 0.2
    max_seconds: float = 20.0
    total_seconds: float = 600.0
    """After this long the last error stands."""
    max_refusals: int = 4
    """Tries of a request that is refused for credentials or permission, which may be a passing
    fault of the store or of a token just expired."""

    def pauses(self) -> Iterator[float]:
        """Seconds to wait before each further try; ends when the limits are reached."""
        waited, attempt = 0.0, 0
        while waited < self.total_seconds:
            ceiling = min(self.max_seconds, self.base_seconds * 2.0 ** min(attempt, 30))
            pause = random.uniform(0.1 * ceiling, ceiling)
            yield pause
            waited += pause
            attempt += 1


class Stats:
    """Counts what one process's requests to a store met with. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()

    def add(self, name: str, num: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._counts[name] += num

    def snapshot(self) -> dict[str, int]:
        """The counts so far."""
        with self._lock:
            return dict(self._counts)
