"""Mutual exclusion on a store that does not decide between two writers.

Each contender has a flag, an object that nobody else writes, so nothing needs put-if-absent. It
raises its flag and lists the others. If an older flag is up, it lowers its own, waits and tries
again; else it waits for younger flags to be lowered. Each contender raises its flag before it
looks, so of two at least one sees the other (Lamport's one-bit algorithm). That requires a store
whose listings show all earlier writes.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from types import TracebackType
from typing import Final

from steel_batch import interrupt
from steel_batch.errors import LakeError, LockHeldError
from steel_batch.lake.lake import Lake

POLL_SECONDS: Final = 0.2
FLAG_SECONDS: Final = 60.0
"""A flag that has not changed for this long belongs to a dead process."""

log = logging.getLogger(__name__)


class Turn:
    """Holds a turn for a `with` block.

    Args:
        store: Store of the flags.
        place: Folder of the flags, common to all contenders.
        wait_seconds: How long to wait for others.
        flag_seconds: How long the flag of a dead process keeps others waiting.

    Raises:
        LockHeldError: On entry, others had the turn all that time.
    """

    def __init__(
        self,
        store: Lake,
        place: str,
        *,
        wait_seconds: float = 1800.0,
        flag_seconds: float = FLAG_SECONDS,
    ) -> None:
        self._store = store
        self._place = place
        self._wait_seconds = wait_seconds
        self._flag_seconds = flag_seconds
        # The first to come is usually the first served; if clocks disagree, only the order differs.
        self._name = f"{int(time.time() * 1000):015d}-{uuid.uuid4().hex}"
        self._key = f"{place}/{self._name}.json"
        self._seen: dict[str, tuple[str, float]] = {}
        self._num_raised = 0
        self._stop = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="turn", daemon=True)

    def __enter__(self) -> Turn:
        """Wait for the turn."""
        give_up = time.monotonic() + self._wait_seconds
        try:
            while True:
                self._raise_flag()
                if not any(other < self._key for other in self._others()):
                    break
                self._store.delete([self._key])
                while any(other < self._key for other in self._others()):
                    self._pause(give_up)
            self._renewer.start()
            # An older one that arrives only now waits for us, so we need not wait for it.
            while any(other > self._key for other in self._others()):
                self._pause(give_up)
        except BaseException:
            self._lower_flag()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up the turn."""
        self._lower_flag()

    def _raise_flag(self) -> None:
        self._num_raised += 1
        self._store.write(self._key, f"{self._name} {self._num_raised}".encode())

    def _lower_flag(self) -> None:
        self._stop.set()
        if self._renewer.is_alive():
            self._renewer.join()
        try:
            self._store.delete([self._key])
        except LakeError as failure:
            log.warning("cannot give up a turn at %s: %s", self._place, failure)

    def _others(self) -> list[str]:
        """The flags of others that are up, except those of dead processes."""
        now, up = time.monotonic(), []
        for item in self._store.list_objects(f"{self._place}/"):
            if item.key == self._key:
                continue
            etag, since = self._seen.get(item.key, ("", now))
            if etag != item.etag:
                since = now
            self._seen[item.key] = (item.etag, since)
            if now - since < self._flag_seconds:
                up.append(item.key)
        return up

    def _pause(self, give_up: float) -> None:
        if time.monotonic() >= give_up:
            raise LockHeldError(
                f"other commands kept {self._store.uri(self._place)} for "
                f"{self._wait_seconds:g} s: run the same command again."
            )
        interrupt.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))

    def _renew(self) -> None:
        while not self._stop.wait(self._flag_seconds / 4):
            try:
                self._raise_flag()
            except LakeError as error:
                log.warning("cannot renew a turn at %s: %s", self._place, error)
