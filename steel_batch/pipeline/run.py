"""Score one date, from its lock to its result."""

from __future__ import annotations

import contextlib
import time

from steel_batch.cluster.dispatcher import StartupStatus
from steel_batch.errors import LakeError, TransientLakeError
from steel_batch.pipeline.cluster_start import started_cluster
from steel_batch.pipeline.open_date import open_date
from steel_batch.pipeline.scope import DateScope
from steel_batch.pipeline.states import DamagedShards, NothingNew, ToCommit, ToScore
from steel_batch.runs.events import Observer
from steel_batch.runs.record import RunResult


def score_date(scope: DateScope, observe: Observer, cluster: contextlib.ExitStack) -> RunResult:
    """Score the rest of a date, retrying failed shards, and commit.

    Args:
        scope: The date.
        observe: Called with the run's progress.
        cluster: If a cluster is needed, it is joined until this stack is closed.

    Raises:
        LockHeldError: Another run is working on the engine and date, or took the lock.
        ConfigError: There is nothing to score, or the unfinished run was planned with other
            settings.
        TooManyBadImagesError: Nothing was committed; receipts are kept.
        LakeError: The lake or the store failed permanently; receipts are kept.
    """
    with open_date(scope, observe) as state:
        if isinstance(state, NothingNew):
            return state.result
        if isinstance(state, ToScore):
            state.attempt.report_progress("starting")
            with state.attempt.stopwatch.timed("join"):
                cluster.enter_context(started_cluster(scope.config.ray_address))
            state = _score(state)
        return state.commit()


def _score(state: ToScore) -> ToCommit:
    """Score and merge; do so again for shards whose staged rows the store damaged."""
    config, store = state.attempt.scope.config, state.attempt.scope.store
    damaged: DamagedShards = {}
    for _ in range(config.shard_attempts):
        _score_pending(state)
        merged = state.merge()
        if isinstance(merged, ToCommit):
            return merged
        damaged = merged
    raise LakeError(
        f"{len(damaged)} shards in {store.url} are not what was written there, after "
        f"{config.shard_attempts} attempts; for example "
        f"{damaged[min(damaged)]} Intact shards are kept: check the store, then run the same "
        "command again."
    )


def _score_pending(state: ToScore) -> None:
    """Score the shards without a receipt, up to `shard_attempts` times."""
    from steel_batch.cluster.stream import ShardStream  # imports Ray Data
    from steel_batch.pipeline.actors import scoring_setup

    attempt = state.attempt
    config, tally, seconds = attempt.scope.config, attempt.tally, attempt.stopwatch.seconds
    started = time.monotonic()

    def watch(status: StartupStatus) -> None:
        if status.is_over and status.num_answers:
            seconds.setdefault("load", time.monotonic() - started)
        else:
            attempt.report_progress("; ".join(status.notes) or "starting")

    with attempt.stopwatch.timed("score"):
        for _ in range(config.shard_attempts):
            work = state.work
            if not work.pending:
                break
            state.failures.clear()
            pool, setup = scoring_setup(attempt.scope)
            num_shards = attempt.record.num_shards - tally.num_shards_done
            num_parts = min(len(work.pending), pool.num_parts(num_shards))
            with ShardStream(
                setup, pool, num_works=1, num_parts=num_parts, observe=watch
            ) as stream:
                stream.put(0, work)
                for result in stream.results():
                    state.take(result)
                    attempt.report_progress("scoring")
                for step, at in stream.firsts().items():
                    seconds.setdefault(step, at - started)
    if not tally.is_complete:
        num_left = attempt.record.num_shards - tally.num_shards_done
        cause = next(iter(state.failures.values()), "the cluster lost them.")
        raise TransientLakeError(
            f"{num_left} of {attempt.record.num_shards} shards failed {config.shard_attempts} "
            f"times. First cause: {cause} Scored shards are kept: fix the cause, then run the "
            "same command again."
        )
    if tally.first_receipt:
        seconds.setdefault("first_receipt", tally.first_receipt - started)
    attempt.events.add("scored", num_shards=tally.num_shards_done, num_bad=tally.num_quarantined)
