"""Joining the cluster, while this process loads what scoring needs.

Most of the time until a cluster answers, this process only waits for others. Loading Ray Data takes
almost as long, so it is done meanwhile. A command that finds nothing to score loads neither.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
from typing import Final

NEEDED: Final = (
    "steel_batch.cluster.stream",
    "steel_batch.pipeline.actors",
    # Ray loads these for the first dataset, a quarter of a second in which no process starts yet.
    "ray.data._internal.execution.streaming_executor",
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
    from steel_batch.cluster.join import joined_cluster  # imports Ray

    loading = threading.Thread(target=_load, name="load", daemon=True)
    loading.start()
    with joined_cluster(address):
        loading.join()
        yield


def _load() -> None:
    for name in NEEDED:
        # One that fails to load fails again where it is used, and its error is raised there;
        # another version of Ray may lack one of its own.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
