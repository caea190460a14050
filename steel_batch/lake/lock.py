"""One writer at a time: a lease that is renewed while its holder lives.

The lease is a numbered series of put-if-absent objects. Taking, renewing and releasing it each
write the next number, so of two that try at once one succeeds. A holder that dies stops renewing;
after its lease has expired, another may take over. The age of the newest entry is measured only by
the store's clock: a host with a wrong clock neither takes a live lock nor loses its own.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from types import TracebackType
from typing import Final, Literal

from steel_batch import interrupt, layout
from steel_batch.config import GREATEST_NUMBER
from steel_batch.errors import DamagedFileError, LakeError, LockHeldError
from steel_batch.lake import series
from steel_batch.lake.documents import record_of
from steel_batch.lake.format_version import FileFormat
from steel_batch.lake.lake import Lake
from steel_batch.lake.retry import Retry
from steel_batch.lake.turns import Turn

FORMAT: Final = FileFormat("the entry of a lock")
CLOCK_SKEW_SECONDS: Final = 2.0
"""Added to a lease before it is taken over: stores report times in whole seconds."""
POLL_SECONDS: Final = 0.5
_LAST_SECOND: Final = 253_402_300_799 - 2 * GREATEST_NUMBER
"""Of the year 9999, with room for a lease after it."""
CONFIRM_SECONDS: Final = 1.0
"""`check` asks the store if the last confirmation is older than this."""
KEPT_ENTRIES: Final = 10
"""Entries of a holder that are not deleted yet; they are deleted together, and at the release."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """An entry of the series: who holds the lease, and until when. Times are in Unix seconds."""

    token: str
    host: str
    pid: int
    user: str
    run_id: str
    acquired_at: float
    expires_at: float
    """By the holder's clock; for people only."""
    released: bool
    lease_seconds: float | None = None
    """How long the entry is valid. None in entries of earlier versions: `expires_at` is used."""

    def __post_init__(self) -> None:
        """Refuse times that no clock shows, and leases without end."""
        lease_seconds = self.lease_seconds
        if lease_seconds is None:
            lease_seconds = self.expires_at - time.time()
        is_time = all(0 <= time <= _LAST_SECOND for time in (self.acquired_at, self.expires_at))
        if not is_time or lease_seconds > GREATEST_NUMBER:
            raise ValueError(
                f"its times are invalid: from {self.acquired_at:g} to {self.expires_at:g} in Unix "
                f"seconds, for {lease_seconds:g} s"
            )

    def __str__(self) -> str:
        run = f" (run {self.run_id})" if self.run_id else ""
        since = _time(self.acquired_at)
        return f"process {self.pid} of {self.user} on {self.host}{run}, since {since}"


class Lease:
    """Holds a lock for a `with` block, renewing it from a thread.

    Args:
        store: Store of the lease.
        name: Series of the lease.
        what: What is locked, for messages.
        run_id: The holder's run, for messages.
        lease_seconds: How long the lease outlives a holder that died.
        wait_seconds: How long to wait for another holder.

    Raises:
        LockHeldError: On entry, another holder has the lock.
    """

    def __init__(
        self,
        store: Lake,
        name: str,
        *,
        what: str,
        run_id: str = "",
        lease_seconds: float = 60.0,
        wait_seconds: float = 0.0,
    ) -> None:
        self._store = store
        # Retries often, as the lease expires, but not for long, as that would delay the exit.
        self._renewing = store.with_retry(
            Retry(max_seconds=lease_seconds / 12, total_seconds=lease_seconds / 2)
        )
        self._name = name
        self._what = what
        self._run_id = run_id
        self._lease_seconds = lease_seconds
        self._wait_seconds = wait_seconds
        self._token = uuid.uuid4().hex
        self._acquired_at = 0.0
        self._number = 0
        self._newest: series.Newest | None = None
        """Our newest entry, once it was read or written."""
        self._valid_until = self._expires_at = 0.0
        self._confirmed = 0.0
        self._is_lost = False
        self.took_over = False
        """Whether the last holder did not release it: it may be suspended, and write later."""
        self._putting = threading.Lock()
        self._stop = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Lease:
        """Acquire the lease."""
        give_up = time.monotonic() + self._wait_seconds
        is_waiting = False
        while not self._try():
            if time.monotonic() >= give_up:
                raise LockHeldError(self._held_by())
            if not is_waiting:
                log.warning(
                    "waiting up to %g s for the lock on %s, held by another run",
                    self._wait_seconds,
                    self._what,
                )
            is_waiting = True
            interrupt.sleep(POLL_SECONDS)
        self._undo.enter_context(interrupt.last_words(self._fate))
        self._renewer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lease, even while a signal asks to stop."""
        self._stop.set()
        self._renewer.join()
        if not self._is_lost:
            try:
                with interrupt.shielded():
                    if self._put(self._renewing, released=True):
                        self._prune()
            except LakeError as failure:
                log.warning("cannot release the lock on %s: %s", self._what, failure)
        self._undo.close()

    def check(self) -> None:
        """Make sure that we still hold the lease: by our clock, and once a second by the store.

        A lease that expired while the store was unreachable is renewed if nobody else took it.

        Raises:
            LockHeldError: Another run took it over.
            LakeError: It expired, and the store cannot be asked who holds it.
        """
        while not self._is_lost and self._is_over():
            log.warning("the lock on %s expired; it is renewed if nobody took it", self._what)
            self._is_lost = not self._put(self._store)
        if not self._is_lost and time.monotonic() - self._confirmed > CONFIRM_SECONDS:
            started = time.monotonic()
            _, newest = _latest(self._store, self._name, self._newest)
            self._is_lost = newest is None or newest.token != self._token
            self._confirmed = started
        if self._is_lost:
            raise LockHeldError(
                f"this run lost its lock on {self._what}: another run took it over. Nothing more "
                "was written; run the same command again."
            )

    def _is_over(self) -> bool:
        return time.monotonic() > self._valid_until or time.time() > self._expires_at

    def _try(self) -> bool:
        holder = self._find_free()
        if holder is False:
            return False
        with self._turn():
            if self._store.single_writer:  # somebody may have taken it since
                holder = self._find_free()
            if holder is False:
                return False
            self._acquired_at = time.time()
            with interrupt.shielded():  # once taken, it must be recorded, or nobody releases it
                is_ours = self._put(self._store)
            if not is_ours:
                return False
        if holder is not None and not holder.released:
            self.took_over = True
            log.warning("took over the lock on %s from a dead holder: %s", self._what, holder)
        return True

    def _find_free(self) -> Holder | Literal[False] | None:
        """The last holder, if the lease is free; False if it is not."""
        found, holder = _latest(self._store, self._name)
        self._number = 0 if found is None else found.number
        if holder is not None and _seconds_left(self._store, self._name, self._number, holder):
            return False
        return holder

    def _put(self, store: Lake, *, released: bool = False) -> bool:
        """Write the next entry; False if another holder was first."""
        with self._putting:
            while True:
                is_ours, is_new = self._put_once(store, released)
                if is_new or not is_ours:
                    return is_ours

    def _put_once(self, store: Lake, released: bool) -> tuple[bool, bool]:
        """Whether the newest entry is ours, and whether this call wrote it."""
        started, expires_at = time.monotonic(), time.time() + self._lease_seconds
        entry = Holder(
            token=self._token,
            host=socket.gethostname(),
            pid=os.getpid(),
            user=_user(),
            run_id=self._run_id,
            acquired_at=self._acquired_at,
            expires_at=expires_at,
            released=released,
            lease_seconds=self._lease_seconds,
        )
        text = FORMAT.dump(asdict(entry))
        is_new = series.put_next(store, self._name, self._number + 1, text)
        # The newest entry decides. It is another holder's if this write came so late that others
        # have held the lease and pruned its number. It is an earlier one of ours if an attempt
        # that seemed to fail had written it.
        older = () if self._newest is None else (*self._newest.older, self._newest.number)
        ours = series.Newest(number=self._number + 1, data=text, older=older)
        # Nobody takes a lease that is valid; and nothing depends on it once it is released.
        is_in_time = not self._is_over() and not store.single_writer
        if not (is_new and (released or is_in_time)):
            found, newest = _latest(store, self._name, ours if is_new else None)
            if found is None or newest is None or newest.token != self._token:
                return False, False
            is_new, ours = is_new and found.number == ours.number, found
        self._number, self._newest = ours.number, ours
        if is_new and not released:
            self._valid_until, self._expires_at = started + self._lease_seconds, expires_at
            self._confirmed = started
        return True, is_new

    def _turn(self) -> AbstractContextManager[object]:
        """A turn, for stores where a put does not decide between two that take it at once."""
        if not self._store.single_writer:
            return nullcontext()
        return Turn(self._store, layout.turns("locks"), wait_seconds=self._lease_seconds)

    def _renew(self) -> None:
        with interrupt.shielded():  # until it is released, however long that takes
            self._renew_until_stopped()

    def _renew_until_stopped(self) -> None:
        pause = self._lease_seconds / 3
        while not self._stop.wait(pause) and not self._is_lost:
            try:
                if not self._put(self._renewing):
                    self._is_lost = True
                    return
                if self._newest is not None and len(self._newest.older) >= KEPT_ENTRIES:
                    self._prune()
                pause = self._lease_seconds / 3
            except LakeError as error:
                log.warning("cannot renew the lock on %s: %s", self._what, error)
                pause = self._lease_seconds / 12

    def _prune(self) -> None:
        """Delete the entries before ours."""
        newest = self._newest
        if newest is None or not newest.older:
            return
        series.prune(self._renewing, self._name, newest.older)
        with self._putting:
            if self._newest is newest:
                self._newest = replace(newest, older=())

    def _fate(self) -> str:
        """What happens to the lease if this process ends without releasing it."""
        free_at = _time(self._expires_at + CLOCK_SKEW_SECONDS)
        return f"The lock on {self._what} is not released; it is free after {free_at}."

    def _held_by(self) -> str:
        found, holder = _latest(self._store, self._name)
        if found is None or holder is None or holder.released:
            return f"another run has just taken the lock on {self._what}; run the command again."
        left = _seconds_left(self._store, self._name, found.number, holder)
        return (
            f"another run holds the lock on {self._what}: {holder}. It renews the lock while it "
            f"is alive; if it is dead, the lock is free after {_time(time.time() + left)}. "
            f"Wait for it, or let this command "
            f"wait with --lock-wait SECONDS. (The lock is "
            f"{self._store.uri(series.entry_key(self._name, found.number))}.)"
        )


def holder_of(store: Lake, name: str) -> Holder | None:
    """The current holder of a lease; None if it is free.

    Args:
        store: Store of the lease.
        name: Series of the lease.
    """
    found, holder = _latest(store, name)
    if found is None or holder is None or not _seconds_left(store, name, found.number, holder):
        return None
    return holder


def _seconds_left(store: Lake, name: str, number: int, holder: Holder) -> float:
    """Seconds until another holder may take the lease; 0 if it may now."""
    if holder.released:
        return 0.0
    if holder.lease_seconds is None:
        return max(0.0, holder.expires_at + CLOCK_SKEW_SECONDS - time.time())
    age = store.age_seconds(series.entry_key(name, number))
    if age is None:  # renewed or released, and pruned, just now
        return holder.lease_seconds + CLOCK_SKEW_SECONDS
    return max(0.0, holder.lease_seconds + CLOCK_SKEW_SECONDS - age)


def _latest(
    store: Lake, name: str, known: series.Newest | None = None
) -> tuple[series.Newest | None, Holder | None]:
    """The newest entry and its content; None twice if the lock was never taken."""
    found = series.newest(store, name, known)
    if found is None:
        return None, None
    source = store.uri(series.entry_key(name, found.number))
    try:
        return found, record_of(Holder, FORMAT.load(found.data, source=source))
    except ValueError as error:
        raise DamagedFileError(
            f"{source} is not a valid lock entry: {error}. If no run of this engine and date is "
            "running, delete it."
        ) from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
