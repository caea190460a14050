"""Opening a date: take its lock, and find its unfinished run or begin a new one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from steel_batch import layout
from steel_batch.errors import FormatError, LakeError, TransientLakeError
from steel_batch.lake.lock import Lease
from steel_batch.pipeline.attempt import Attempt, Stopwatch
from steel_batch.pipeline.begin import Found, begin_run, unfinished_run
from steel_batch.pipeline.scope import DateScope
from steel_batch.pipeline.states import DateState, NothingNew, ToCommit, ToScore
from steel_batch.runs.events import Meter, Observer, Progress
from steel_batch.runs.record import RunResult, runs_of
from steel_batch.tables.committed import look_at_tables
from steel_batch.tables.fence import fence
from steel_batch.tables.file_lists import load_files
from steel_batch.tables.mending import mend_date
from steel_batch.tables.sweep import sweep
from steel_batch.tables.table_log import landed


@contextlib.contextmanager
def open_date(scope: DateScope, observe: Observer) -> Iterator[DateState]:
    """Hold a date's lock for a `with` block, and find what is left to do.

    Args:
        scope: The date.
        observe: Called with the run's progress.

    Yields:
        The date's state. Leaving the block records how the attempt ended and releases the lock.

    Raises:
        LockHeldError: Another run is working on the engine and date.
        ConfigError: There is nothing to score, or the unfinished run was planned with other
            settings.
        LakeError: The store cannot be used.
    """
    stopwatch = Stopwatch(scope.command_started)
    meter = Meter(scope.source.lake, scope.store)
    with _locked(scope) as lease:
        found = _cleaned_up(scope, lease)
        record, ranges = unfinished_run(scope, found), None
        if record is None:
            observe(Progress(step="planning"))
            with stopwatch.timed("plan"):
                planned, begun = begin_run(scope, found, lease.check, observe)
            if begun is None:
                result = nothing_new(
                    scope,
                    seconds=stopwatch.elapsed_seconds,
                    num_committed=planned.info.num_committed,
                    num_changed=planned.info.num_changed,
                    num_left_out=planned.num_left_out,
                    example_left_out=planned.example_left_out,
                )
                yield NothingNew(result)
                return
            record, ranges = begun.record, begun.ranges
        attempt = Attempt(
            scope, record, lease=lease, meter=meter, stopwatch=stopwatch, observe=observe,
            is_new=ranges is not None,
        )  # fmt: skip
        with attempt:
            attempt.resume()
            yield _resumed(attempt) if ranges is None else ToScore(attempt, ranges)


@contextlib.contextmanager
def _locked(scope: DateScope) -> Iterator[Lease]:
    """Take the date's lock; this is the first write, before any work."""
    lease = Lease(
        scope.store,
        layout.lock_series(scope.engine_name, scope.date),
        what=f"engine {scope.engine_name} and date {scope.date}",
        lease_seconds=scope.config.lease_seconds,
        wait_seconds=scope.config.lock_wait_seconds,
    )
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lease)
        except (FormatError, TransientLakeError):
            raise
        except LakeError as error:
            raise LakeError(
                f"the store {scope.store.url} cannot be used: {error} Check --store."
            ) from error
        yield lease


def _cleaned_up(scope: DateScope, lease: Lease) -> Found:
    """Remove what earlier holders of the lock left behind, and restore what the tables lost.

    Returns:
        What the store has then. Only the holder of the lock changes it, and whom it was taken over
        from cannot commit any more, so each log is looked at once for all that follows.
    """
    store, engine, date = scope.store, scope.engine_name, scope.date
    if lease.took_over:
        fence(store, engine, date)
    run_ids = runs_of(store, engine, date)
    mend_date(store, engine, date, scope.engine.card.classes, lease, run_ids=run_ids)
    look = look_at_tables(store, engine, date)
    if run_ids:  # without a run, nothing was published
        for table, live in look.files.items():
            sweep(store, table, engine, date, before=lease.check, live=live)
    return Found(run_ids, look)


def _resumed(attempt: Attempt) -> ToCommit | ToScore:
    """Find what earlier attempts at the run left to do; their files are verified."""
    store, run_id = attempt.scope.store, attempt.record.run_id
    files = load_files(store, run_id, layout.MERGED)
    if landed(store, layout.PREDICTIONS, run_id):
        return ToCommit(attempt, files or [])
    if not attempt.tally.is_complete:
        plan = attempt.open_plan()
        plan.check()
        return ToScore(attempt, plan.ranges())
    return ToScore(attempt, []) if files is None else ToCommit(attempt, files)


def nothing_new(
    scope: DateScope,
    *,
    seconds: float,
    num_committed: int,
    num_changed: int,
    num_left_out: int,
    example_left_out: str | None,
) -> RunResult:
    """The result of a date of which every image has its row or entry.

    Args:
        scope: The date.
        seconds: How long finding that out took.
        num_committed: Images with a row or an entry of the same etag.
        num_changed: Images whose etag differs from that of their row.
        num_left_out: Objects that are not images.
        example_left_out: One of them.
    """
    return RunResult(
        run_id=None,
        engine=scope.engine_name,
        date=scope.date,
        num_images=0,
        num_scored=0,
        num_quarantined=0,
        num_shards=0,
        seconds=round(seconds, 3),
        images_per_second=0.0,
        startup_seconds=0.0,
        committed=True,
        table_version=None,
        predictions=scope.predictions_glob,
        num_committed_before=num_committed,
        num_changed=num_changed,
        num_left_out=num_left_out,
        example_left_out=example_left_out,
    )
