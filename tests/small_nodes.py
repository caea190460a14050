"""Ray nodes that this machine pretends to be, with the processes of `own_head` alone.

`ray.init` and `ray.cluster_utils` start servers of a dashboard, an autoscaler and monitors of logs
with each of them, which takes longer than most tests. Ray Data's own actors are not left out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from ray._private.parameter import RayParams

from steel_batch.cluster.own_head import _Head as Node

SMALL = {
    "include_dashboard": False,
    "include_log_monitor": False,
    "no_monitor": True,
    "object_store_memory": 150 << 20,
}
WITHOUT_SPARE = {"RAY_prestart_worker_first_driver": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""A driver starts a process for each CPU of its node else."""


@contextlib.contextmanager
def small_head(**settings: Any) -> Iterator[Node]:
    """A head for a `with` block, whose `address` `ray.init` joins.

    Args:
        settings: Of Ray's `RayParams`, as ``num_cpus``.
    """
    for name, value in WITHOUT_SPARE.items():
        os.environ.setdefault(name, value)
    head = Node(
        RayParams(**SMALL | settings), head=True, shutdown_at_exit=True, spawn_reaper=True,
        ray_init_cluster=True,
    )  # fmt: skip
    with _running(head):
        yield head


@contextlib.contextmanager
def small_worker(head: Node, **settings: Any) -> Iterator[Node]:
    """Another node of the head's cluster for a `with` block; `lose` ends it as a power cut does."""
    params = RayParams(
        gcs_address=head.gcs_address, node_manager_port=0, min_worker_port=0, max_worker_port=0,
        **SMALL | settings,
    )  # fmt: skip
    with _running(Node(params, head=False, shutdown_at_exit=True, spawn_reaper=True)) as worker:
        yield worker


def lose(node: Node) -> None:
    """End all processes of a node at once."""
    node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
    assert not node.any_processes_alive()


@contextlib.contextmanager
def _running(node: Node) -> Iterator[Node]:
    try:
        yield node
    finally:
        node.kill_all_processes(check_alive=False, allow_graceful=True)
