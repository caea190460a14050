"""Warns while no node of the cluster can score, as a run then waits without end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import ray

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
LEAVE_SECONDS: Final = 1.0
"""How long the end of a stream waits for a check in progress."""


class NodeWatch:
    """Checks the cluster's nodes from a thread: a `with` block.

    Args:
        num_cpus: CPUs that one scoring actor claims.
        num_gpus: GPUs that it claims.
        seconds: Time between two checks.
    """

    def __init__(self, *, num_cpus: float, num_gpus: float, seconds: float = LOOK_SECONDS) -> None:
        self._num_cpus, self._num_gpus, self._seconds = num_cpus, num_gpus, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nodes", daemon=True)

    def __enter__(self) -> NodeWatch:
        """Start checking."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop checking."""
        self._stop.set()
        self._thread.join(LEAVE_SECONDS)

    def _watch(self) -> None:
        was_lost = False
        while not self._stop.wait(self._seconds):
            try:
                nodes = ray.nodes()
            except Exception:  # noqa: BLE001 - what the cluster lacks, the stream itself finds out
                return
            is_lost = not nodes_that_fit(nodes, self._num_cpus, self._num_gpus)
            if is_lost and not was_lost:
                num_alive = sum(bool(node["Alive"]) for node in nodes)
                log.warning(
                    "none of the %d nodes of the Ray cluster that are alive can score (%g CPUs, "
                    "%g GPUs for each actor); waiting for one to join. Start Ray on a worker, or "
                    "press Ctrl-C: what is scored is kept, and the same command resumes.",
                    num_alive,
                    self._num_cpus,
                    self._num_gpus,
                )
            elif was_lost and not is_lost:
                log.warning("a node of the Ray cluster can score again")
            was_lost = is_lost


def nodes_that_fit(
    nodes: Sequence[Mapping[str, Any]], num_cpus: float, num_gpus: float
) -> list[str]:
    """Names of the live nodes that have room for one scoring actor when idle.

    Args:
        nodes: The result of `ray.nodes`.
        num_cpus: CPUs that one actor claims.
        num_gpus: GPUs that it claims.
    """
    return [
        node["NodeManagerHostname"]
        for node in nodes
        if node["Alive"]
        and node["Resources"].get("CPU", 0.0) >= num_cpus
        and node["Resources"].get("GPU", 0.0) >= num_gpus
    ]
