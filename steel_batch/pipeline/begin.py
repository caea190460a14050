"""How a run begins once the lock is held: find an unfinished run, or plan a new one.

A plan is first written to a local file and then to the store. The run exists once its ``run.json``
exists.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steel_batch import __version__, layout
from steel_batch.errors import LockHeldError
from steel_batch.pipeline.prepare import Planned, plan_date
from steel_batch.pipeline.scope import DateScope
from steel_batch.runs.events import Observer
from steel_batch.runs.plan import Plan, ShardRange, check_settings
from steel_batch.runs.record import RunRecord, put_record, read_run
from steel_batch.tables.commit import check_replaceable
from steel_batch.tables.committed import DateLook, digest_files
from steel_batch.tables.table_log import ensure_tables, landed

log = logging.getLogger(__name__)

COPY_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """What the store has of a date, as found under its lock."""

    run_ids: Sequence[str]
    """Oldest first."""
    look: DateLook


@dataclass(frozen=True, slots=True)
class Begun:
    """A new run."""

    record: RunRecord
    ranges: Sequence[ShardRange]
    """The shards in each row group of its plan."""


def unfinished_run(scope: DateScope, found: Found) -> RunRecord | None:
    """Return the run to resume, if there is one.

    Args:
        scope: The date.
        found: What the store has of it.

    Raises:
        ConfigError: The unfinished run has other settings.
    """
    store = scope.store
    if not found.run_ids:
        return None
    run = read_run(store, found.run_ids[-1])
    if run.record is None or run.result is not None:
        return None
    if landed(store, layout.PREDICTIONS, run.run_id):
        return run.record
    if scope.config.fresh:
        return None
    if run.record.files_digest not in (None, digest_files(found.look.files)):
        # The planner had lost the lock, so these images may already have rows.
        log.warning("run %s is discarded: another run was committed after its plan", run.run_id)
        return None
    check_settings(run.run_id, run.record.settings, scope.settings)
    return run.record


def begin_run(
    scope: DateScope, found: Found, check_lock: Callable[[], None], observe: Observer
) -> tuple[Planned, Begun | None]:
    """Plan a new run and store it.

    Args:
        scope: The date.
        found: What the store has of it. A commit after that look makes the plan stale.
        check_lock: Called before anything is stored; raises if the lock was lost.
        observe: Called with the number of images listed so far.

    Returns:
        What was planned, and the run; None if there is nothing new to score.

    Raises:
        ConfigError: There are no images of that date, or their keys name another date.
        LockHeldError: The lock was lost.
        LakeError: A table was not written by this program, or cannot be committed to.
    """
    config, store, engine, date = scope.config, scope.store, scope.engine_name, scope.date
    files = found.look.files
    files_digest = digest_files(files)
    with tempfile.TemporaryDirectory(prefix="steel-batch-") as scratch:
        path = Path(scratch) / "plan.parquet"
        planned = plan_date(scope, path, files, observe=observe)
        info = planned.info
        if info.num_images == 0:
            return planned, None
        ensure_tables(store, found.look.outdated)
        rewrites = config.rescore_changed or config.retry_quarantined
        for table in layout.TABLES if rewrites else [layout.CLASS_SUMMARIES]:
            check_replaceable(store, table, files[table])
        run_id = layout.run_id(engine, date, _next_number(found.run_ids))
        with (
            path.open("rb") as written,
            store.open_output(layout.run_file(run_id, "plan.parquet")) as target,
        ):
            while chunk := written.read(COPY_BYTES):
                target.write(chunk)
            check_lock()  # the end of the block makes the plan visible
        ranges = Plan(store, run_id, digest=info.digest, path=path).ranges()
    record = RunRecord(
        run_id=run_id,
        engine=engine,
        date=date,
        created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        plan_digest=info.digest,
        num_images=info.num_images,
        num_shards=info.num_shards,
        num_committed=info.num_committed,
        num_changed=info.num_changed,
        num_retried=info.num_retried,
        num_beyond_limit=info.num_beyond_limit,
        num_left_out=planned.num_left_out,
        example_left_out=planned.example_left_out,
        settings=info.settings,
        config=dataclasses.asdict(config),
        environment={
            "steel_batch": __version__,
            "python": platform.python_version(),
            "host": platform.node(),
        },
        files_digest=files_digest,
    )
    check_lock()
    if not put_record(store, record):
        raise LockHeldError(
            f"another process created run {run_id} at the same time. Run the same command again."
        )
    return planned, Begun(record, ranges)


def _next_number(run_ids: Sequence[str]) -> int:
    return 1 + max((layout.split_run_id(run_id)[2] for run_id in run_ids), default=0)
