"""Slots for batches in flight: a fixed ring that threads acquire and release."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from steel_batch.errors import EngineError

S = TypeVar("S")


class SlotRing(Generic[S]):
    """Lends each slot to one thread at a time, the longest idle slot first.

    Args:
        slots: The slots.
    """

    def __init__(self, slots: Sequence[S]) -> None:
        self._num_slots = len(slots)
        self._free = deque(slots)
        self._num_held = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def num_slots(self) -> int:
        """How many threads can hold a slot at once."""
        return self._num_slots

    @contextlib.contextmanager
    def acquire(self) -> Iterator[S]:
        """Wait for a free slot and hold it for a `with` block.

        Raises:
            EngineError: The ring was closed, before or while waiting.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._closed)
            if self._closed:
                raise EngineError("the engine was closed; no more batches can be scored.")
            slot = self._free.popleft()
            self._num_held += 1
        try:
            yield slot
        finally:
            with self._changed:
                self._free.append(slot)
                self._num_held -= 1
                # One slot wakes one thread: each woken thread waits for the interpreter's lock.
                self._changed.notify()

    def close(self) -> list[S]:
        """Refuse new holders, wait for those in flight, and return the slots to be freed.

        Returns:
            Every slot, to exactly one caller; later calls get none.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._num_held == 0)
            self._changed.notify()  # for another thread that closes it
            slots = list(self._free)
            self._free.clear()
        return slots
