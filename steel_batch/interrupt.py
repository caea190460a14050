"""SIGINT, SIGTERM and SIGHUP: recorded on arrival, acted on at points where stopping is safe.

A signal handler that raises does so wherever the main thread happens to be: in a library's
callback, a destructor or a lock, which may swallow or damage the exception. So no signal raises
anything here. `install` blocks the signals in every thread and lets one thread wait for them, so
signal handlers of Ray or other libraries have no effect. `check`, called between steps of the work,
raises `Interrupted` once a signal has arrived. Waiting calls are woken (`waking`), or wait in
`sleep`.

Stopping takes a bounded time. If no checkpoint is reached within `GRACE_SECONDS` of the first
signal or `HURRY_SECONDS` of the second, or when a third arrives, the process prints what it left
behind (`last_words`) and exits with the same exit code. Outside `noted`, where no resource is held,
a signal ends the process at once.

Imports only the standard library: it is installed before anything else is loaded.
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
"""Time to stop after the first signal: a library call, such as starting Ray, may be running."""
HURRY_SECONDS: Final = 20.0
"""Time to stop after the second signal."""
NOTICE_SECONDS: Final = 2.0
"""After this time, a message says that the process is stopping."""
MESSAGE: Final = "interrupted: run the same command again to resume."
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_before_exit: Final[list[Callable[[], object]]] = []
_shield: contextvars.ContextVar[bool] = contextvars.ContextVar("shield", default=False)


class Interrupted(BaseException):
    """Raised by `check`, and by nothing else, once a signal has arrived.

    It is not an `Exception`, so that code that continues after any error does not continue after
    this. It is not a `KeyboardInterrupt`, because asyncio ends its event loop on that.
    """


class _Watch:
    """The signals of this process: which thread waits for them, and what to do about them."""

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.lock = threading.RLock()
        self.is_installed = False
        self.is_holding = False
        """Whether resources are held that must be released; if not, a signal ends the process."""
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
        """Where to write: a copy of stderr, as `silence` replaces descriptor 2."""

    def install(self) -> None:
        # Signals ignored by a shell's `&` or nohup stay ignored.
        ignored = {number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN}
        self._signals = tuple(number for number in SIGNALS if number not in ignored)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        # For a thread that existed before and does not block them.
        self._handlers = {n: signal.signal(n, self._on_signal) for n in self._signals}
        self._num_signals, self._is_closing = 0, False
        self._num_installed += 1
        self.requested.clear()
        with contextlib.suppress(OSError):  # there may be no stderr
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
        """In a forked child: signals interrupt it as they do any process."""
        if not self.is_installed:
            return
        self.is_installed = False
        self.requested = threading.Event()
        self.lock = threading.RLock()
        with contextlib.suppress(ValueError):  # not the main thread: an exec follows
            for number, handler in self._handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    @contextlib.contextmanager
    def unblocked(self) -> Iterator[None]:
        """Restore this thread's original signal mask: processes started here inherit it."""
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
        # Takes no lock here: the interrupted code may hold it.
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
            # Not in this thread, which has to receive the next signal.
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
            f"stopping, which may take up to {GRACE_SECONDS:g} s; {HURRY_SECONDS:g} s after a "
            "second Ctrl-C or SIGTERM. A third one stops at once."
        )

    def force(self) -> None:
        words = ["interrupted: the work did not stop in time and was abandoned."]
        for last in list(self.last_words):
            with contextlib.suppress(Exception):
                words.append(last())
        words.append("Run the same command again to resume.")
        leave(" ".join(words))


_watch = _Watch()
os.register_at_fork(after_in_child=lambda: _watch.forget())


def install() -> None:
    """Record signals from now on, for the rest of this process. Call it in the main thread."""
    if not _watch.is_installed:
        _watch.install()


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Record signals within the block; does nothing if that is done already."""
    if _watch.is_installed:
        yield
        return
    _watch.install()
    try:
        yield
    finally:
        _watch.uninstall()


def is_installed() -> bool:
    """Return whether signals are recorded here, and not left to Python's handlers."""
    return _watch.is_installed


def is_requested() -> bool:
    """Return whether a signal has requested a stop."""
    return _watch.requested.is_set()


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Raise `Interrupted` instead of what a library in the block turned an interruption into.

    Raises:
        Interrupted: Instead of an error that was raised after a signal requested a stop.
    """
    try:
        yield
    except Exception as error:
        if _watch.requested.is_set() and not _shield.get():
            raise Interrupted from error
        raise


def is_due() -> bool:
    """Return whether `check` would raise."""
    return _watch.requested.is_set() and not is_shielded()


def check() -> None:
    """Stop here, where it is safe, if a signal requested it.

    Does nothing within `shielded`, nor while an interruption is being handled: the code that
    releases locks may call code that calls this.

    Raises:
        Interrupted: A signal has arrived.
    """
    if is_due():
        raise Interrupted


def sleep(seconds: float) -> None:
    """Wait, but only until a signal requests a stop.

    Raises:
        Interrupted: A signal has arrived.
    """
    if is_shielded():
        time.sleep(seconds)
    else:
        _watch.requested.wait(seconds)
        check()


@contextlib.contextmanager
def waking(wake: Callable[[], object]) -> Iterator[None]:
    """Call `wake` from a thread if a signal arrives within the block, to end a waiting call.

    Args:
        wake: May be called although the block has just ended; its errors are ignored.

    Raises:
        Interrupted: A signal arrived before the block.
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
    """Set what to print if the block does not stop in time, such as a lock that stays held."""
    _watch.last_words.append(words)
    try:
        yield
    finally:
        _watch.last_words.remove(words)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """A step that must be completed once it has begun: `check` does nothing within it."""
    token = _shield.set(True)
    try:
        yield
    finally:
        _shield.reset(token)


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Within the block, a signal is recorded; outside, it ends the process at once."""
    with _holding(True):
        yield


@contextlib.contextmanager
def nothing_held() -> Iterator[None]:
    """A signal ends the process at once within the block: for imports that take seconds.

    Raises:
        Interrupted: A signal arrived before or after the block.
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
    """For starting processes without `preexec_fn`: they inherit the original signal mask."""
    return _watch.unblocked()


@contextlib.contextmanager
def ctrl_c_blocked() -> Iterator[None]:
    """Processes started in this block never see Ctrl-C, from their first moment: we end them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_shielded() -> bool:
    """Return whether `check` does nothing here: a step must be completed or locks are released."""
    if _shield.get():
        return True
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, (Interrupted, GeneratorExit)):
            return True
        error = error.__context__
    return False


def before_exit(call: Callable[[], object]) -> None:
    """Have this called at `exit_now`, after which Python's own exit handlers are not called."""
    _before_exit.append(call)


def exit_now(code: int) -> NoReturn:
    """End an interrupted process whose resources are released.

    Exit handlers of libraries are left out: they could change the exit code.
    """
    _call_all(_before_exit)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.flush()
    os._exit(code)


def leave(message: str = MESSAGE) -> NoReturn:
    """End the process at once, with the exit code of an interruption."""
    _print(message)
    os._exit(EXIT_CODE)


def _print(message: str) -> None:
    """Write without Python's buffers and locks: the thread that holds them may hang."""
    with contextlib.suppress(OSError):
        show_cursor = "\x1b[?25h" if os.isatty(_watch.stderr) else ""
        os.write(_watch.stderr, f"{show_cursor}{message}\n".encode())


def _call_all(calls: list[Callable[[], object]]) -> None:
    for call in calls:
        with contextlib.suppress(Exception):
            call()
