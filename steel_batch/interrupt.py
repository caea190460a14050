"""SIGINT, SIGTERM and SIGHUP: noted as they arrive, acted on where stopping is safe.

A handler that raises does so wherever the main thread happens to be: inside a library's callback,
a destructor or a lock, which may swallow or mangle it. Here nothing is raised by a signal.
`install` blocks the signals in every thread and lets one thread of its own wait for them, so it
makes no difference what Ray or another library does with their handlers. `check`, called between
two steps of the work, raises `Interrupted` once a signal was noted. What waits is woken (`waking`)
or waits in `sleep`.

Stopping has an upper bound. Where no checkpoint is reached within `GRACE_SECONDS` of the first
signal, or `HURRY_SECONDS` of the second, or at the third, the process says what it left behind
(`last_words`) and ends with the same exit code. Outside of `noted`, where nothing is held, a
signal ends the process at once.

Imports nothing but the standard library: it is installed before anything else is loaded.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, NoReturn

EXIT_CODE: Final = 130
GRACE_SECONDS: Final = 60.0
"""After the first signal: a call of a library, such as starting Ray, may be under way."""
HURRY_SECONDS: Final = 20.0
"""After the second signal."""
NOTICE_SECONDS: Final = 2.0
"""What takes longer to stop is said to be stopping."""
MESSAGE: Final = "interrupted: run the same command again to continue."
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_shield: contextvars.ContextVar[bool] = contextvars.ContextVar("shield", default=False)


class Interrupted(BaseException):
    """Raised by `check`, and by nothing else, once a signal was noted.

    No `Exception`, so that what goes on after any error does not go on after this. No
    `KeyboardInterrupt` either, as asyncio ends its event loop by that one.
    """


class _Watch:
    """The signals of this process: who waits for them, and what is to be done about them."""

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.lock = threading.RLock()
        self.is_installed = False
        self.is_holding = False
        """Whether something is at work that has to be given back: else a signal ends at once."""
        self.wakers: list[Callable[[], object]] = []
        self.last_words: list[Callable[[], str]] = []
        self._num_signals = 0
        self._num_installed = 0
        self._is_closing = False
        self._signals: tuple[signal.Signals, ...] = ()
        self._mask: set[int] = set()
        self._handlers: dict[signal.Signals, Any] = {}
        self._thread: threading.Thread | None = None
        self.stderr = 2
        """Where to write; the file itself, as libraries are silenced by exchanging number 2."""

    def install(self) -> None:
        # What a shell's `&` or nohup had ignored stays ignored.
        ignored = {number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN}
        self._signals = tuple(number for number in SIGNALS if number not in ignored)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        # Of a thread that was there before and does not block them.
        self._handlers = {n: signal.signal(n, self._on_signal) for n in self._signals}
        self._num_signals, self._is_closing = 0, False
        self._num_installed += 1
        self.requested.clear()
        with contextlib.suppress(OSError):  # there may be none
            self.stderr = os.dup(2)
        self.is_installed = True
        self._thread = threading.Thread(target=self._wait, name="signals", daemon=True)
        self._thread.start()

    def uninstall(self) -> None:
        self._is_closing = True
        if self._thread is not None and self._thread.ident is not None and self._signals:
            signal.pthread_kill(self._thread.ident, self._signals[0])
            self._thread.join()
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self.is_installed = False
        self.requested.clear()
        if self.stderr != 2:
            os.close(self.stderr)
            self.stderr = 2

    def forget(self) -> None:
        """In a child that was forked: it is interrupted as any other process."""
        if not self.is_installed:
            return
        self.is_installed = False
        self.requested = threading.Event()
        self.lock = threading.RLock()
        with contextlib.suppress(ValueError):  # not of the main thread: what follows is an exec
            for number, handler in self._handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    @contextlib.contextmanager
    def unblocked(self) -> Iterator[None]:
        """Have this thread's signal mask as it was: what is started here inherits it."""
        if not self.is_installed:
            yield
            return
        blocked = signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _wait(self) -> None:
        while self._signals:
            signal.sigwait(self._signals)
            if self._is_closing:
                return
            self.note()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # Takes no lock here, which the interrupted code may have.
        if self._thread is not None and self._thread.ident is not None:
            signal.pthread_kill(self._thread.ident, number)

    def note(self) -> None:
        with self.lock:
            self._num_signals += 1
            if not self.is_holding:
                leave()
            first = self._num_signals == 1
            self.requested.set()
            wakers = list(self.wakers) if first else []
        if self._num_signals > 2:
            self.force()
        self._later(GRACE_SECONDS if first else HURRY_SECONDS, self.force)
        if first:
            self._later(NOTICE_SECONDS, self._say)
            # Not in this thread, which has to see the next signal.
            threading.Thread(target=_call_all, args=(wakers,), daemon=True).start()

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        number = self._num_installed

        def call_if_still_installed() -> None:
            if self.is_installed and self._num_installed == number:
                call()

        timer = threading.Timer(seconds, call_if_still_installed)
        timer.daemon = True
        timer.start()

    def _say(self) -> None:
        _print(
            f"stopping, which may take up to {GRACE_SECONDS:g} s; after a second Ctrl-C or SIGTERM "
            f"{HURRY_SECONDS:g} s, and a third one stops at once."
        )

    def force(self) -> None:
        words = ["interrupted: what was under way did not end in time and is left behind."]
        for last in list(self.last_words):
            with contextlib.suppress(Exception):
                words.append(last())
        words.append("Run the same command again to continue.")
        leave(" ".join(words))


_watch = _Watch()
os.register_at_fork(after_in_child=lambda: _watch.forget())


def install() -> None:
    """Note signals from now on, for the rest of this process. From the main thread."""
    if not _watch.is_installed:
        _watch.install()


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Note signals within the block, or go on where that is done already."""
    if _watch.is_installed:
        yield
        return
    _watch.install()
    try:
        yield
    finally:
        _watch.uninstall()


def is_installed() -> bool:
    """Whether signals are noted here, and not left to Python's handlers."""
    return _watch.is_installed


def is_requested() -> bool:
    """Whether a signal asked this process to stop."""
    return _watch.requested.is_set()


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Turn what a library made of an interruption within the block back into one.

    Raises:
        Interrupted: In place of an error that came while a signal asked to stop.
    """
    try:
        yield
    except Exception as error:
        if _watch.requested.is_set() and not _shield.get():
            raise Interrupted from error
        raise


def is_due() -> bool:
    """Whether `check` would raise."""
    return _watch.requested.is_set() and not is_shielded()


def check() -> None:
    """Stop here if a signal asked for it: the place where it is safe to.

    Does nothing within `shielded`, nor while an interruption is being handled: what gives locks
    back may call what calls this.

    Raises:
        Interrupted: A signal was noted.
    """
    if is_due():
        raise Interrupted


def sleep(seconds: float) -> None:
    """Wait, but no longer than until a signal asks to stop.

    Raises:
        Interrupted: A signal was noted.
    """
    if is_shielded():
        time.sleep(seconds)
    else:
        _watch.requested.wait(seconds)
        check()


@contextlib.contextmanager
def waking(wake: Callable[[], object]) -> Iterator[None]:
    """Call `wake` if a signal arrives within the block, from a thread: it ends a call that waits.

    Args:
        wake: May be called although the block is just over; its errors are dropped.

    Raises:
        Interrupted: A signal was noted before.
    """
    with _watch.lock:
        check()
        _watch.wakers.append(wake)
    try:
        yield
    finally:
        with _watch.lock:
            _watch.wakers.remove(wake)


@contextlib.contextmanager
def last_words(words: Callable[[], str]) -> Iterator[None]:
    """What to say of the block where it does not end in time, such as a lock that stays taken."""
    _watch.last_words.append(words)
    try:
        yield
    finally:
        _watch.last_words.remove(words)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """A step that is finished once it has begun: `check` does nothing within it."""
    token = _shield.set(True)
    try:
        yield
    finally:
        _shield.reset(token)


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Within the block a signal is noted; outside, it ends the process at once."""
    with _holding(True):
        yield


@contextlib.contextmanager
def nothing_held() -> Iterator[None]:
    """A signal ends the process at once here: for imports that take seconds.

    Raises:
        Interrupted: A signal was noted before or after.
    """
    check()
    with _holding(False):
        yield
    check()


@contextlib.contextmanager
def _holding(value: bool) -> Iterator[None]:
    with _watch.lock:
        before, _watch.is_holding = _watch.is_holding, value
    try:
        yield
    finally:
        with _watch.lock:
            _watch.is_holding = before


def starting_processes() -> contextlib.AbstractContextManager[None]:
    """For starting processes without `preexec_fn`: they inherit who blocks which signals."""
    return _watch.unblocked()


def is_shielded() -> bool:
    """Whether `check` does nothing here, as a step is to be finished or locks are given back."""
    if _shield.get():
        return True
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, (Interrupted, GeneratorExit)):
            return True
        error = error.__context__
    return False


def leave(message: str = MESSAGE) -> NoReturn:
    """End the process without anything further, with the exit code of an interruption."""
    _print(message)
    os._exit(EXIT_CODE)


def _print(message: str) -> None:
    """Write past Python's buffers and locks: whoever has those may be what hangs."""
    with contextlib.suppress(OSError):
        show_cursor = "\x1b[?25h" if os.isatty(_watch.stderr) else ""
        os.write(_watch.stderr, f"{show_cursor}{message}\n".encode())


def _call_all(calls: list[Callable[[], object]]) -> None:
    for call in calls:
        with contextlib.suppress(Exception):
            call()
