"""Joins or starts the Ray cluster of a run."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.exceptions import RayError

from steel_batch import interrupt
from steel_batch.cluster.address import is_refusal, own_token, reached
from steel_batch.cluster.notices import Notices
from steel_batch.cluster.own_cluster import own_cluster
from steel_batch.cluster.ray_folder import check_ray_folder, make_folders_absolute
from steel_batch.errors import ClusterError, MachineError
from steel_batch.lake.files import working_in
from steel_batch.silence import STDERR, silenced, stdout_replaced

HOW_TO_SIGN_IN = (
    "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token, or "
    "put it into ~/.ray/auth_token; on the head, `ray get-auth-token` prints it."
)


def is_joined() -> bool:
    """Whether this process is connected to a cluster."""
    return bool(ray.is_initialized())


@contextlib.contextmanager
def joined_cluster(
    address: str | None, *, wait_seconds: float = 20.0, with_environments: bool = True
) -> Iterator[None]:
    """Join the Ray cluster at `address` or ``RAY_ADDRESS``, or start one here; leave it afterwards.

    Does nothing if this process is already connected.

    Args:
        address: Address of the head, or None.
        wait_seconds: How long to wait for an answer; Ray alone would wait for a quarter of an hour.
        with_environments: Whether a cluster of its own gives a task a runtime environment if the
            task asks for one, as those of Ray Train do. One that this process has is always given.

    Raises:
        ConfigError: There is no cluster at the address, or it refuses this process.
    """
    if is_joined():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # The first failed task's error ends the run; of the others Ray would print tracebacks.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    # Counting the libraries in use takes a process of its own, as large as a scoring actor's.
    if not os.environ.get("RAY_USAGE_STATS_ENABLED"):
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with (
        tempfile.TemporaryDirectory(prefix="steel-batch-", ignore_cleanup_errors=True) as own,
        contextlib.ExitStack() as held,
    ):
        _init(address, wait_seconds, held, Path(own), with_environments=with_environments)
        with stdout_replaced(Notices()):  # some notices arrive late
            try:
                interrupt.check()  # joining takes seconds
                yield
            finally:
                with _uninterrupted():
                    ray.shutdown()
                    held.close()


def _init(
    address: str | None,
    wait_seconds: float,
    held: contextlib.ExitStack,
    folder: Path,
    *,
    with_environments: bool,
) -> None:
    """Connect this process; `held` keeps its token, and its own head if it starts one.

    Ray's workers import from the folder in which this is done, so it is an empty one of our own.
    """
    found = address
    try:
        if address is None:
            make_folders_absolute()
            check_ray_folder()
            held.enter_context(own_token())
        else:
            found = held.enter_context(reached(address, seconds=wait_seconds))
        # Keep Ray's native notices off a terminal that shows progress; errors are exceptions.
        with silenced(STDERR), _own_sigterm(), working_in(folder):
            if found is None:
                found = held.enter_context(own_cluster(with_environments=with_environments))
            ray.init(
                address=found,
                include_dashboard=False if found == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        if address is None:
            raise ClusterError(
                f"Ray does not start: {first_sentence(error)} Check the node's memory and disk, "
                "and the logs in Ray's session folder."
            ) from error
        advice = (
            "Give the address of its head, such as head:6379, with --ray-address or RAY_ADDRESS, "
            "or none to run on this machine."
        )
        raise MachineError(
            f"the Ray cluster at {address!r} cannot be joined: {first_sentence(error)} "
            f"{HOW_TO_SIGN_IN if is_refusal(error) else advice}"
        ) from error


def first_sentence(error: Exception) -> str:
    """The first sentence of Ray's message; advice, links and traces follow it."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    first, *_ = re.split(r"\.\s|\n", text.strip())
    return f"{first.rstrip('.:') or type(error).__name__}."


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's SIGTERM handler: Ray's own exits with code 15."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore further signals of impatient people: Ray turns an interrupted shutdown into exit 1.

    For about a second of it, Ray still lets a SIGTERM end the process, but not if `interrupt` is
    installed: then every thread blocks the signals, including Ray's own threads.
    """
    if interrupt.is_installed() or threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
