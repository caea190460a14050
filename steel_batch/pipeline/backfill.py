"""Many dates with one pool of warm actors: each date its own run, its own lock and its own commit.

Three kinds of threads share the work. One opens dates ahead, in order: lock, listing, plan. The
calling one takes what the actors say of each shard. A third merges and commits dates that are
scored. At most `max_dates_at_once` dates are open. A date that fails stops no other; what a shard
or a damaged file left undone is tried once more at the end.

The ledger is durable: a date that is committed has an entry in the store, and the same command
later goes on with the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from steel_batch import layout
from steel_batch.cluster.dispatcher import Opening
from steel_batch.cluster.join import joined_cluster
from steel_batch.cluster.stream import ShardResult, ShardStream
from steel_batch.config import ScoreConfig, canonical_place
from steel_batch.errors import ConfigError, LakeError, NoImagesError, SteelBatchError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.lake.documents import record_of
from steel_batch.lake.format_version import FileFormat
from steel_batch.lake.probe import writable
from steel_batch.pipeline.actors import scoring_setup
from steel_batch.pipeline.run import DateRun
from steel_batch.registry.versions import Engine, load_engine
from steel_batch.runs.events import Rate
from steel_batch.runs.record import RESULT, RunResult, latest_result
from steel_batch.sources.contract import Source
from steel_batch.sources.open import open_source
from steel_batch.tables.commit import ensure_tables

ENTRY: Final = FileFormat("a date of a backfill")
PARTS_PER_DATE: Final = 16
"""Read tasks of one date: they are made before it is planned, so all dates have as many."""
SEEN: Final = ("num_changed", "num_left_out", "example_left_out")
"""What a run's result says of the lake, as it was when the date was listed."""
MOST_PARTS: Final = 4096
"""Of all dates, or making them would take longer than scoring the first date."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the ledger records of a date that is done."""

    seconds: float
    result: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackfillConfig:
    """One `backfill` command."""

    first_date: str | None = None
    """Oldest date; None for the lake's oldest."""
    last_date: str | None = None
    """Newest date; None for the lake's newest."""
    newest_first: bool = False
    max_dates_at_once: int = 4
    """Dates that are planned, scored or committed at one time."""
    stop_after: int | None = None
    """Failed dates after which no further date is begun."""
    recheck: bool = False
    """List dates again that the ledger has as done, for late images."""

    def __post_init__(self) -> None:
        """Refuse values that no backfill can use."""
        for name in ("max_dates_at_once", "stop_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected 1 or more.")
        for date in (self.first_date, self.last_date):
            if date is not None:
                layout.check_date(date)
        if self.first_date and self.last_date and self.first_date > self.last_date:
            raise ConfigError(f"--from {self.first_date} is later than --to {self.last_date}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class DateOutcome:
    """What became of one date."""

    date: str
    state: str
    """``committed``, ``done before`` (an earlier command's), ``no images``, ``failed`` or ``not
    begun``."""
    seconds: float = 0.0
    """From its opening to its commit; dates overlap, so the sum is more than the whole took."""
    result: RunResult | None = None
    error: str | None = None
    was_listed: bool = True
    """Whether this command looked for images of the date: else the result is what it was then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """How far a backfill is."""

    num_dates: int
    num_done: int
    num_failed: int
    open_dates: tuple[str, ...]
    num_images: int
    """Scored by this command."""
    images_per_second: float
    seconds_left: float | None
    note: str = ""
    """What the actors do before they score, where that takes minutes."""

    @property
    def num_left(self) -> int:
        """Dates neither done nor failed."""
        return self.num_dates - self.num_done - self.num_failed


@dataclass
class _Open:
    """A date whose run is open."""

    index: int
    date: str
    run: DateRun
    stack: contextlib.ExitStack
    started: float
    num_waiting: int
    """Shards that the stream has still to answer for."""
    error: SteelBatchError | None = None


def find_backfill_dates(config: ScoreConfig, backfill: BackfillConfig, source: Source) -> list[str]:
    """The dates of the lake within the bounds, in the order in which they are to be scored.

    Raises:
        ConfigError: The keys do not say their date, or nothing matches at all. No date within the
            bounds is none: nothing was made on those days.
    """
    dates = source.dates()
    chosen = [
        date
        for date in dates
        if (backfill.first_date or date) <= date <= (backfill.last_date or date)
    ]
    if not chosen:
        log.warning(
            "%s has no images from %s to %s; its dates reach from %s to %s",
            config.images,
            backfill.first_date or dates[0],
            backfill.last_date or dates[-1],
            dates[0],
            dates[-1],
        )
    return sorted(chosen, reverse=backfill.newest_first)


def backfill(
    config: ScoreConfig, settings: BackfillConfig, observe: Callable[[Ledger], None]
) -> list[DateOutcome]:
    """Score many dates, each as a run of its own.

    Returns:
        Every date's outcome, in the order in which they were begun.

    Raises:
        ConfigError: Nothing can be begun; nothing was done.
        ClusterError: Ray gave up; dates that are done stay so, the same command continues.
    """
    source = open_source(config.images, config.key_pattern, endpoint_url=config.endpoint_url)
    store = writable(
        Lake(config.store, endpoint_url=config.endpoint_url),
        single_writer=config.unsafe_single_writer,
    )
    engine = load_engine(config.engine, store=store, require_signed=config.require_signed)
    dates = find_backfill_dates(config, settings, source)
    if not dates:
        return []
    ensure_tables(store)
    return _Backfill(config, settings, engine, source, store, dates, observe).run()


class _Backfill:
    def __init__(
        self,
        config: ScoreConfig,
        settings: BackfillConfig,
        engine: Engine,
        source: Source,
        store: Lake,
        dates: Sequence[str],
        observe: Callable[[Ledger], None],
    ) -> None:
        self._config, self._settings = config, settings
        self._engine, self._source, self._store = engine, source, store
        self._dates = dates
        self._observe = observe
        places = (canonical_place(config.images), config.images.rstrip("/"))
        # The second has what earlier builds noted, under the folder as it was written.
        folders = (layout.ledger_dir(_identity(place, config, engine)) for place in places)
        self._folders = list(dict.fromkeys(folders))
        self._folder = self._folders[0]
        self._outcomes: dict[str, DateOutcome] = {}
        self._open: dict[str, _Open] = {}
        self._again: list[str] = []
        self._room = threading.Semaphore(settings.max_dates_at_once)
        self._may_open = threading.Event()
        self._stopping = threading.Event()
        self._rate = Rate()
        self._num_images = 0
        self._note = ""
        self._num_before = 0
        self._started = time.monotonic()

    def run(self) -> list[DateOutcome]:
        done = self._read_ledger()  # also where it is checked again: a newer one is refused
        if not self._settings.recheck:
            self._outcomes |= done
        todo = [date for date in self._dates if date not in self._outcomes]
        self._num_before = len(self._outcomes)
        self._tell()
        if todo:
            with joined_cluster(self._config.ray_address):
                self._score(todo)
                for date in self._again:
                    self._score_alone(date)
        return [
            self._outcomes.get(date, DateOutcome(date=date, state="not begun"))
            for date in self._dates
        ]

    def _score(self, todo: Sequence[str]) -> None:
        """Every date once, through one dataset."""
        pool, setup = scoring_setup(self._config, self._engine, self._source.lake, self._store)
        with contextlib.ExitStack() as undo:
            stream = undo.enter_context(
                ShardStream(
                    setup,
                    pool,
                    num_works=len(todo),
                    num_parts=max(1, min(PARTS_PER_DATE, MOST_PARTS // len(todo))),
                    observe=self._watch,
                )
            )
            undo.push(self._close_open)
            committing = undo.enter_context(ThreadPoolExecutor(1, "commit"))
            opening = undo.enter_context(ThreadPoolExecutor(1, "open"))
            undo.callback(self._stop)
            opened = opening.submit(self._open_dates, todo, stream, committing)
            for result in stream.results():
                self._take(result, stream, committing)
            opened.result()
            self._again += [entry.date for entry in self._open.values()]

    def _take(
        self, result: ShardResult, stream: ShardStream, committing: ThreadPoolExecutor
    ) -> None:
        entry = self._open.get(result.run_id)
        if entry is None:  # of a date that failed since
            return
        entry.num_waiting -= 1
        try:
            entry.run.take(result)
        except SteelBatchError as error:
            entry.error = error
            stream.put(entry.index, None)
        if result.receipt is not None:
            self._num_images += result.receipt.num_images
        if entry.num_waiting == 0 or entry.error is not None:
            del self._open[result.run_id]
            committing.submit(self._finish, entry)
        self._tell()

    def _open_dates(
        self, todo: Sequence[str], stream: ShardStream, committing: ThreadPoolExecutor
    ) -> None:
        """Open dates in order, as there is room; every date is answered to the stream."""
        index = 0
        self._may_open.wait()
        try:
            for index, date in enumerate(todo):
                self._room.acquire()
                if self._stopping.is_set():
                    return
                entry = self._open_date(index, date)
                if entry is None:
                    self._room.release()
                    stream.put(index, None)
                elif entry.num_waiting:
                    work = entry.run.work
                    self._open[work.run_id] = entry
                    stream.put(index, work)
                else:
                    stream.put(index, None)
                    committing.submit(self._finish, entry)
                self._tell()
        finally:
            for rest in range(index, len(todo)):
                stream.put_if_unknown(rest, None)

    def _open_date(self, index: int, date: str) -> _Open | None:
        """Take the date's lock and make or find its run; none where that fails."""
        started = time.monotonic()
        run = self._date_run(date)
        stack = contextlib.ExitStack()
        try:
            stack.enter_context(run)
        except Exception as error:  # noqa: BLE001 # it stops no other date
            self._fail(date, error, started)
            return None
        num_waiting = 0
        if run.result is None:
            num_waiting = sum(len(shards) for shards in run.work.pending.values())
        return _Open(
            index=index, date=date, run=run, stack=stack, started=started, num_waiting=num_waiting
        )

    def _finish(self, entry: _Open) -> None:
        """Commit a date that is scored, or note why not."""
        run = entry.run
        try:
            with entry.stack:
                if entry.error is not None:
                    raise entry.error
                if run.result is None:
                    if run.work.pending or run.merge():
                        self._again.append(entry.date)
                        return
                    run.commit()
            self._succeed(entry.date, run.result, entry.started)
        except Exception as error:  # noqa: BLE001 # it stops no other date
            self._fail(entry.date, error, entry.started)
        finally:
            self._room.release()
            self._tell()

    def _score_alone(self, date: str) -> None:
        """A date that the common dataset left undone."""
        started = time.monotonic()
        try:
            with contextlib.ExitStack() as cluster, self._date_run(date) as run:
                result = run.complete(cluster)
            self._succeed(date, result, started)
        except Exception as error:  # noqa: BLE001 # it stops no other date
            self._fail(date, error, started)
        self._tell()

    def _date_run(self, date: str) -> DateRun:
        return DateRun(self._config, self._engine, self._source, self._store, date, lambda _: None)

    def _read_ledger(self) -> dict[str, DateOutcome]:
        """The dates that are done, by the store."""
        found = {
            item.key.rpartition("/")[2].removesuffix(".json"): item.key
            for folder in reversed(self._folders)
            for item in self._store.list_objects(f"{folder}/")
        }
        done = [date for date in self._dates if date in found]
        outcomes = {}
        for date, data in zip(
            done, self._store.read_many([ReadRequest(key=found[d]) for d in done]), strict=True
        ):
            if isinstance(data, LakeError):
                raise data
            source = self._store.uri(found[date])
            try:
                entry = record_of(_Entry, ENTRY.load(data, source=source))
                result = RunResult.from_fields(entry.result, source=source)
            except ValueError as error:
                raise LakeError(
                    f"{source} is damaged: {error}. Delete it: the same command finds what the "
                    "date's runs did."
                ) from error
            outcomes[date] = DateOutcome(
                date=date,
                state="done before",
                seconds=entry.seconds,
                was_listed=False,
                result=result,
            )
        return outcomes

    def _succeed(self, date: str, result: RunResult | None, started: float) -> None:
        if result is None:
            raise AssertionError("a date without a result cannot be done")
        key, state = f"{self._folder}/{date}.json", "committed"
        seconds = round(time.monotonic() - started, 3)
        is_noted = result.run_id is None and self._store.stat(key) is not None
        if result.run_id is None and not is_noted:
            # Of a command that died before it could note it, or of a `score`.
            before = latest_result(self._store, result.engine, date)
            if before is not None:
                seen = {name: getattr(result, name) for name in SEEN}
                result = dataclasses.replace(before, **seen)
                seconds, state = before.seconds, "done before"
        if not is_noted:
            entry = {"seconds": seconds, "result": RESULT.stamp(result.to_json())}
            self._store.write(key, ENTRY.dump(entry, indent=1))
        self._outcomes[date] = DateOutcome(date=date, state=state, seconds=seconds, result=result)

    def _fail(self, date: str, error: Exception, started: float) -> None:
        """Note that a date failed, for whatever reason: it stops no other."""
        is_ours = isinstance(error, SteelBatchError)
        if isinstance(error, NoImagesError):
            self._outcomes[date] = DateOutcome(date=date, state="no images", error=str(error))
            return
        self._outcomes[date] = DateOutcome(
            date=date,
            state="failed",
            seconds=round(time.monotonic() - started, 3),
            error=str(error) if is_ours else f"{type(error).__name__}: {error}",
        )
        log.warning("date %s failed: %s", date, error, exc_info=None if is_ours else error)
        failed = sum(outcome.state == "failed" for outcome in list(self._outcomes.values()))
        if self._settings.stop_after is not None and failed >= self._settings.stop_after:
            self._stop()

    def _stop(self) -> None:
        """Begin no further date."""
        self._stopping.set()
        self._may_open.set()
        self._room.release()

    def _watch(self, opening: Opening) -> None:
        if opening.is_over and not opening.is_refused:
            self._may_open.set()
        self._note = "" if opening.is_over else "; ".join(opening.notes)
        self._tell()

    def _close_open(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give back the locks of dates that an interruption or an error left open."""
        with contextlib.ExitStack() as stack:  # one that fails keeps none from the others
            for entry in self._open.values():
                stack.callback(entry.stack.__exit__, kind, error, trace)

    def _tell(self) -> None:
        outcomes = list(self._outcomes.values())
        num_failed = sum(outcome.state == "failed" for outcome in outcomes)
        num_now = len(outcomes) - self._num_before
        num_left = len(self._dates) - len(outcomes)
        seconds = time.monotonic() - self._started
        self._observe(
            Ledger(
                num_dates=len(self._dates),
                num_done=len(outcomes) - num_failed,
                num_failed=num_failed,
                open_dates=tuple(sorted(entry.date for entry in list(self._open.values()))),
                num_images=self._num_images,
                images_per_second=self._rate.add(self._num_images),
                seconds_left=seconds / num_now * num_left if num_now else None,
                note=self._note,
            )
        )


def _identity(images: str, config: ScoreConfig, engine: Engine) -> str:
    """What makes two commands the same backfill: the lake, how its keys read, and the engine."""
    text = json.dumps([images, config.key_pattern, engine.card.name])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
