"""The two stages of scoring as a Ray Dataset, and merging as Ray tasks.

One row of the dataset is one shard. Read tasks turn parts of plans into shards of compressed bytes;
scoring actors, each with one engine, turn a shard into staged rows and a receipt. What a part holds
is said while the dataset runs, so one pool of warm actors scores one date or a thousand.
A shard that cannot be read or staged comes back as a failure in its row: an exception would end
the whole dataset.

Ray restarts an actor that died and repeats what it was doing, for ever if the input kills it. An
actor that an image holds up ends itself. So every start of a shard is counted outside of the actor,
and from the second start on the shard's images are decoded in child processes, where the one that
kills or holds up can be found. What ends the process all the same fails its shard in the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import platform
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources, TaskPoolStrategy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from steel_batch import __version__, errors
from steel_batch.config import DECODER
from steel_batch.engine.check import check_gpu, check_packages
from steel_batch.engine.runtime import open_runtime, wants_gpu
from steel_batch.errors import (
    ClusterError,
    ConfigError,
    DeviceError,
    EngineError,
    LakeError,
    SteelBatchError,
    TransientLakeError,
)
from steel_batch.lake import Lake
from steel_batch.merge import Cut, DamagedShardsError, DataFile, merge_shards
from steel_batch.pipeline.dispatcher import PATIENCE_SECONDS, Dispatcher, Opening, Work
from steel_batch.plan import Plan
from steel_batch.read import ShardInput, check_jpegs, read_shards
from steel_batch.receipt import Receipt
from steel_batch.registry import Engine
from steel_batch.score import CHILDREN, ShardScorer
from steel_batch.telemetry import Meter
from steel_batch.watchdog import EXIT_CODE

log = logging.getLogger(__name__)

READ_CPUS: Final = 0.25
"""What a read task claims: it mostly waits for the store."""
READS_PER_ACTOR: Final = 8
"""Read tasks beside an actor on a GPU: each reads and checks 1,000 to 2,000 images a second."""
READS_PER_CPU_ACTOR: Final = 2
SHARDS_PER_READ: Final = 8
"""What one read task is to have at least: beginning one costs as much as reading a small shard."""
CALLS_PER_ACTOR: Final = 4
"""Shards in work at once in one actor, so that nothing drains at a shard's end."""
TASKS_IN_FLIGHT: Final = 8
"""Shards sent to one actor, in work or waiting in its node's memory."""
SHARDS_AHEAD: Final = 64
"""Shards of the largest size that may lie in the cluster's memory for each actor: what is read
further ahead takes CPUs and fresh memory from what is scored now."""
NO_ACTOR: Final = "no GPU is ready yet: one that is in use is waited for"
MERGES_AT_ONCE: Final = 32
MOST_STARTS: Final = 10
"""Starts of one shard after which what ends its process is no image, nor a node that was lost."""
MOST_LOADS: Final = 5
"""Starts of one actor, without one that loaded the engine, after which the engine is to blame."""
BLOCK_BYTES: Final = 1 << 20
"""Less than any shard, so that every shard is a block and goes to whichever actor is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the stages need to know; small, and the same for every shard of every run."""

    lake: Lake
    store: Lake
    engine: Engine
    decoder: str
    decode_seconds: float
    decode: str
    runtime: str
    precision: str
    batch_size: int | None
    shard_bytes: int
    """Of the largest shard, unless one image is larger."""
    num_threads: int
    num_slots: int
    """Batches in flight of each actor on a GPU."""
    version: str = __version__
    """Of steel-batch, where the command was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorPool:
    """How many scoring actors there are and what each claims."""

    num_actors: int
    num_cpus: float
    num_gpus: float
    num_threads: int
    num_slots: int
    """Batches in flight on a GPU."""

    @property
    def num_reads(self) -> int:
        """Read tasks at a time that keep it busy."""
        return self.num_actors * (READS_PER_ACTOR if self.num_gpus else READS_PER_CPU_ACTOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardResult:
    """What became of one shard."""

    run_id: str
    shard: int
    receipt: Receipt | None = None
    failure: str | None = None
    transient: bool = True
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What the requests met with that it took to read and to stage it; see `Lake.counts`."""


_RESULT = pa.schema(
    [
        ("run_id", pa.string()),
        ("shard", pa.int32()),
        ("receipt", pa.binary()),
        ("failure", pa.string()),
        ("transient", pa.bool_()),
        ("counts", pa.map_(pa.string(), pa.int64())),
        ("error", pa.string()),  # kind of what keeps an actor from scoring anything
    ]
)


class ReadStage:
    """Parts of works in, shards of compressed bytes out."""

    def __init__(self, setup: Setup, dispatcher: Any) -> None:
        self._setup = setup
        self._dispatcher = dispatcher

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Read the wanted shards of each part, one row group of the plan after the other."""
        for row in batch.to_pylist():
            # While it waits in here, Ray lends the task's CPU to others.
            work: Work | None = ray.get(self._dispatcher.take.remote(**row))
            if work is None:
                continue
            for shard in self._read(work):
                yield shard.to_wire()

    def _read(self, work: Work) -> Iterator[ShardInput]:
        setup, meter = self._setup, Meter(self._setup.lake, self._setup.store)
        left = {shard for shards in work.pending.values() for shard in shards}
        try:
            plan = Plan(setup.store, work.run_id, digest=work.plan_digest)
            for group, shards in work.pending.items():
                refs = plan.read_group(group)
                for shard in read_shards(setup.lake, work.run_id, work.plan_digest, refs, shards):
                    left.remove(shard.shard)
                    if setup.decoder == DECODER:
                        shard = check_jpegs(shard)
                    yield dataclasses.replace(shard, counts=meter.take())
        except (SteelBatchError, pa.ArrowException) as error:
            damaged = LakeError(f"the run's plan cannot be read: {error}")
            failure = error if isinstance(error, LakeError) else damaged
            for number in sorted(left):
                yield ShardInput.failed(work.run_id, work.plan_digest, number, failure)


class ScoreStage:
    """Shards of compressed bytes in, receipts out: one actor with one engine."""

    def __init__(self, setup: Setup, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._scorer: ShardScorer | SteelBatchError
        actor = ray.get_runtime_context().get_actor_id()
        error: SteelBatchError | None = None
        try:
            if ray.get(dispatcher.load.remote(actor)) > MOST_LOADS:
                raise EngineError(
                    f"loading the engine ended its process {MOST_LOADS} times: memory is used up, "
                    "or the runtime crashes. The logs of Ray's workers say more."
                )
            self._scorer = _open_scorer(setup, dispatcher.note.remote)
        except SteelBatchError as caught:  # raised here, Ray would leave but its words, and restart
            self._scorer = error = caught
        dispatcher.answer.remote(actor, platform.node(), error)
        self._meter = Meter(setup.store)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score the shards of a batch, which holds one."""
        results = [self._score(ShardInput.from_wire(batch, row)) for row in range(batch.num_rows)]
        return pa.Table.from_pylist(results, schema=_RESULT)

    def _score(self, shard: ShardInput) -> dict[str, Any]:
        row: dict[str, Any] = {
            "run_id": shard.run_id,
            "shard": shard.shard,
            "receipt": None,
            "failure": shard.failure,
            "transient": shard.transient,
            "counts": list(shard.counts.items()),
            "error": None,
        }
        if isinstance(self._scorer, SteelBatchError):
            return row | _failure(self._scorer)
        if shard.failure is not None:
            return row
        attempt = ray.get(self._dispatcher.start.remote(shard.run_id, shard.shard))
        if attempt > MOST_STARTS:
            self._dispatcher.finish.remote(shard.run_id, shard.shard)
            return row | {
                "failure": f"scoring it ended its process {MOST_STARTS} times, also where its "
                "images were decoded in processes of their own: memory is used up, or the engine "
                "or the GPU fails. The logs of Ray's workers say more.",
                "transient": True,
            }
        try:
            receipt = self._scorer.score(shard, isolated=attempt > 1)
        except DeviceError as error:  # another process may use the GPU, or find that it is gone
            log.error("ending, so that the actor is started anew: %s", error)
            os._exit(EXIT_CODE)
        except SteelBatchError as error:
            row |= _failure(error)
        else:
            row["receipt"] = receipt.to_json()
        # Of the shards that are in work at once, the first that is done has the others' so far.
        row["counts"] = list((Counter(shard.counts) + Counter(self._meter.take())).items())
        self._dispatcher.finish.remote(shard.run_id, shard.shard)
        return row


def _failure(error: SteelBatchError) -> dict[str, Any]:
    """What a row says of an error: of the lake, it costs a try; another one ends the run."""
    return {
        "failure": error.message,
        "transient": isinstance(error, TransientLakeError),
        "error": None if isinstance(error, LakeError) else type(error).__name__,
    }


def _open_scorer(setup: Setup, note: Callable[[str], object]) -> ShardScorer:
    on_gpu = wants_gpu(setup.runtime)
    if on_gpu:
        _look_at_gpu(setup, note)
    runtime = open_runtime(
        setup.engine,
        runtime=setup.runtime,
        precision=setup.precision,
        batch_size=setup.batch_size,
        num_threads=setup.num_threads,
        decode=setup.decode if setup.decoder == DECODER else "cpu",
        num_slots=setup.num_slots,
    )
    return ShardScorer(
        runtime,
        setup.engine.card,
        setup.store,
        decoder=setup.decoder,
        decode_seconds=setup.decode_seconds,
        num_threads=setup.num_threads,
        num_children=CHILDREN if on_gpu else 0,
    )


def _look_at_gpu(setup: Setup, note: Callable[[str], object]) -> None:
    """See that this process's GPU can score, before it is loaded with anything.

    Raises:
        ConfigError: It cannot; the message says what is here and what mends it.
    """
    findings = [
        check_packages(setup.version),
        *check_gpu(
            setup.engine,
            setup.runtime,
            precision=setup.precision,
            batch_size=setup.batch_size,
            num_slots=setup.num_slots,
        ),
    ]
    wrong = [f"{finding.name}: {finding.text}" for finding in findings if finding.state == "wrong"]
    if wrong:
        raise ConfigError(" ".join(wrong))
    for finding in findings:
        if finding.name == "plan" and not finding.is_ok:
            note(finding.found)


class ShardStream:
    """Scores works on the cluster with one pool of actors: a `with` block.

    Where GPUs score, nothing is read before their actors have loaded the engine: an actor that
    cannot ends the stream.

    Args:
        setup: Engine, places and how to run.
        pool: The scoring actors.
        num_works: How many works there will be; they are begun in order.
        num_parts: Into how many tasks the reading of each work is divided.
        observe: Told how far the actors on GPUs are, from a thread, until reading begins.
    """

    def __init__(
        self,
        setup: Setup,
        pool: ActorPool,
        *,
        num_works: int,
        num_parts: int,
        observe: Callable[[Opening], None],
    ) -> None:
        self._setup, self._pool, self._observe = setup, pool, observe
        self._rows = [
            {"index": index, "part": part, "num_parts": num_parts}
            for index in range(num_works)
            for part in range(num_parts)
        ]
        # On the driver's own node: the loss of any other one costs shards and not the run.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._num_awaited = pool.num_actors if pool.num_gpus else 0
        self._dispatcher = ray.remote(num_cpus=0, scheduling_strategy=here)(Dispatcher).remote(
            num_awaited=self._num_awaited
        )
        self._watcher = threading.Thread(target=self._watch_opening, daemon=True)

    def __enter__(self) -> ShardStream:
        """Begin to watch the actors."""
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching, however far they are."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._dispatcher)
        self._watcher.join()

    def _watch_opening(self) -> None:
        """Tell how far the actors are, until they have answered or the stream ends."""
        num_notes = 0
        with contextlib.suppress(ray.exceptions.RayError):
            while True:
                asked = self._dispatcher.opening.remote(num_notes)
                if num_notes == 0 and not ray.wait([asked], timeout=PATIENCE_SECONDS)[0]:
                    self._observe(Opening(is_over=False, num_answers=0, notes=[NO_ACTOR]))
                opening: Opening = ray.get(asked)
                self._observe(opening)
                if opening.is_over:
                    break
                num_notes = len(opening.notes)
            if opening.num_answers < self._num_awaited:
                log.warning(
                    "%d of %d scoring actors are ready; the others are not waited for: their GPUs "
                    "may be in use.",
                    opening.num_answers,
                    self._num_awaited,
                )

    def put(self, index: int, work: Work | None) -> None:
        """Say what a work is; None ends it, as far as it is not begun. From any thread."""
        self._dispatcher.put.remote(index, work)  # not waited for: its process may just start

    def put_if_unknown(self, index: int, work: Work | None) -> None:
        """Say what a work is, unless that was said. From any thread."""
        self._dispatcher.put_if_unknown.remote(index, work)

    def results(self) -> Iterator[ShardResult]:
        """What becomes of each shard of each work, as it happens.

        Raises:
            ClusterError: Ray gave up: what has a receipt is kept.
            SteelBatchError: An actor cannot score.
        """
        pool = self._pool
        _configure_data(pool.num_actors * SHARDS_AHEAD * self._setup.shard_bytes)
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
                    max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT,
                    max_concurrent_calls_per_actor=CALLS_PER_ACTOR,
                    enable_true_multi_threading=True,
                ),
            )
        )
        batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        with _ray_errors():
            for batch in batches:
                for row in batch.to_pylist():
                    text, counts = row.pop("receipt"), dict(row.pop("counts"))
                    if kind := row.pop("error"):
                        raise getattr(errors, kind)(row["failure"])
                    receipt = None if text is None else Receipt.from_json(text)
                    yield ShardResult(receipt=receipt, counts=counts, **row)
            if error := ray.get(self._dispatcher.refusal.remote()):
                raise error


@contextlib.contextmanager
def _ray_errors() -> Iterator[None]:
    """Turn Ray's errors into ours: the cause where it is one of ours, else `ClusterError`."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = _cause_of(error)
        if isinstance(cause, SteelBatchError):
            # Ray Data writes advice of its own below the message.
            cause.args = (cause.message.partition("\n")[0],)
            raise cause from error
        raise ClusterError(f"a task on the Ray cluster failed: {reason_of(cause)}") from error
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"the Ray cluster failed ({type(error).__name__}): {reason_of(error)} What has its "
            "receipt is kept: run the same command again."
        ) from error


def _cause_of(error: BaseException) -> BaseException:
    """What was raised in the task: what Ray makes of it has a remote traceback for a message."""
    while True:
        inner = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error.__cause__
        if inner is None or (isinstance(error, SteelBatchError) and not _is_rays(error)):
            return error
        error = inner


def _is_rays(error: BaseException) -> bool:
    return isinstance(error, ray.exceptions.RayError)


def reason_of(error: BaseException) -> str:
    """What went wrong, out of a message that holds a remote traceback."""
    lines = [line.strip() for line in str(error).splitlines()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    return (named or lines or [type(error).__name__])[-1].rstrip(".") + "."


def _configure_data(memory_bytes: int) -> None:
    context = DataContext.get_current()
    context.target_max_block_size = BLOCK_BYTES
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=memory_bytes
    )
    # A date may be planned, and a plan built, for longer than Ray takes to call that a failure.
    context.execution_no_progress_timeout_s = -1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _merge(
    store: Lake, run_id: str, number: int, shards: range
) -> tuple[DataFile | SteelBatchError, dict[str, int]]:
    meter = Meter(store)
    found: DataFile | SteelBatchError
    try:
        found = merge_shards(store, run_id, number, shards)
    except SteelBatchError as error:  # raised, Ray would give it a traceback for a message
        found = error
    return found, meter.take()


def merge_files(
    store: Lake,
    run_id: str,
    cuts: Sequence[Cut],
    on_file: Callable[[Mapping[str, int]], None],
) -> tuple[dict[Cut, DataFile], dict[int, str]]:
    """Merge shards into files, many at once. An error cancels the merges that run.

    Args:
        store: The store.
        run_id: The run.
        cuts: The files.
        on_file: Called as each file is done, with what its requests met with (`Lake.counts`).

    Returns:
        The files that are complete, and of the shards of the others what was found damaged.

    Raises:
        LakeError: The store failed for good.
    """
    merge = ray.remote(num_cpus=READ_CPUS, max_retries=3)(_merge)
    files: dict[Cut, DataFile] = {}
    damaged: dict[int, str] = {}
    waiting = list(cuts)[::-1]
    running: dict[Any, Cut] = {}
    try:
        while waiting or running:
            while waiting and len(running) < MERGES_AT_ONCE:
                cut = waiting.pop()
                running[merge.remote(store, run_id, *cut)] = cut
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            cut = running.pop(done)
            with _ray_errors():
                result, counts = ray.get(done)
            on_file(counts)
            if isinstance(result, DataFile):
                files[cut] = result
            elif isinstance(result, DamagedShardsError):
                log.warning("file %d is not merged: %s", cut[0], result)
                damaged |= result.shards
            else:
                raise result
    finally:
        for task in running:
            ray.cancel(task)
    return files, damaged
