"""How many requests to a store run at once.

In a module of its own, as only S3 needs it: asyncio takes each command 0.04 s to import.
"""

from __future__ import annotations

import asyncio
import collections
import time


class Throttle:
    """Limits concurrent requests: halved if the store asks to slow down, else raised step by step.

    Belongs to one event loop.

    Args:
        most: The initial limit, and its maximum.
    """

    def __init__(self, most: int) -> None:
        self.limit = most
        self._most = most
        self._active = 0
        self._num_successes = 0
        self._halved = float("-inf")
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    async def __aenter__(self) -> None:
        """Wait for a turn."""
        while self._active >= self.limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._wake()
                raise
        self._active += 1

    async def __aexit__(self, *_: object) -> None:
        """Pass the turn on."""
        self._active -= 1
        self._wake()

    def succeeded(self) -> None:
        """Record a success; after as many as run at once, the limit rises by one."""
        self._num_successes += 1
        if self._num_successes >= self.limit < self._most:
            self.limit, self._num_successes = self.limit + 1, 0
            self._wake()

    def slow_down(self) -> None:
        """Record that the store asked to slow down. Counts once per second."""
        if time.monotonic() - self._halved > 1.0:
            self.limit, self._num_successes = max(1, self.limit // 2), 0
            self._halved = time.monotonic()

    def _wake(self) -> None:
        free = self.limit - self._active
        while free > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1
