"""Runs the checks of `cluster.check_machine` on the nodes of the joined Ray cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from steel_batch.cluster.check_machine import Wanted, check
from steel_batch.cluster.wait import wait_for
from steel_batch.engine.finding import Finding
from steel_batch.engine.runtime import wants_gpu

PROBE_SECONDS: Final = 20.0
"""Time limit per node; a process that loads TensorRT for the first time needs some of it."""
GPU_SHARE: Final = 0.01
"""Share of a GPU that a probe claims, so that Ray shows it one; a fully claimed GPU has no room."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeReport:
    """What was found on one node."""

    node: str
    findings: Sequence[Finding]


def check_nodes(wanted: Wanted, *, seconds: float = PROBE_SECONDS) -> list[NodeReport]:
    """Check every node that is alive, all at once.

    If the runtime uses GPUs, nodes without one are checked as nodes that only read.

    Args:
        wanted: What the nodes are to do.
        seconds: Time limit.
    """
    reads = dataclasses.replace(wanted, inference=None)
    on_gpu = wanted.inference is not None and wants_gpu(wanted.inference.runtime)
    return _probe(
        [
            _Probe(node, check, {"wanted": wanted}, on_gpu=True)
            if on_gpu and _num_gpus(node) >= 1
            else _Probe(node, check, {"wanted": reads if on_gpu else wanted}, on_gpu=False)
            for node in ray.nodes()
            if node["Alive"]
        ],
        seconds,
    )


@dataclass(frozen=True, slots=True)
class _Probe:
    node: Mapping[str, Any]
    look: Callable[..., list[Finding]]
    """Its module is imported on the node: the less it imports, the sooner it answers."""
    arguments: Mapping[str, Any]
    on_gpu: bool


def _probe(probes: Sequence[_Probe], seconds: float) -> list[NodeReport]:
    """Let each node check itself; a node that does not answer is a finding."""
    asked = {}
    for probe in probes:
        task = ray.remote(
            num_cpus=0,
            num_gpus=GPU_SHARE if probe.on_gpu else 0,
            max_calls=1 if probe.on_gpu else 0,  # a process that stays alive keeps GPU memory
            max_retries=3,  # and the next probe may still be sent to one that is just ending
            scheduling_strategy=NodeAffinitySchedulingStrategy(probe.node["NodeID"], soft=False),
        )(probe.look)
        asked[task.remote(**probe.arguments)] = probe
    if not asked:
        return []
    done = wait_for(list(asked), num_returns=len(asked), seconds=seconds)
    reports = []
    for ref, probe in asked.items():
        name = probe.node["NodeManagerHostname"]
        if ref in done:
            reports.append(NodeReport(node=name, findings=_findings(ref)))
        else:
            ray.cancel(ref, force=True)
            reports.append(NodeReport(node=name, findings=[_no_answer(probe.on_gpu, seconds)]))
    return reports


def _findings(ref: Any) -> list[Finding]:
    try:
        found: list[Finding] = ray.get(ref)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        reason = (str(cause).strip().splitlines() or [""])[-1].rstrip(".")
        return [
            Finding(
                name="Ray",
                state="wrong",
                found=f"the node cannot be checked: {type(cause).__name__}: {reason}.",
                remedy="Install the same steel-batch, Python and Ray on every node.",
            )
        ]
    return found


def _no_answer(on_gpu: bool, seconds: float) -> Finding:
    if on_gpu:
        found = f"no GPU of this node was free within {seconds:g} s, so it was not checked"
        return Finding(name="Ray", state="note", found=found)
    return Finding(name="Ray", state="wrong", found=f"the node did not answer within {seconds:g} s")


def _num_gpus(node: Mapping[str, Any]) -> float:
    return float(node["Resources"].get("GPU", 0.0))
