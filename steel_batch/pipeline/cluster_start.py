"""Joining the cluster, while this process loads what scoring needs.

Most of the time until a cluster answers, this process only waits for others. Loading Ray Data takes
almost as long, so it is done meanwhile. A command that finds nothing to score loads neither.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Final

NEEDED: Final = (
    "steel_batch.cluster.stream",
    "steel_batch.pipeline.actors",
    # Ray loads these for the first dataset, a quarter of a second in which no process starts yet.
    "ray.data._internal.execution.streaming_executor",
    "ray.data._internal.logical.optimizers",
    "ray.data._internal.planner.planner",
    "ray.util.state",
    "pydantic.v1",
)
"""Modules that scoring loads in this process: Ray Data, the engine's libraries."""


@contextlib.contextmanager
def started_cluster(address: str | None) -> Iterator[None]:
    """Join a cluster, or start one here; see `cluster.join.joined_cluster`.

    Raises:
        ConfigError: There is no cluster at the address, or it refuses this process.
        ClusterError: Ray does not start here.
    """
    with contextlib.ExitStack() as cluster:
        with _without_collector():
            from steel_batch.cluster.join import is_joined  # imports Ray

            if not is_joined():
                _start(address, cluster)
        yield


def _start(address: str | None, cluster: contextlib.ExitStack) -> None:
    """Join or start a cluster, to be left with `cluster`, and load what scoring needs."""
    from steel_batch.cluster.early_processes import start_processes
    from steel_batch.cluster.join import joined_cluster
    from steel_batch.cluster.own_cluster import starts_early

    is_loaded = NEEDED[0] in sys.modules
    loading = threading.Thread(target=_load, name="load", daemon=True)
    is_running = bool(address or os.environ.get("RAY_ADDRESS"))
    if not is_running:
        loading.start()
    cluster.enter_context(joined_cluster(address, with_environments=False))
    if is_running:  # joining takes 0.05 s, and longer next to a thread that loads modules
        loading.start()
    if loading.is_alive() and not starts_early():
        start_processes()
    loading.join()
    if not is_loaded:
        # Or the next search would go through all modules, 0.07 s of CPU. What the calling program
        # had before can be freed again once it has left the cluster.
        gc.freeze()
        cluster.callback(gc.unfreeze)


def _load() -> None:
    for name in NEEDED:
        # One that fails to load fails again where it is used, and its error is raised there;
        # another version of Ray may lack one of its own.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Collect no garbage in a `with` block: the search takes a ninth of loading modules."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
