"""One writer at a time: a lease that is renewed while its holder lives.

The lease is a numbered series of put-if-absent objects. Taking, renewing and releasing it are each
putting the next number, so of two that try at once one wins. A holder that dies stops renewing;
after its lease, and an allowance for clocks that disagree, the next one takes over.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import socket
import threading
import time
import uuid
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, Final

from steel_batch import series
from steel_batch.errors import LakeError, LockHeldError
from steel_batch.lake import Lake

CLOCK_SKEW_SECONDS: Final = 2.0
"""How far the clocks of two hosts may disagree before a live lease could look dead."""
POLL_SECONDS: Final = 0.5

log = logging.getLogger(__name__)


class Lease:
    """Holds a lock for a `with` block, renewing it from a thread.

    Args:
        store: Where the lease lies.
        name: Its series.
        what: What is locked, for messages.
        lease_seconds: How long the lease outlives a holder that died.
        wait_seconds: How long to wait for another holder.

    Raises:
        LockHeldError: On entry, another holder has it.
    """

    def __init__(
        self,
        store: Lake,
        name: str,
        *,
        what: str,
        lease_seconds: float = 60.0,
        wait_seconds: float = 0.0,
    ) -> None:
        self._store = store
        self._name = name
        self._what = what
        self._lease_seconds = lease_seconds
        self._wait_seconds = wait_seconds
        self._token = uuid.uuid4().hex
        self._acquired = 0.0
        self._number = 0
        self._valid_until = 0.0
        self._lost: str | None = None
        self._stop = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        """Take the lease."""
        give_up = time.monotonic() + self._wait_seconds
        while not self._try():
            if time.monotonic() >= give_up:
                raise LockHeldError(self._held_by())
            time.sleep(POLL_SECONDS)
        self._renewer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lease back."""
        self._stop.set()
        self._renewer.join()
        if self._lost is None:
            with contextlib.suppress(LakeError):
                self._put(released=True)
                series.prune(self._store, self._name, self._number)

    def check(self) -> None:
        """Make sure that the lease is still ours.

        Raises:
            LockHeldError: It was taken over, or could not be renewed in time.
        """
        if self._lost is None and time.monotonic() > self._valid_until:
            self._lost = "it could not be renewed in time"
        if self._lost is not None:
            raise LockHeldError(
                f"this run lost its lock on {self._what}: {self._lost}. Nothing more was written; "
                "run the same command again."
            )

    def _try(self) -> bool:
        found = series.latest(self._store, self._name)
        if found is None:
            self._number = 0
        else:
            self._number, entry = found[0], json.loads(found[1])
            expires = entry["expires_at"] + CLOCK_SKEW_SECONDS
            if not entry["released"] and time.time() < expires:
                return False
            if not entry["released"]:
                log.warning("taking over the lock on %s: its holder is dead: %s", self._what, entry)
        self._acquired = time.time()
        return self._put()

    def _put(self, *, released: bool = False) -> bool:
        started = time.monotonic()
        entry = {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "user": _user(),
            "acquired_at": self._acquired,
            "expires_at": time.time() + self._lease_seconds,
            "released": released,
        }
        if not series.put_next(
            self._store, self._name, self._number + 1, json.dumps(entry).encode()
        ):
            return False
        self._number += 1
        self._valid_until = started + self._lease_seconds
        return True

    def _renew(self) -> None:
        while not self._stop.wait(self._lease_seconds / 3):
            try:
                if not self._put():
                    self._lost = "another run took it over"
                    return
                series.prune(self._store, self._name, self._number)
            except LakeError as error:
                log.warning("the lock on %s is not renewed: %s", self._what, error)

    def _held_by(self) -> str:
        found = series.latest(self._store, self._name)
        entry: dict[str, Any] = json.loads(found[1]) if found else {}
        if not entry or entry["released"]:
            return f"another run took the lock on {self._what} just now; run the command again."
        return (
            f"another run holds the lock on {self._what}: process {entry['pid']} of "
            f"{entry['user']} on {entry['host']}, since {_time(entry['acquired_at'])}. It renews "
            f"the lock while it lives; if it is dead, the lock is free after "
            f"{_time(entry['expires_at'] + CLOCK_SKEW_SECONDS)}. Wait for it, or let this command "
            "wait with --lock-wait SECONDS."
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
