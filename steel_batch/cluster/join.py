"""Joins or starts the Ray cluster of a run, and decides how scoring actors fit on it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from steel_batch import interrupt
from steel_batch.cluster.address import is_refusal, own_token, reached
from steel_batch.cluster.notices import Notices
from steel_batch.cluster.ray_errors import reason_of
from steel_batch.cluster.ray_folder import check_ray_folder
from steel_batch.cluster.stream import READ_CPUS, ActorPool
from steel_batch.cluster.wait import result_of
from steel_batch.config import MAX_CPUS_PER_ACTOR, RuntimeName, ScoreConfig
from steel_batch.engine.runtime import wants_gpu
from steel_batch.engine.tensorrt import NUM_SLOTS
from steel_batch.errors import ClusterError, MachineError
from steel_batch.lake.files import working_in
from steel_batch.silence import STDERR, silenced, stdout_replaced

log = logging.getLogger(__name__)

SHARED_SLOTS = 3
"""Batches in flight per actor, if several actors share a GPU."""
LEFT_CPUS = 2 * READ_CPUS
"""CPUs of an actor that it does not claim, so that read tasks run next to it."""
HOW_TO_SIGN_IN = (
    "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token, or "
    "put it into ~/.ray/auth_token; on the head, `ray get-auth-token` prints it."
)


@contextlib.contextmanager
def joined_cluster(address: str | None, *, wait_seconds: float = 20.0) -> Iterator[None]:
    """Join the Ray cluster at `address` or ``RAY_ADDRESS``, or start one here; leave it afterwards.

    Does nothing if this process is already connected.

    Args:
        address: Address of the head, or None.
        wait_seconds: How long to wait for an answer; Ray alone would wait for a quarter of an hour.

    Raises:
        ConfigError: There is no cluster at the address, or it refuses this process.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # The first failed task's error ends the run; of the others Ray would print tracebacks.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    with (
        tempfile.TemporaryDirectory(prefix="steel-batch-", ignore_cleanup_errors=True) as own,
        contextlib.ExitStack() as signed_in,
    ):
        _init(address, wait_seconds, signed_in, Path(own))
        with stdout_replaced(Notices()):  # some notices arrive late
            try:
                interrupt.check()  # joining takes seconds
                yield
            finally:
                with _uninterrupted():
                    ray.shutdown()


def _init(
    address: str | None, wait_seconds: float, signed_in: contextlib.ExitStack, folder: Path
) -> None:
    """Connect this process, for as long as `signed_in` is open.

    Ray's workers import from the folder in which this is done, so it is an empty one of our own.
    """
    found = address
    try:
        if address is None:
            check_ray_folder()
            signed_in.enter_context(own_token())
        else:
            found = signed_in.enter_context(reached(address, seconds=wait_seconds))
        # Keep Ray's native notices off a terminal that shows progress; errors are exceptions.
        with silenced(STDERR), _own_sigterm(), working_in(folder):
            ray.init(
                # Without "local", Ray joins whatever cluster was last seen on this machine.
                address=found or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        if address is None:
            raise ClusterError(
                f"Ray does not start: {first_sentence(error)} Check the node's memory and disk, "
                "and the logs in Ray's session folder."
            ) from error
        advice = (
            "Give the address of its head, such as head:6379, with --ray-address or RAY_ADDRESS, "
            "or none to run on this machine."
        )
        raise MachineError(
            f"the Ray cluster at {address!r} cannot be joined: {first_sentence(error)} "
            f"{HOW_TO_SIGN_IN if is_refusal(error) else advice}"
        ) from error


def first_sentence(error: Exception) -> str:
    """The first sentence of Ray's message; advice, links and traces follow it."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    first, *_ = re.split(r"\.\s|\n", text.strip())
    return f"{first.rstrip('.:') or type(error).__name__}."


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's SIGTERM handler: Ray's own exits with code 15."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore further signals of impatient people: Ray turns an interrupted shutdown into exit 1.

    For about a second of it, Ray still lets a SIGTERM end the process, but not if `interrupt` is
    installed: then every thread blocks the signals, including Ray's own threads.
    """
    if interrupt.is_installed() or threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


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
    return (config.ray_address or os.environ.get("RAY_ADDRESS")) is not None
