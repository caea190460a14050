"""Where a Ray cluster is, whether it answers, and the token that it requires.

If a head does not answer, Ray itself waits silently for minutes. It looks for a token only if the
address is ``auto``, and then uses it even if the cluster has none, whose actors then cannot start.
So the head is asked first.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import ray
from ray._private.services import canonicalize_bootstrap_address_or_die

from steel_batch import interrupt

Answer = TypeVar("Answer")

MODE: Final = "RAY_AUTH_MODE"
TOKEN: Final = "RAY_AUTH_TOKEN"  # noqa: S105 - the name of a variable
TOKEN_PATH: Final = "RAY_AUTH_TOKEN_PATH"  # noqa: S105 - the name of a variable
POLL_SECONDS: Final = 0.25


@contextlib.contextmanager
def reached(address: str, *, seconds: float) -> Iterator[str]:
    """Yield the address of a head that answers, with a token if it requires one.

    A token is looked for where Ray does: ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH``,
    ``~/.ray/auth_token``. Within the block, Ray's authentication mode is that of the cluster,
    unless ``RAY_AUTH_MODE`` is set.

    Args:
        address: ``host:port``; ``auto`` for the cluster on this machine. Other forms are left to
            Ray.
        seconds: How long to wait for an answer.

    Raises:
        OSError: Nothing answers there, or ``auto`` finds no cluster, or more than one.
        RayError: The cluster requires a token, and it is missing or wrong.
    """
    if address == "auto":
        address = str(canonicalize_bootstrap_address_or_die(address))
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        yield address
        return
    give_up = time.monotonic() + seconds
    _await_listener(host.strip("[]"), int(port), give_up)
    with _mode_kept():
        with_token_if_asked(lambda: _ask(address, give_up))
        yield address


def with_token_if_asked(ask: Callable[[], Answer]) -> Answer:
    """Make a request to a cluster; if it requires a token, repeat it with the one that Ray finds.

    If ``RAY_AUTH_MODE`` is set, it decides whether a token is sent.
    """
    try:
        return ask()
    except Exception as error:
        if not is_refusal(error) or MODE in os.environ or not has_token():
            raise
    os.environ[MODE] = "token"
    ray._raylet.Config.initialize("")  # reads the environment again
    try:
        return ask()
    except BaseException:
        del os.environ[MODE]
        ray._raylet.Config.initialize("")
        raise


def is_refusal(error: Exception) -> bool:
    """Whether a cluster requires a token; not every version of Ray has the error's class."""
    return type(error).__name__ == "AuthenticationError"


@contextlib.contextmanager
def own_token() -> Iterator[None]:
    """Let a cluster that is started here require a token that nobody else has.

    Ray itself writes one to ``~/.ray/auth_token``, for every later cluster of this user, and fails
    if that cannot be written. An existing token is used. If ``RAY_AUTH_MODE`` is set, it decides.
    """
    with _mode_kept():
        if MODE in os.environ:
            yield
            return
        os.environ[MODE] = "token"
        ray._raylet.Config.initialize("")  # reads the environment again
        if has_token():
            yield
            return
        os.environ[TOKEN] = secrets.token_hex(32)
        _forget_token()
        try:
            yield
        finally:
            del os.environ[TOKEN]
            _forget_token()


def has_token() -> bool:
    """Whether there is a token where Ray looks for one, whatever ``RAY_AUTH_MODE`` says."""
    if os.environ.get(TOKEN):
        return True
    named = os.environ.get(TOKEN_PATH)
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return bool(path.read_text().strip())
    except (OSError, UnicodeDecodeError):
        return False


def _forget_token() -> None:
    """Have Ray look for its token again."""
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _mode_kept() -> Iterator[None]:
    """Restore Ray's authentication mode after the block; Ray changes it, too."""
    before = os.environ.get(MODE)
    try:
        yield
    finally:
        if os.environ.get(MODE) != before:
            os.environ.pop(MODE, None)
            if before is not None:
                os.environ[MODE] = before
            ray._raylet.Config.initialize("")


def _await_listener(host: str, port: int, give_up: float) -> None:
    """Wait until a process listens on a port."""
    while True:
        left = max(POLL_SECONDS, give_up - time.monotonic())
        try:
            socket.create_connection((host, port), timeout=left).close()
        except OSError:
            if time.monotonic() > give_up:
                raise
            interrupt.sleep(0.5)
        else:
            return


def _ask(address: str, give_up: float) -> None:
    """Ask a head, in a thread: Ray waits 40 s for an answer, and cannot be stopped.

    Raises:
        TimeoutError: It does not answer.
        RayError: It refuses, or Ray gave up.
    """
    errors: list[Exception] = []
    is_over = threading.Event()

    def ask() -> None:
        try:
            ray._raylet.GcsClient(address=address)
        except Exception as error:  # noqa: BLE001 - raised by who waits
            errors.append(error)
        is_over.set()

    threading.Thread(target=ask, name="ask-ray", daemon=True).start()
    while not is_over.wait(POLL_SECONDS):
        interrupt.check()
        if time.monotonic() > give_up:
            raise TimeoutError("Something listens there, but it does not answer as a Ray head.")
    if errors:
        raise errors[0]
