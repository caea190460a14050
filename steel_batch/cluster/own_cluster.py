"""A Ray cluster on this machine for one command, without what scoring does not need, if possible.

What is left out (`own_head`, `own_actors`) is known for some versions of Ray, as it uses private
classes. With another version Ray starts its usual processes, which takes a few seconds more.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import ray

if TYPE_CHECKING:
    from steel_batch.cluster.own_head import OwnHead

KNOWN_RAY: Final = ("2.59", "2.60")
"""Versions of Ray that `own_head` and `own_actors` were tested with."""
_running: Final[list[OwnHead]] = []
_lock: Final = threading.Lock()
_users: Final[list[None]] = []
_answering: Final = contextlib.ExitStack()
log = logging.getLogger(__name__)


@contextlib.contextmanager
def own_cluster(*, with_environments: bool) -> Iterator[str]:
    """Start a cluster for a `with` block; it ends with this process, too.

    Args:
        with_environments: See `own_head`.

    Yields:
        The address to give to `ray.init`.
    """
    if not is_known(ray.__version__):
        log.info("Ray %s: its usual processes are started, also those not needed", ray.__version__)
        yield "local"
        return
    from steel_batch.cluster.own_head import own_head  # private classes of these versions

    with own_head(with_environments=with_environments) as head:
        _running.append(head)
        try:
            yield head.address
        finally:
            _running.remove(head)


def starts_early() -> bool:
    """Whether the cluster that this process runs starts the first processes of Ray by itself."""
    return any(head.starts_early for head in _running)


def is_known(version: str) -> bool:
    """Whether the private classes of a version of Ray are those that are expected."""
    return ".".join(version.split(".")[:2]) in KNOWN_RAY


@contextlib.contextmanager
def own_services() -> Iterator[None]:
    """Answer for Ray Data's own actors for a `with` block, on such a cluster; else do nothing.

    Blocks of several threads may overlap: the last to end puts Ray's own actors back.
    """
    if not _running:
        yield
        return
    from steel_batch.cluster.own_actors import own_actors  # private classes of these versions

    with _lock:
        if not _users:
            _answering.enter_context(own_actors())
        _users.append(None)
    try:
        yield
    finally:
        with _lock:
            _users.pop()
            if not _users:
                _answering.close()
