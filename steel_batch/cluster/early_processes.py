"""Has Ray start processes while the command still loads Ray Data.

A process of Ray loads Python and Ray before it can be a scoring actor, the dispatcher or a read
task. Ray starts one when a task or an actor asks for it, and gives an actor only a process that has
run no task. So a task asks, and is cancelled before its process is there.
"""

from __future__ import annotations

import contextlib
from typing import Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MOST_PROCESSES: Final = 3
"""The dispatcher, a scoring actor and a read task. More would take CPUs from the first of them."""
ANSWER_SECONDS: Final = 0.1
"""A process that is idle has run the task by then; a new one has not."""


def start_processes() -> None:
    """Have Ray start processes on this node, unless it has idle ones.

    What fails here fails again where a process is needed, and its error is raised there.
    """
    with contextlib.suppress(Exception):
        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        ask = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=here)(_do_nothing).remote
        asked = [ask()]
        if ray.wait(asked, timeout=ANSWER_SECONDS)[0]:
            return
        asked += [ask() for _ in range(_num_useful(node) - 1)]
        ray.wait(asked, timeout=ANSWER_SECONDS)  # until Ray starts their processes
        for task in asked:
            ray.cancel(task)


def _do_nothing() -> None:
    """What the tasks do if they are not cancelled in time."""


def _num_useful(node_id: str) -> int:
    """How many processes a node is likely to need soon; one if it cannot score."""
    nodes = [node for node in ray.nodes() if node["NodeID"] == node_id]
    cpus = sum(node["Resources"].get("CPU", 0.0) for node in nodes)
    return max(1, min(MOST_PROCESSES, int(cpus)))
