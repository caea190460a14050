"""Starts the dispatcher's process while this one still loads Ray Data.

Until then, a core of a small machine is idle; afterwards, the processes that score and read start,
and the first image waits for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from steel_batch.cluster.dispatcher import Dispatcher

_started: Final[list[Any]] = []


@contextlib.contextmanager
def early_dispatcher() -> Iterator[None]:
    """Start one on the joined cluster, for the first stream of a `with` block, if any."""
    _started.append(_start())
    try:
        yield
    finally:
        while _started:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(_started.pop())


def take_dispatcher(num_awaited: int) -> Any:
    """A dispatcher that nobody else has: the one that was started early, or another one.

    Args:
        num_awaited: See `Dispatcher`.
    """
    dispatcher = _started.pop() if _started else _start()
    dispatcher.expect.remote(num_awaited)
    return dispatcher


def _start() -> Any:
    # On the driver's own node: losing any other node costs shards and not the run.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Dispatcher).remote()
