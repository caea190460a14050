"""One run: an engine, a date, and every step from the lock to the result.

Each step ends in something durable, and each can be repeated: a run that was killed anywhere is
continued by the same command. The order is lock, plan, run.json, receipts, the list of merged
files, the commits of the three tables, result.json; staged files are deleted last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType

from steel_batch import interrupt, layout
from steel_batch.cluster.dispatcher import Opening, Work
from steel_batch.cluster.join import joined_cluster
from steel_batch.cluster.merging import merge_files
from steel_batch.cluster.stream import SHARDS_PER_READ, ShardResult, ShardStream
from steel_batch.config import ALL_DATES, ScoreConfig
from steel_batch.errors import (
    FormatError,
    LakeError,
    NoImagesError,
    TooManyBadImagesError,
    TransientLakeError,
)
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease
from steel_batch.lake.probe import writable
from steel_batch.pipeline.actors import scoring_setup
from steel_batch.pipeline.begin import begin_run, unfinished_run
from steel_batch.pipeline.prepare import Planned, dates_of
from steel_batch.pipeline.tally import KeySet, Tally
from steel_batch.registry.versions import Engine, load_engine
from steel_batch.runs.events import Events, Meter, Observer, Progress, retries_of
from steel_batch.runs.plan import Plan, ShardRange
from steel_batch.runs.receipt import read_receipts
from steel_batch.runs.record import ClassCount, RunRecord, RunResult, put_result
from steel_batch.sources.contract import Source
from steel_batch.sources.open import open_source
from steel_batch.tables.commit import fence, landed, quarantined_keys, sweep
from steel_batch.tables.landing import delete_staged, land_run
from steel_batch.tables.mending import mend_date
from steel_batch.tables.merge import Cut, DataFile, cut_files, load_files, save_files

log = logging.getLogger(__name__)


def score(config: ScoreConfig, observe: Observer) -> Iterator[RunResult]:
    """Score the dates of a configuration, one run each, and yield their results.

    Raises:
        ConfigError: The user has to change something; nothing was done.
        LockHeldError: Another run is at work on the engine and date.
        TooManyBadImagesError: Nothing was committed; receipts are kept.
        LakeError: The lake or the store failed for good; receipts are kept.
    """
    source = open_source(
        config.images,
        config.key_pattern,
        endpoint_url=config.endpoint_url,
        limits=config.limits,
    )
    store = writable(
        Lake(config.store, endpoint_url=config.endpoint_url),
        single_writer=config.unsafe_single_writer,
    )
    engine = load_engine(config.engine, store=store, require_signed=config.require_signed)
    with contextlib.ExitStack() as cluster:  # left last: the lock is given back before that
        for date in dates_of(config, source):
            interrupt.check()
            try:
                with DateRun(config, engine, source, store, date, observe) as run:
                    result = run.complete(cluster)
            except NoImagesError as error:
                if config.date != ALL_DATES:
                    raise
                log.warning("%s is left out: %s", date, error)
                continue
            yield result


class DateRun:
    """Scores one date with one engine: a `with` block holds the date's lock.

    On entry the date's unfinished run is continued or a new one begun. What is left to score is
    `work`; whoever scores it hands each result to `take`, then calls `merge` and `commit`.
    `complete` does all of that.

    Args:
        config: The command.
        engine: The resolved engine.
        source: Where the images are.
        store: Where everything is written.
        date: YYYY-MM-DD.
        observe: Told how far the run is.

    Raises:
        LockHeldError: On entry, another run is at work on the engine and date.
        ConfigError: On entry, there is nothing that could be scored, or other settings.
    """

    def __init__(
        self,
        config: ScoreConfig,
        engine: Engine,
        source: Source,
        store: Lake,
        date: str,
        observe: Observer,
    ) -> None:
        self._config = config
        self._engine = engine
        self._source = source
        self._store = store
        self._date = date
        self._observe = observe
        self._started = time.monotonic()
        self._steps: dict[str, float] = {}
        self._failures: dict[int, str] = {}
        self._meter = Meter(source.lake, store)
        self._counts: Counter[str] = Counter()
        self._lease = Lease(
            store,
            layout.lock_series(engine.card.name, date),
            what=f"engine {engine.card.name} and date {date}",
            lease_seconds=config.lease_seconds,
            wait_seconds=config.lock_wait_seconds,
        )
        self._record: RunRecord
        self._tally: Tally
        self._events: Events
        self._ranges: list[ShardRange] = []
        self._merged: dict[Cut, DataFile] = {}
        self._files: list[DataFile] | None = None
        self.result: RunResult | None = None
        """How the run ended; on entry, set where there is nothing new to score."""

    def __enter__(self) -> DateRun:
        """Take the lock and find or make the run."""
        store, engine = self._store, self._engine.card.name
        with contextlib.ExitStack() as undo:
            self._lock(undo)
            if self._lease.took_over:
                fence(store, engine, self._date)
            mend_date(store, engine, self._date, self._engine.card.classes, self._lease)
            for table in layout.TABLES:
                sweep(store, table, engine, self._date, before=self._lease.check)
            record = unfinished_run(self._config, engine, store, self._date)
            if record is not None:
                self._open(record)
            elif (record := self._begin()) is not None:
                self._open(record, is_new=True)
            undo.pop_all()
        return self

    def _lock(self, undo: contextlib.ExitStack) -> None:
        """Take the lock: the first that is written, before any work."""
        try:
            undo.enter_context(self._lease)
        except (FormatError, TransientLakeError):
            raise
        except LakeError as error:
            raise LakeError(
                f"the store {self._store.url} cannot be used: {error} Check --store."
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Note how it went and give the lock back."""
        try:
            if self.result is None:
                self._note_end(error)
        finally:
            self._lease.__exit__(kind, error, trace)

    def _note_end(self, error: BaseException | None) -> None:
        """Note why the attempt ends without a result, for `runs list` and `runs show`."""
        if isinstance(error, (KeyboardInterrupt, interrupt.Interrupted)):
            self._events.add("interrupted", lake=self._lake_counts())
        elif error is not None:
            self._events.add(
                "failed",
                error=type(error).__name__,
                message=str(error),
                lake=self._lake_counts(),
            )
        self._events.flush()

    def complete(self, cluster: contextlib.ExitStack | None = None) -> RunResult:
        """Score what is left, as often as it takes, and commit.

        Args:
            cluster: Where a cluster is needed, it is joined for as long as this is open; without
                it, until this returns.

        Raises:
            TooManyBadImagesError: Nothing was committed; receipts are kept.
            LakeError: The lake or the store failed for good; receipts are kept.
            LockHeldError: The lock was lost.
        """
        if cluster is None:
            with contextlib.ExitStack() as own:
                return self.complete(own)
        if self.result is not None:
            return self.result
        if self._files is not None:  # all that is left takes no cluster
            return self.commit()
        self._observe(self._tally.progress("starting"))
        started = time.monotonic()
        cluster.enter_context(joined_cluster(self._config.ray_address))
        self._steps["join"] = time.monotonic() - started
        for _ in range(self._config.shard_attempts):
            self._score_pending()
            damaged = self.merge()
            if not damaged:
                return self.commit()
        raise LakeError(
            f"what {self._store.url} has of {len(damaged)} shards is not what was written there, "
            f"also after it was written {self._config.shard_attempts} times; for example "
            f"{damaged[min(damaged)]} What is whole is kept: run the same command again "
            "when the store is mended."
        )

    def _open(self, record: RunRecord, *, is_new: bool = False) -> None:
        self._record = record
        self._events = Events(self._store, record.run_id)
        self._events.add("attempt", host=platform.node(), config=dataclasses.asdict(self._config))
        try:
            self._resume(record, is_new=is_new)
        except BaseException as error:
            self._note_end(error)
            raise

    def _resume(self, record: RunRecord, *, is_new: bool) -> None:
        """Find what earlier attempts at the run did; who could write the store is not believed."""
        store = self._store
        is_retry = record.num_retried or record.settings.get("retry_quarantined")
        known_bad = quarantined_keys(store, record.engine, record.date) if is_retry else ()
        self._tally = Tally(
            record, num_classes=len(self._engine.card.classes), known_bad=KeySet(known_bad)
        )
        for receipt in read_receipts(
            store,
            record.run_id,
            record.plan_digest,
            num_shards=record.num_shards,
            num_classes=len(self._engine.card.classes),
        ):
            self._tally.add(receipt, resumed=True)
        files = load_files(store, record.run_id, layout.MERGED)
        if landed(store, layout.PREDICTIONS, record.run_id):
            self._files = files or []
        elif self._tally.is_complete:
            self._files = files
        else:
            plan = self._plan()
            if not is_new:
                plan.check()
            self._ranges = plan.ranges()

    def _plan(self) -> Plan:
        return Plan(self._store, self._record.run_id, digest=self._record.plan_digest)

    def _begin(self) -> RunRecord | None:
        """Plan a new run; none where there is nothing new to score."""
        self._observe(Progress(step="planning"))
        started = time.monotonic()
        planned, record = begin_run(
            self._config,
            self._engine.card.name,
            self._source,
            self._store,
            self._date,
            self._lease.check,
        )
        self._steps["plan"] = time.monotonic() - started
        if record is None:
            self.result = self._nothing_new(planned)
        return record

    def _nothing_new(self, planned: Planned) -> RunResult:
        info = planned.info
        return RunResult(
            run_id=None,
            engine=self._engine.card.name,
            date=self._date,
            num_images=0,
            num_scored=0,
            num_quarantined=0,
            num_shards=0,
            seconds=round(time.monotonic() - self._started, 3),
            images_per_second=0.0,
            startup_seconds=0.0,
            committed=True,
            table_version=None,
            predictions=self._glob(),
            num_committed_before=info.num_committed,
            num_changed=info.num_changed,
            num_left_out=planned.num_left_out,
            example_left_out=planned.example_left_out,
        )

    @property
    def work(self) -> Work:
        """What is left to score."""
        return Work(
            run_id=self._record.run_id,
            plan_digest=self._record.plan_digest,
            pending=self._tally.pending(self._ranges),
        )

    @property
    def progress(self) -> Progress:
        """How far scoring is."""
        return self._tally.progress("scoring")

    def take(self, result: ShardResult) -> None:
        """Count what became of one shard.

        Raises:
            LakeError: It cannot be read or written, now or later.
            TooManyBadImagesError: More images are unusable than `max_bad` allows.
            LockHeldError: The lock was lost.
        """
        self._counts.update(result.counts)
        retries = retries_of(result.counts)
        if retries:
            self._events.add("retried", shard=result.shard, **retries)
        if result.receipt is not None:
            self._tally.add(result.receipt)
            self._failures.pop(result.shard, None)
        else:
            failure = result.failure or "it failed without a reason."
            self._events.add("shard_failed", shard=result.shard, message=failure)
            if not result.transient:
                raise LakeError(f"shard {result.shard}: {failure}")
            self._failures[result.shard] = failure
        self._lease.check()
        self._check_bad()

    def merge(self) -> dict[int, str]:
        """Bring the staged rows of all shards into few files.

        Returns:
            Per shard that must be scored again what was found damaged of it; empty where the files
            are complete.
        """
        if self._files is not None:
            return {}
        self._check_bad()
        store, record, started = self._store, self._record, time.monotonic()
        self._observe(self._tally.progress("merging"))
        cuts = list(enumerate(cut_files(self._tally.staged_bytes, self._config.merge_bytes)))
        kept = {cut: self._merged[cut] for cut in cuts if cut in self._merged}
        todo = [cut for cut in cuts if cut not in kept]
        merged, damaged = merge_files(store, record.run_id, todo, self._on_file)
        self._merged = kept | merged
        self._steps["merge"] = self._steps.get("merge", 0.0) + time.monotonic() - started
        if damaged:
            shards = sorted(damaged)
            self._events.add("damaged", shards=shards)
            store.delete(layout.receipt_file(record.run_id, shard) for shard in shards)
            self._tally.forget(shards)
            self._ranges = self._plan().ranges()
        else:
            files = [self._merged[cut] for cut in cuts]
            save_files(store, record.run_id, layout.MERGED, files)
            self._events.add("merged", num_files=len(files))
            self._files = files
        return damaged

    def _on_file(self, counts: Mapping[str, int]) -> None:
        self._counts.update(counts)
        self._lease.check()

    def _lake_counts(self) -> dict[str, int]:
        """What the attempt's requests met with, in all processes.

        Dates that one process has open at once share what that process met with.
        """
        self._counts.update(self._meter.take())
        return dict(sorted(self._counts.items()))

    def commit(self) -> RunResult:
        """Make the merged rows visible in the three tables, and the run over."""
        started = time.monotonic()
        store, record, tally = self._store, self._record, self._tally
        self._observe(tally.progress("committing"))
        version = land_run(
            store,
            record,
            self._files or [],
            tally.bad_shards,
            self._engine.card.classes,
            self._events,
            self._lease,
        )
        self._steps["commit"] = time.monotonic() - started
        result = self._result(record, tally, version)
        self._events.add(
            "committed",
            **{k: v for k, v in result.to_json().items() if k != "classes"},
            lake=self._lake_counts(),
        )
        self._events.flush()
        put_result(store, result)
        delete_staged(store, record.run_id)
        self.result = result
        return result

    def _score_pending(self) -> None:
        config, tally = self._config, self._tally
        started = time.monotonic()
        for _ in range(config.shard_attempts):
            work = self.work
            if not work.pending:
                break
            self._failures.clear()
            pool, setup = scoring_setup(config, self._engine, self._source.lake, self._store)

            def watch(opening: Opening) -> None:
                if opening.is_over and opening.num_answers:
                    self._steps.setdefault("load", time.monotonic() - started)
                else:
                    self._observe(tally.progress("; ".join(opening.notes) or "starting"))

            num_shards = self._record.num_shards - tally.num_shards_done
            num_parts = min(len(work.pending), max(pool.num_reads, num_shards // SHARDS_PER_READ))
            with ShardStream(
                setup, pool, num_works=1, num_parts=num_parts, observe=watch
            ) as stream:
                stream.put(0, work)
                for result in stream.results():
                    self.take(result)
                    self._observe(self.progress)
        if not tally.is_complete:
            num_left = self._record.num_shards - tally.num_shards_done
            cause = next(iter(self._failures.values()), "the cluster lost them.")
            raise TransientLakeError(
                f"{num_left} of {self._record.num_shards} shards failed {config.shard_attempts} "
                f"times; the first cause: {cause} What is scored is kept: run the same command "
                "again when that is mended."
            )
        self._steps["score"] = self._steps.get("score", 0.0) + time.monotonic() - started
        if tally.first_receipt:
            self._steps.setdefault("first_receipt", tally.first_receipt - started)
        self._events.add("scored", num_shards=tally.num_shards_done, num_bad=tally.num_quarantined)

    def _check_bad(self) -> None:
        """Stop where too many images are bad that were not known to be."""
        record, tally = self._record, self._tally
        num_new = record.num_images - record.num_retried
        num_bad = tally.num_quarantined - tally.num_bad_again
        what = "new images" if record.num_retried else "images"
        if num_bad <= self._config.max_bad * num_new:
            return
        reasons = ", ".join(f"{code} ({n})" for code, n in tally.bad_codes.most_common())
        raise TooManyBadImagesError(
            f"{num_bad} of {num_new} {what} cannot be scored, "
            f"more than --max-bad {self._config.max_bad:g} allows: {reasons}; for example "
            f"{tally.bad_example.rstrip('.')}. `steel-batch quarantine list --run "
            f"{record.run_id} --store {self._store.url}` lists them. Nothing of the run is "
            "committed, and what is scored is kept. To commit the others, run the same command "
            "with a greater --max-bad. To score all of them, repair the images and run the same "
            "command with --fresh."
        )

    def _result(self, record: RunRecord, scored: Tally, version: int) -> RunResult:
        return RunResult(
            run_id=record.run_id,
            engine=record.engine,
            date=record.date,
            num_images=record.num_images,
            num_scored=scored.num_rows,
            num_quarantined=scored.num_quarantined,
            num_shards=record.num_shards,
            seconds=round(time.monotonic() - self._started, 3),
            images_per_second=round(scored.images_per_second, 2),
            startup_seconds=round(max(0.0, scored.first_receipt - self._started), 3),
            committed=True,
            table_version=version,
            predictions=self._glob(),
            num_committed_before=record.num_committed,
            num_changed=record.num_changed,
            num_left_out=record.num_left_out,
            example_left_out=record.example_left_out,
            num_retried=record.num_retried,
            num_bad_again=scored.num_bad_again,
            num_resumed_shards=scored.num_resumed,
            num_resumed_images=scored.num_resumed_images,
            classes=tuple(
                ClassCount(class_id=i + 1, class_name=name, num_images=int(scored.num_defective[i]))
                for i, name in enumerate(self._engine.card.classes)
            ),
            attempt_seconds={step: round(s, 3) for step, s in self._steps.items()},
        )

    def _glob(self) -> str:
        partition = layout.partition(self._engine.card.name, self._date)
        return self._store.uri(f"{layout.PREDICTIONS}/{partition}/*.parquet")
