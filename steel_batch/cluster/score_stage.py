"""The score stage: actors that turn shards into staged rows, and what happens when one dies.

One row of the dataset is one shard. Read tasks (`read_stage`) turn parts of plans into shards of
compressed bytes; scoring actors, each with one engine, turn a shard into staged rows and a receipt.
A shard that cannot be read or staged comes back with its failure in the row: an exception would end
the whole dataset.

Ray restarts an actor that died and repeats its task, without end if the input kills it. An actor
ends itself if an image hangs it or its GPU fails. So every start of a shard is counted outside the
actor, and from the second start on, the shard's images are decoded in child processes, where the
image that crashes or hangs can be found. If the process still ends, the shard fails after a number
of starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import platform
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import ray

from steel_batch.cluster.agreement import Agreement
from steel_batch.cluster.process_end import skip_exit_handlers
from steel_batch.config import DecodeOn, DecodeSettings, Limits, RuntimeSettings
from steel_batch.engine.check import check_gpu
from steel_batch.engine.gpu import open_early, open_gpu
from steel_batch.engine.nvjpeg import load_nvjpeg, start_early
from steel_batch.engine.runtime import let_gpu_decode, load_libraries, open_runtime, wants_gpu
from steel_batch.errors import (
    DeviceError,
    EngineError,
    MachineError,
    SteelBatchError,
    TransientLakeError,
)
from steel_batch.images.watchdog import EXIT_CODE
from steel_batch.lake import Lake
from steel_batch.registry.versions import Engine
from steel_batch.runs.events import Meter
from steel_batch.scoring.children import NONE, Children
from steel_batch.scoring.memory import keep_freed_memory
from steel_batch.scoring.scorer import BATCHES_PER_SLOT, ShardScorer
from steel_batch.scoring.shard import ShardInput
from steel_batch.scoring.shard_result import ShardResult

log = logging.getLogger(__name__)

MOST_STARTS: Final = 10
"""Starts of one shard after which neither an image nor a lost node can be the reason."""
MOST_LOADS: Final = 5
"""Starts of one actor, without one that loaded the engine, after which the engine is to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the stages need to know; small, and the same for every shard of every run."""

    lake: Lake
    store: Lake
    engine: Engine
    inference: RuntimeSettings
    """With the runtime that the cluster has, never ``auto``."""
    decoding: DecodeSettings
    limits: Limits
    """What may be read of an image or a container."""
    infer_seconds: float
    shard_bytes: int
    """Size of the largest shard, unless a single image is larger."""
    num_threads: int
    num_slots: int
    """Batches in flight per actor on a GPU."""
    agreement: Agreement
    """What each node must have in common with the machine of the command."""


class ScoreStage:
    """Turns shards of compressed bytes into receipts: one actor with one engine."""

    def __init__(self, setup: Setup, dispatcher: Any) -> None:
        keep_freed_memory()
        skip_exit_handlers()
        self._dispatcher = dispatcher
        self._scorer: ShardScorer | SteelBatchError
        actor = ray.get_runtime_context().get_actor_id()
        error: SteelBatchError | None = None
        try:
            if ray.get(dispatcher.load.remote(actor)) > MOST_LOADS:
                raise EngineError(
                    f"loading the engine ended its process {MOST_LOADS} times: it is out of "
                    "memory, or the runtime crashes. Check the logs of Ray's workers."
                )
            setup.agreement.check()
            self._scorer = _open_scorer(setup, dispatcher.note.remote)
        except SteelBatchError as caught:  # Ray would keep only its text, and restart the actor
            self._scorer, error = setup.agreement.blame(caught), caught
        dispatcher.answer.remote(actor, platform.node(), error)
        self._meter = Meter(setup.store)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score the shards of a batch, which holds one shard."""
        shards = [ShardInput.from_wire(batch, row) for row in range(batch.num_rows)]
        return pa.concat_tables([self._score(shard).to_wire() for shard in shards])

    def _score(self, shard: ShardInput) -> ShardResult:
        result = ShardResult.of(shard)
        if shard.failure is not None:
            return result
        attempt = ray.get(self._dispatcher.start.remote(shard.run_id, shard.shard))
        if attempt is None:
            return result.failed(EngineError("not every actor can score."))
        if isinstance(self._scorer, SteelBatchError):
            self._dispatcher.finish.remote(shard.run_id, shard.shard)
            return result.failed(self._scorer)
        if attempt > MOST_STARTS:
            self._dispatcher.finish.remote(shard.run_id, shard.shard)
            return result.failed(
                TransientLakeError(
                    f"scoring it ended its process {MOST_STARTS} times, even with its images "
                    "decoded in child processes: it is out of memory, or the engine or the GPU "
                    "fails. Check the logs of Ray's workers."
                )
            )
        try:
            receipt = self._scorer.score(shard, isolated=attempt > 1)
        except DeviceError as error:  # another process may use the GPU, or find that it is gone
            log.error("ending this process, so that the actor is restarted: %s", error)
            os._exit(EXIT_CODE)
        except SteelBatchError as error:
            result = result.failed(error)
        else:
            result = dataclasses.replace(result, receipt=receipt)
        # Of concurrent shards, the first to finish also reports the others' counts so far.
        counts = Counter(shard.counts) + Counter(self._meter.take()) + self._scorer.take_counts()
        self._dispatcher.finish.remote(shard.run_id, shard.shard)
        return dataclasses.replace(result, counts=counts)


def _open_scorer(setup: Setup, note: Callable[[str], object]) -> ShardScorer:
    on_gpu = wants_gpu(setup.inference.runtime)
    decode_on = setup.decoding.decode_on if setup.decoding.is_usual else "cpu"
    children = NONE
    with ExitStack() as started:
        if on_gpu:
            is_open = threading.Event()
            starting = threading.Thread(
                target=_start_gpu, args=(decode_on, is_open), name="start GPU", daemon=True
            )
            starting.start()
            started.callback(starting.join)
            children = Children.start(
                setup.engine.card.post_process,
                setup.store,
                num_describers=BATCHES_PER_SLOT * setup.num_slots,
            )
            started.callback(children.close)
            load_libraries(setup.inference.runtime, decode_on)
            is_open.wait()
            _look_at_gpu(setup, note)
            if decode_on == "gpu":
                load_nvjpeg()  # says that it is missing before a plan is built
        runtime = open_runtime(
            setup.engine,
            setup.inference,
            num_threads=setup.num_threads,
            num_slots=setup.num_slots,
        )
        started.callback(runtime.close)
        scorer = ShardScorer(
            runtime,
            setup.engine.card,
            setup.store,
            setup.decoding,
            limits=setup.limits,
            infer_seconds=setup.infer_seconds,
            num_threads=setup.num_threads,
            children=children,
        )
        started.callback(scorer.close)
        let_gpu_decode(runtime, setup.engine.card, decode_on)
        started.pop_all()
        return scorer


def _start_gpu(decode_on: DecodeOn, is_open: threading.Event) -> None:
    """Open the GPU, then nvJPEG, while the engine is read; what fails here fails again there."""
    try:
        open_early()
        with contextlib.suppress(SteelBatchError):
            open_gpu()
    finally:
        is_open.set()
    if decode_on != "cpu":
        start_early()


def _look_at_gpu(setup: Setup, note: Callable[[str], object]) -> None:
    """Check that this process's GPU can score, before the engine is loaded.

    Raises:
        ConfigError: It cannot; the message states what was found and how to repair it.
    """
    findings = check_gpu(setup.engine, setup.inference, num_slots=setup.num_slots)
    wrong = [f"{finding.name}: {finding.text}" for finding in findings if finding.state == "wrong"]
    if wrong:
        raise MachineError(" ".join(wrong))
    for finding in findings:
        if finding.name == "plan" and not finding.is_ok:
            note(finding.found)
