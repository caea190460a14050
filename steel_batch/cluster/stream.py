"""The stages as a Ray Dataset: work items in, the result of each shard out.

Work items may be set while the dataset runs, so one pool of warm actors scores one date or a
thousand.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Final

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources, TaskPoolStrategy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from steel_batch import interrupt
from steel_batch.cluster.block_stats import ForgetBlockStats
from steel_batch.cluster.dispatcher import PATIENCE_SECONDS, Dispatcher, StartupStatus, Work
from steel_batch.cluster.node_watch import NodeWatch
from steel_batch.cluster.notices import keep_traces_off_the_terminal, notices_of_work
from steel_batch.cluster.own_cluster import own_services
from steel_batch.cluster.pool import READ_CPUS, ActorPool
from steel_batch.cluster.process_end import data_threads_ended
from steel_batch.cluster.quick_steps import quick_steps
from steel_batch.cluster.ray_errors import ray_errors
from steel_batch.cluster.read_stage import ReadStage
from steel_batch.cluster.score_stage import ScoreStage, Setup
from steel_batch.cluster.stop_when_asked import StopWhenAsked
from steel_batch.cluster.wait import result_of
from steel_batch.scoring.shard_result import ShardResult

log = logging.getLogger(__name__)

BLOCK_BYTES: Final = 1 << 10
"""Smaller than any shard, so that every shard is a block: it is sent as soon as it is read, and to
whichever actor is free."""
MOST_CALLS: Final = 100_000
"""Calls of the dispatcher at a time: read tasks and shards wait there for the actors."""
NO_ACTOR: Final = "no GPU is ready yet: waiting for one that is in use, or for a node to be added"
SLOW_START: Final = "the cluster is slow to start a process"


class ShardStream:
    """Scores work items on the cluster with one pool of actors: a `with` block.

    If GPUs score, nothing is scored before their actors have loaded the engine: an actor that
    cannot load it ends the stream. Each read task reads its first shards meanwhile.

    Args:
        setup: Engine, places and settings.
        pool: The scoring actors.
        num_works: Number of work items; they are started in order.
        num_parts: Number of read tasks per work item.
        observe: Called from a thread with the state of the actors on GPUs, until scoring begins.
    """

    def __init__(
        self,
        setup: Setup,
        pool: ActorPool,
        *,
        num_works: int,
        num_parts: int,
        observe: Callable[[StartupStatus], None],
    ) -> None:
        self._setup, self._pool, self._observe = setup, pool, observe
        self._rows = [
            {"index": index, "part": part, "num_parts": num_parts}
            for index in range(num_works)
            for part in range(num_parts)
        ]
        # On the driver's own node: losing any other node costs shards and not the run.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._num_awaited = pool.num_actors if pool.num_gpus else 0
        self._dispatcher = ray.remote(
            num_cpus=0, max_concurrency=MOST_CALLS, scheduling_strategy=here
        )(Dispatcher).remote(num_awaited=self._num_awaited)
        self._results: Generator[ShardResult, None, None] | None = None
        self._watcher = threading.Thread(target=self._watch_startup, daemon=True)
        self._nodes = NodeWatch(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus)

    def __enter__(self) -> ShardStream:
        """Start to watch the actors."""
        self._watcher.start()
        self._nodes.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the dataset and the watch, whatever their progress."""
        if self._results is not None:
            self._results.close()  # or it continues until Python collects it, even without Ray
        self._nodes.__exit__()
        # After a shutdown, Ray would start a cluster for this call, and its wait may never return.
        if ray.is_initialized():
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(self._dispatcher)
            self._watcher.join()

    def _watch_startup(self) -> None:
        """Report the state of the actors, until all have answered or the stream ends."""
        num_notes = 0
        with contextlib.suppress(ray.exceptions.RayError):
            while (status := self._startup(num_notes)) is not None:
                self._observe(status)
                if status.is_over:
                    if status.num_answers < self._num_awaited:
                        log.warning(
                            "%d of %d scoring actors are ready; starting without the others, whose "
                            "GPUs may be in use.",
                            status.num_answers,
                            self._num_awaited,
                        )
                    return
                num_notes = len(status.notes)

    def _startup(self, num_notes: int) -> StartupStatus | None:
        """The state of the actors, once start-up is over or there are more than `num_notes`.

        None if Ray was shut down: it would start a cluster for each further call.
        """
        if not ray.is_initialized():
            return None
        asked = self._dispatcher.startup.remote(num_notes)
        while num_notes == 0 and not ray.wait([asked], timeout=PATIENCE_SECONDS)[0]:
            if not ray.is_initialized():
                return None
            note = NO_ACTOR if self._num_awaited else SLOW_START
            self._observe(StartupStatus(is_over=False, num_answers=0, notes=[note]))
        return ray.get(asked) if ray.is_initialized() else None  # or it was cancelled

    def put(self, index: int, work: Work | None) -> None:
        """Set a work item; None ends it, unless it has started. Callable from any thread."""
        self._dispatcher.put.remote(index, work)  # not awaited: its process may just be starting

    def put_if_unknown(self, index: int, work: Work | None) -> None:
        """Set a work item, unless it was already set. Callable from any thread."""
        self._dispatcher.put_if_unknown.remote(index, work)

    def firsts(self) -> Mapping[str, float]:
        """When each step of start-up was first reached; see `Dispatcher.firsts`.

        The dispatcher is on this node, so these are seconds of this process's monotonic clock.
        """
        return dict(result_of(self._dispatcher.firsts.remote()))

    def results(self) -> Iterator[ShardResult]:
        """Yield the result of each shard of each work item as it finishes; to be called once.

        Raises:
            ClusterError: Ray gave up: shards with a receipt are kept.
            Interrupted: A signal asked to stop.
            SteelBatchError: An actor cannot score.
        """
        self._results = self._iterate()
        return self._results

    def _iterate(self) -> Generator[ShardResult, None, None]:
        with (
            own_services(),
            interrupt.restored(),
            ray_errors(),
            contextlib.ExitStack() as starting,
            data_threads_ended(),
            contextlib.closing(self._batches()) as found,
            notices_of_work(),
        ):
            starting.enter_context(quick_steps())
            for batch in found:
                starting.close()
                interrupt.check()
                for result in ShardResult.from_wire(batch):
                    if result.error_kind is not None:
                        self._check_actors()
                    result.check()
                    yield result
            self._check_actors()

    def _check_actors(self) -> None:
        if error := result_of(self._dispatcher.refusal.remote()):
            raise error

    def _batches(self) -> Any:
        """The generator of the dataset's tables, which executes it."""
        pool = self._pool
        _configure_data(pool.memory_bytes(self._setup.shard_bytes))
        dataset = (
            ray.data.from_items(self._rows, override_num_blocks=len(self._rows))
            .map_batches(
                ReadStage(self._setup, self._dispatcher).__call__,
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=READ_CPUS,
                compute=TaskPoolStrategy(size=min(pool.num_reads, len(self._rows))),
            )
            .map_batches(
                ScoreStage,
                fn_constructor_args=[self._setup, self._dispatcher],
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus or None,
                compute=ActorPoolStrategy(
                    size=pool.num_actors,
                    max_tasks_in_flight_per_actor=pool.supply.num_in_flight,
                    max_concurrent_calls_per_actor=pool.supply.num_in_work,
                    enable_true_multi_threading=True,
                ),
            )
        )
        return iter(
            dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        )


def _configure_data(memory_bytes: int) -> None:
    context = DataContext.get_current()
    context.target_max_block_size = BLOCK_BYTES
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=memory_bytes
    )
    # Planning a date or building a compiled plan may take longer than Ray waits before it fails.
    context.execution_no_progress_timeout_s = -1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    # Ray Data sends this to each task, whose process would load the detectors, 0.06 s of CPU; they
    # would only write to the log that is off.
    context.issue_detectors_config = SimpleNamespace(detectors=[])
    callbacks = context.custom_execution_callback_classes
    callbacks += [found for found in (StopWhenAsked, ForgetBlockStats) if found not in callbacks]
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    keep_traces_off_the_terminal()
