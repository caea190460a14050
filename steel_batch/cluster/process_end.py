"""How the processes of a run end: the driver's after Ray Data's threads, workers' at once."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
import time
from collections.abc import Iterator
from typing import Final

THREADS: Final = ("StreamingExecutor-", "iter_threaded", "ray-data-metadata-prefetch")
"""How the names of Ray Data's threads begin: they run the dataset, iterate, fetch."""
MOST_SECONDS: Final = 60.0
"""One that waits for a lost node must not hold up the end for longer."""


@contextlib.contextmanager
def data_threads_ended() -> Iterator[None]:
    """Wait at the end of a `with` block until the threads of its dataset have ended.

    Ray Data waits for two seconds for one of them and not at all for another, which looks ten
    times a second whether it should stop. If such a thread calls Ray after its shutdown, Ray ends
    the process with exit code 1 and no message, or starts another cluster.
    """
    others = frozenset(threading.enumerate())
    try:
        yield
    finally:
        give_up = time.monotonic() + MOST_SECONDS
        for thread in threading.enumerate():
            if thread.name.startswith(THREADS) and thread not in others:
                thread.join(max(0.0, give_up - time.monotonic()))


@functools.cache
def skip_exit_handlers() -> None:
    """Have a worker's process, but not a driver's, end without the exit handlers of C++ libraries.

    Ray's sometimes wait there forever, in a process that no cluster knows any more and that keeps
    its memory.
    """
    import ray  # the driver imports this module before it needs Ray

    if ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        atexit.register(os._exit, 0)
