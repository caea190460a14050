"""What a date needs once its lock is held: nothing, only a commit, or scoring.

`ToScore` becomes `ToCommit` when every shard has its receipt and the rows are merged. Each step
ends with a durable write and can be repeated. The order is: lock, plan, run.json, receipts, list of
merged files, commits of the three tables, result.json. Staged files are deleted last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steel_batch import layout
from steel_batch.cluster.dispatcher import Work
from steel_batch.errors import LakeError
from steel_batch.pipeline.attempt import Attempt
from steel_batch.runs.events import retries_of
from steel_batch.runs.plan import ShardRange
from steel_batch.runs.record import RunResult
from steel_batch.tables.file_lists import DataFile, save_files
from steel_batch.tables.landing import delete_staged, land_run
from steel_batch.tables.merge import Cut, cut_files

if TYPE_CHECKING:
    from steel_batch.scoring.shard_result import ShardResult

DamagedShards = Mapping[int, str]
"""Shards that must be scored again, each with a description of the damage."""


@dataclass(frozen=True, slots=True)
class NothingNew:
    """Every image of the date already has a row or a quarantine entry."""

    result: RunResult


@dataclass(frozen=True, slots=True)
class ToCommit:
    """All rows are merged into files; the rest needs no cluster."""

    attempt: Attempt
    files: Sequence[DataFile]

    def commit(self) -> RunResult:
        """Make the merged rows visible in the three tables, and finish the run.

        Raises:
            CommitConflictError: The commit certainly failed.
            CommitUnknownError: The outcome is unknown; the same command may be repeated.
            LockHeldError: The lock was lost.
        """
        attempt = self.attempt
        store, record = attempt.scope.store, attempt.record
        attempt.report_progress("committing")
        with attempt.stopwatch.timed("commit"):
            version = land_run(
                store,
                record,
                self.files,
                attempt.tally.bad_shards,
                attempt.scope.engine.card.classes,
                attempt.events,
                attempt.lease,
                is_new=attempt.is_new,
            )
        result = attempt.finish(version)
        delete_staged(store, record)
        return result


class ToScore:
    """Shards without a receipt are left, or rows that are not merged yet.

    The caller scores `work`, hands each result to `take`, then calls `merge`.

    Args:
        attempt: The attempt.
        ranges: The shards in each row group of the plan.
    """

    def __init__(self, attempt: Attempt, ranges: Sequence[ShardRange]) -> None:
        self.attempt = attempt
        self.failures: dict[int, str] = {}
        """Per shard, the lake's error when it was last tried."""
        self._ranges = ranges
        self._merged: dict[Cut, DataFile] = {}

    @property
    def work(self) -> Work:
        """Return what is left to score."""
        attempt = self.attempt
        return Work(
            run_id=attempt.record.run_id,
            plan_digest=attempt.record.plan_digest,
            pending=attempt.tally.pending(self._ranges),
        )

    def take(self, result: ShardResult) -> None:
        """Count the result of one shard.

        Raises:
            LakeError: A shard cannot be read or written, now or on a retry.
            TooManyBadImagesError: More images are quarantined than `max_bad` allows.
            LockHeldError: The lock was lost.
        """
        attempt = self.attempt
        attempt.count_requests(result.counts)
        retries = retries_of(result.counts)
        if retries:
            attempt.events.add("retried", shard=result.shard, **retries)
        if result.receipt is not None:
            attempt.tally.add(result.receipt)
            self.failures.pop(result.shard, None)
        else:
            failure = result.failure or "it failed without a reason."
            attempt.events.add("shard_failed", shard=result.shard, message=failure)
            if not result.transient:
                raise LakeError(f"shard {result.shard}: {failure}")
            self.failures[result.shard] = failure
        attempt.lease.check()
        attempt.check_bad()

    def merge(self) -> ToCommit | DamagedShards:
        """Merge the staged rows of all shards, which have their receipts, into few files.

        Returns:
            The next state; or the shards that must be scored again, which `work` then returns.

        Raises:
            TooManyBadImagesError: More images are quarantined than `max_bad` allows.
            LakeError: The store failed permanently; receipts are kept.
            LockHeldError: The lock was lost.
        """
        from steel_batch.cluster.merging import merge_files  # imports Ray

        attempt = self.attempt
        attempt.check_bad()
        store, run_id, tally = attempt.scope.store, attempt.record.run_id, attempt.tally
        attempt.report_progress("merging")
        with attempt.stopwatch.timed("merge"):
            cuts = list(enumerate(cut_files(tally.staged_bytes, attempt.scope.config.merge_bytes)))
            kept = {cut: self._merged[cut] for cut in cuts if cut in self._merged}
            todo = [cut for cut in cuts if cut not in kept]
            merged, damaged = merge_files(store, run_id, todo, self._on_file)
            self._merged = kept | merged
        if damaged:
            shards = sorted(damaged)
            attempt.events.add("damaged", shards=shards)
            store.delete(layout.receipt_file(run_id, shard) for shard in shards)
            tally.forget(shards)
            self._ranges = attempt.open_plan().ranges()
            return damaged
        files = [self._merged[cut] for cut in cuts]
        save_files(store, run_id, layout.MERGED, files)
        attempt.events.add("merged", num_files=len(files))
        return ToCommit(attempt, files)

    def _on_file(self, counts: Mapping[str, int]) -> None:
        self.attempt.count_requests(counts)
        self.attempt.lease.check()


DateState = NothingNew | ToCommit | ToScore


def settle(state: DateState) -> RunResult | None:
    """Finish a scored date as far as possible.

    Returns:
        The run's result; None if shards are left to score, or must be scored again.
    """
    if isinstance(state, NothingNew):
        return state.result
    if isinstance(state, ToScore):
        merged = None if state.work.pending else state.merge()
        if not isinstance(merged, ToCommit):
            return None
        state = merged
    return state.commit()
