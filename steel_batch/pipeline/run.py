"""One run: an engine, a date, and every step from the lock to the result.

Each step ends in something durable, and each can be repeated: a run that was killed anywhere is
continued by the same command. The order is lock, plan, run.json, receipts, the list of merged
files, the commits of the three tables, result.json; staged files are deleted last.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steel_batch import __version__, layout
from steel_batch.commit import (
    ensure_tables,
    known_images,
    landed,
    sweep,
)
from steel_batch.config import ALL_DATES, ScoreConfig
from steel_batch.engine.runtime import wants_gpu
from steel_batch.errors import LakeError, TooManyBadImagesError, TransientLakeError
from steel_batch.lake import Lake
from steel_batch.lock import Lease
from steel_batch.manifest import KeyPattern, Listing, find_dates
from steel_batch.merge import DataFile, cut_files, load_files, save_files
from steel_batch.pipeline.cluster import actor_pool, joined_cluster
from steel_batch.pipeline.landing import delete_staged, land_run
from steel_batch.pipeline.stages import Setup, Work, merge_files, score_shards
from steel_batch.pipeline.tally import Tally
from steel_batch.plan import Plan, PlanInfo, build_plan, check_settings
from steel_batch.receipt import read_receipts
from steel_batch.registry import Engine, load_engine
from steel_batch.runs import (
    ClassCount,
    Run,
    RunRecord,
    RunResult,
    latest_run,
    put_record,
    put_result,
)
from steel_batch.telemetry import Events, Observer, Progress

log = logging.getLogger(__name__)


def score(config: ScoreConfig, observe: Observer) -> Iterator[RunResult]:
    """Score the dates of a configuration, one run each, and yield their results.

    Raises:
        ConfigError: The user has to change something; nothing was done.
        LockHeldError: Another run is at work on the engine and date.
        TooManyBadImagesError: Nothing was committed; receipts are kept.
        LakeError: The lake or the store failed for good; receipts are kept.
    """
    store = Lake(config.store, endpoint_url=config.endpoint_url)
    lake = Lake(config.images, endpoint_url=config.endpoint_url)
    engine = load_engine(config.engine, store=store)
    dates = dates_of(config, lake)
    ensure_tables(store)
    for date in dates:
        yield DateRun(config, engine, lake, store, date, observe).run()


def dates_of(config: ScoreConfig, lake: Lake) -> list[str]:
    """The dates that a configuration means.

    Raises:
        ConfigError: It is no date, or the keys do not say theirs.
    """
    if config.date == ALL_DATES:
        return find_dates(lake, KeyPattern(config.key_pattern))
    return [layout.check_date(config.date)]


@dataclass(frozen=True, slots=True)
class Planned:
    """A date's plan, and what was seen beside it."""

    info: PlanInfo
    num_left_out: int
    example_left_out: str | None


def plan_date(
    config: ScoreConfig, engine: str, date: str, lake: Lake, store: Lake, path: Path
) -> Planned:
    """List a date's images and write the plan of those without a row to a local file.

    Raises:
        ConfigError: There are no images of that date.
    """
    listing = Listing(lake, KeyPattern(config.key_pattern), date)
    known = known_images(store, engine, date, with_quarantine=not config.retry_quarantined)
    info = build_plan(listing, config.settings(engine=engine, date=date), path, known=known)
    if info.num_images + info.num_committed + info.num_changed == 0:
        raise listing.explain_empty()
    return Planned(info, listing.num_left_out, listing.example_left_out)


class DateRun:
    """Scores one date with one engine.

    Args:
        config: The command.
        engine: The resolved engine.
        lake: Where the images lie.
        store: Where everything is written.
        date: YYYY-MM-DD.
        observe: Told how far the run is.
    """

    def __init__(
        self,
        config: ScoreConfig,
        engine: Engine,
        lake: Lake,
        store: Lake,
        date: str,
        observe: Observer,
    ) -> None:
        self._config = config
        self._engine = engine
        self._lake = lake
        self._store = store
        self._date = date
        self._observe = observe
        self._started = time.monotonic()
        self._steps: dict[str, float] = {}

    def run(self) -> RunResult:
        """Continue the date's unfinished run or begin a new one, and bring it to its result."""
        name = self._engine.card.name
        with Lease(
            self._store,
            layout.lock_series(name, self._date),
            what=f"engine {name} and date {self._date}",
            lease_seconds=self._config.lease_seconds,
            wait_seconds=self._config.lock_wait_seconds,
        ) as lease:
            sweep(self._store, name, self._date)
            run = self._unfinished() or self._begin()
            if isinstance(run, RunResult):
                return run
            return self._complete(run, lease)

    def _unfinished(self) -> RunRecord | None:
        """The run to continue, if there is one."""
        config, store = self._config, self._store
        run = latest_run(store, self._engine.card.name, self._date)
        if run is None or run.record is None or run.result is not None:
            return None
        if landed(store, layout.PREDICTIONS, run.run_id):
            return run.record
        if config.fresh:
            return None
        check_settings(run.run_id, run.record.settings, self._settings())
        return run.record

    def _settings(self) -> dict[str, object]:
        return self._config.settings(engine=self._engine.card.name, date=self._date)

    def _begin(self) -> RunRecord | RunResult:
        """Plan a new run and make it durable; a result where there is nothing new to score."""
        self._observe(Progress(step="planning"))
        started = time.monotonic()
        store, engine = self._store, self._engine.card.name
        with tempfile.TemporaryDirectory(prefix="steel-batch-") as scratch:
            path = Path(scratch) / "plan.parquet"
            planned = plan_date(self._config, engine, self._date, self._lake, store, path)
            info = planned.info
            if info.num_images == 0:
                return self._nothing_new(info)
            number = _next_number(latest_run(store, engine, self._date))
            run_id = layout.run_id(engine, self._date, number)
            with (
                path.open("rb") as source,
                store.open_output(layout.run_file(run_id, "plan.parquet")) as target,
            ):
                while chunk := source.read(8 << 20):
                    target.write(chunk)
        record = RunRecord(
            run_id=run_id,
            engine=engine,
            date=self._date,
            created_at=_now(),
            plan_digest=info.digest,
            num_images=info.num_images,
            num_shards=info.num_shards,
            num_committed=info.num_committed,
            num_changed=info.num_changed,
            num_left_out=planned.num_left_out,
            example_left_out=planned.example_left_out,
            settings=info.settings,
            config=dataclasses.asdict(self._config),
            environment={
                "steel_batch": __version__,
                "python": platform.python_version(),
                "host": platform.node(),
            },
        )
        put_record(store, record)
        self._steps["plan"] = time.monotonic() - started
        return record

    def _nothing_new(self, info: PlanInfo) -> RunResult:
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
        )

    def _complete(self, record: RunRecord, lease: Lease) -> RunResult:
        events = Events(self._store, record.run_id)
        events.add("attempt", host=platform.node(), config=dataclasses.asdict(self._config))
        try:
            scored = Tally(record, num_classes=len(self._engine.card.classes))
            if not landed(self._store, layout.PREDICTIONS, record.run_id):
                files = self._score_and_merge(record, scored, events, lease)
            else:
                files = load_files(self._store, record.run_id, layout.MERGED) or []
                for receipt in read_receipts(self._store, record.run_id, record.plan_digest):
                    scored.add(receipt)
            result = self._commit(record, scored, files, events, lease)
        except BaseException as error:
            events.add("failed", error=type(error).__name__, message=str(error))
            raise
        finally:
            events.flush()
        return result

    def _score_and_merge(
        self, record: RunRecord, scored: Tally, events: Events, lease: Lease
    ) -> list[DataFile]:
        """Bring every shard to a receipt and every receipt into a merged file."""
        store, config = self._store, self._config
        for receipt in read_receipts(store, record.run_id, record.plan_digest):
            scored.add(receipt)
        scored.num_resumed = scored.num_shards_done
        files = load_files(store, record.run_id, layout.MERGED)
        if files is not None and scored.is_complete:
            return files
        with joined_cluster(config.ray_address):
            while True:
                self._score_pending(record, scored, events, lease)
                self._check_bad(record, scored)
                started = time.monotonic()
                self._observe(scored.progress("merging"))
                ranges = cut_files(scored.staged_bytes, config.merge_bytes)
                files, damaged = merge_files(store, record.run_id, ranges, lambda _: lease.check())
                self._steps["merge"] = time.monotonic() - started
                if not damaged:
                    save_files(store, record.run_id, layout.MERGED, files)
                    events.add("merged", num_files=len(files))
                    return files
                events.add("damaged", shards=damaged)
                store.delete(layout.receipt_file(record.run_id, shard) for shard in damaged)
                scored.forget(damaged)

    def _score_pending(
        self, record: RunRecord, scored: Tally, events: Events, lease: Lease
    ) -> None:
        config = self._config
        plan = Plan(self._store, record.run_id)
        if plan.info.digest != record.plan_digest:
            plan.verify()
        ranges = plan.ranges()
        pool = actor_pool(config, on_gpu=wants_gpu(config.runtime))
        setup = Setup(
            lake=self._lake,
            store=self._store,
            engine=self._engine,
            decoder=config.decoder,
            runtime=config.runtime,
            precision=config.precision,
            batch_size=config.batch_size,
            num_threads=pool.num_threads,
        )
        started = time.monotonic()
        self._observe(scored.progress("starting"))
        for attempt in range(1, config.shard_attempts + 1):
            pending = scored.pending(ranges)
            if not pending:
                break
            failures: list[str] = []
            work = Work(run_id=record.run_id, plan_digest=record.plan_digest, pending=pending)
            for result in score_shards(setup, [work], pool):
                if result.receipt is not None:
                    scored.add(result.receipt)
                elif result.transient:
                    failures.append(result.failure or "")
                    events.add("shard_failed", shard=result.shard, message=result.failure)
                else:
                    raise LakeError(f"shard {result.shard}: {result.failure}")
                lease.check()
                self._observe(scored.progress("scoring"))
                self._check_bad(record, scored)
            if failures and attempt == config.shard_attempts:
                raise TransientLakeError(
                    f"{len(failures)} of {record.num_shards} shards failed {attempt} times; the "
                    f"first cause: {failures[0]} What is scored is kept: run the same command "
                    "again when the store is well."
                )
        self._steps["score"] = time.monotonic() - started
        self._steps["first_receipt"] = scored.first_receipt - started
        events.add("scored", num_shards=scored.num_shards_done, num_bad=scored.num_quarantined)

    def _check_bad(self, record: RunRecord, scored: Tally) -> None:
        allowed = self._config.max_bad * record.num_images
        if scored.num_quarantined <= allowed:
            return
        reasons = ", ".join(f"{code} ({n})" for code, n in scored.bad_codes.most_common(3))
        raise TooManyBadImagesError(
            f"{scored.num_quarantined} of {record.num_images} images cannot be scored, more than "
            f"--max-bad {self._config.max_bad:g} allows: {reasons}; for example "
            f"{scored.bad_example}. Nothing of run {record.run_id} is committed and what is scored "
            "is kept: mend the images, or run the same command with a greater --max-bad."
        )

    def _commit(
        self,
        record: RunRecord,
        scored: Tally,
        files: list[DataFile],
        events: Events,
        lease: Lease,
    ) -> RunResult:
        """Make the run's rows visible in the three tables, and the run over."""
        started = time.monotonic()
        store = self._store
        self._observe(scored.progress("committing"))
        classes = self._engine.card.classes
        version = land_run(store, record, files, scored.bad_shards, classes, events, lease)
        self._steps["commit"] = time.monotonic() - started
        result = self._result(record, scored, version)
        events.add("committed", **{k: v for k, v in result.to_json().items() if k != "classes"})
        events.flush()
        put_result(store, result)
        delete_staged(store, record.run_id)
        return result

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
            num_resumed_shards=scored.num_resumed,
            classes=tuple(
                ClassCount(class_id=i + 1, class_name=name, num_images=int(scored.num_defective[i]))
                for i, name in enumerate(self._engine.card.classes)
            ),
            attempt_seconds={step: round(s, 3) for step, s in self._steps.items()},
        )

    def _glob(self) -> str:
        partition = layout.partition(self._engine.card.name, self._date)
        return self._store.uri(f"{layout.PREDICTIONS}/{partition}/*.parquet")


def _next_number(run: Run | None) -> int:
    return 1 if run is None else layout.split_run_id(run.run_id)[2] + 1


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
