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

NEEDED: Final = ("steel_batch.cluster.stream", "steel_batch.pipeline.actors")
"""Modules that import Ray Data and the engine's libraries."""


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
    # A module that fails to load fails again where it is used, and its error is raised there.
    with contextlib.suppress(Exception):
        for name in NEEDED:
            importlib.import_module(name)
