"""How scoring actors fit on the joined Ray cluster."""

from __future__ import annotations

import logging
import math
import os

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from steel_batch.cluster.pool import READ_CPUS, ActorPool
from steel_batch.cluster.ray_errors import reason_of
from steel_batch.cluster.wait import result_of
from steel_batch.config import MAX_CPUS_PER_ACTOR, RuntimeName, ScoreConfig
from steel_batch.engine.runtime import wants_gpu
from steel_batch.engine.tensorrt import NUM_SLOTS
from steel_batch.errors import MachineError

log = logging.getLogger(__name__)

SHARED_SLOTS = 3
"""Batches in flight per actor, if several actors share a GPU."""
LEFT_CPUS = 2 * READ_CPUS
"""CPUs of an actor that it does not claim, so that read tasks run next to it."""


def choose_runtime(runtime: RuntimeName) -> RuntimeName:
    """Choose the runtime of the scoring actors: ``auto`` is what the cluster's GPU nodes can run.

    The machine that starts a run often has no GPU, so what is installed on it does not matter.

    Raises:
        ConfigError: There is no runtime of that name.
    """
    if runtime != "auto":
        wants_gpu(runtime)
        return runtime
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
    if not nodes:
        return "onnxruntime"
    here = NodeAffinitySchedulingStrategy(nodes[0]["NodeID"], soft=False)
    name = nodes[0]["NodeManagerHostname"]
    is_here = nodes[0]["NodeID"] == ray.get_runtime_context().get_node_id()
    has_gpu_runtime = ray.remote(num_cpus=0, scheduling_strategy=here)(wants_gpu)
    try:
        if wants_gpu("auto") if is_here else result_of(has_gpu_runtime.remote("auto")):
            return "tensorrt"
    except RayError as error:
        raise MachineError(
            f"node {name} of the Ray cluster cannot run steel-batch: {reason_of(error)} Install "
            "the same steel-batch, Python and Ray on every node; `steel-batch doctor` shows what "
            "each has."
        ) from error
    log.warning(
        "the Ray cluster has GPUs, but TensorRT, PyCUDA or NVIDIA's driver is missing on node %s: "
        "ONNX Runtime scores on CPUs. Install steel-batch[gpu] there.",
        name,
    )
    return "onnxruntime"


def actor_pool(config: ScoreConfig, *, on_gpu: bool) -> ActorPool:
    """Compute how many scoring actors the cluster has room for.

    On GPUs, one actor each or as many as share one, with their part of the node's CPUs for
    decoding. On CPUs, actors of at most four CPUs each. Both leave a part of every node to the read
    tasks.

    Raises:
        ConfigError: Not even one actor fits.
    """
    total = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_gpus = total.get("GPU", 0.0)
    if on_gpu:
        if num_gpus < 1 and (config.num_actors is None or not _may_grow(config)):
            raise MachineError(
                "the TensorRT runtime needs a GPU and the Ray cluster has none: start Ray on a GPU "
                "node; or join a cluster with --ray-address, and give --num-actors N if it adds "
                "nodes on demand; or give --runtime onnxruntime."
            )
        per_gpu = min(
            (n.get("CPU", 1.0) / n["GPU"] for n in nodes if n.get("GPU", 0) >= 1),
            default=MAX_CPUS_PER_ACTOR,
        )
        share = config.actors_per_gpu
        most = per_gpu / share
        cpus = config.cpus_per_actor or max(1.0, math.floor(most * 0.75))
        return ActorPool(
            num_actors=config.num_actors or int(num_gpus) * share,
            num_cpus=min(cpus, max(most - LEFT_CPUS, most / 2)),
            num_gpus=1.0 / share,
            num_slots=NUM_SLOTS if share == 1 else SHARED_SLOTS,
            num_threads=max(1, int(cpus)),
        )
    smallest = min((n["CPU"] for n in nodes if n.get("CPU", 0.0) >= 1), default=MAX_CPUS_PER_ACTOR)
    cpus = config.cpus_per_actor or min(MAX_CPUS_PER_ACTOR, smallest)
    room = sum(int(node.get("CPU", 0.0) // cpus) for node in nodes)
    # If there are more actors than room, each node gets as many as fit by their claims.
    left = LEFT_CPUS if (config.num_actors or 0) <= room else LEFT_CPUS * cpus / smallest
    if room < 1 and config.num_actors is None:
        largest = max(node.get("CPU", 0.0) for node in nodes)
        raise MachineError(
            f"no node of the Ray cluster has {cpus:g} CPUs for one scoring actor; the largest of "
            f"{len(nodes)} has {largest:g}. Give a smaller --cpus-per-actor, or --num-actors N "
            "if the cluster adds nodes on demand."
        )
    return ActorPool(
        num_actors=config.num_actors or room,
        num_cpus=max(cpus - left, cpus / 2),
        num_gpus=0.0,
        num_slots=1,
        num_threads=max(1, int(cpus)),
    )


def _may_grow(config: ScoreConfig) -> bool:
    """Whether nodes may join: the cluster was joined, and is not this machine alone."""
    return bool(config.ray_address or os.environ.get("RAY_ADDRESS"))
