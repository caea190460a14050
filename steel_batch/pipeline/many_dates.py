"""Many dates with one pool of warm actors; each date has its own run, lock and commit.

Dates that need no scoring are finished first, one after the other, without a cluster. From the
first date that needs scoring on, three kinds of threads share the work. One opens dates ahead, in
order: lock, listing, plan. The calling thread takes the actors' results, shard by shard. A third
merges and commits scored dates. A date that fails does not stop the others; shards that failed or
were damaged are tried once more at the end.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final

from steel_batch import interrupt
from steel_batch.cluster.dispatcher import StartupStatus
from steel_batch.errors import NoImagesError, SteelBatchError
from steel_batch.pipeline.cluster_start import started_cluster
from steel_batch.pipeline.open_date import open_date
from steel_batch.pipeline.outcomes import DateOutcome, Outcomes
from steel_batch.pipeline.run import score_date
from steel_batch.pipeline.scope import Scope
from steel_batch.pipeline.states import DateState, ToScore, settle
from steel_batch.runs.events import Observer
from steel_batch.runs.record import RunResult
from steel_batch.tables.table_log import ensure_tables

if TYPE_CHECKING:
    from steel_batch.cluster.stream import ShardStream
    from steel_batch.scoring.shard_result import ShardResult

PARTS_PER_DATE: Final = 16
"""Read tasks per date. They are created before the date is planned, so every date has as many."""
MOST_PARTS: Final = 4096
"""Read tasks of all dates: with more, creating them would take longer than scoring one date."""


@dataclass
class _Open:
    """A date that is being worked on."""

    date: str
    state: DateState
    stack: contextlib.ExitStack
    started: float
    index: int = 0
    """The index of the date's work in the stream."""
    num_waiting: int = 0
    """Shards that the stream has not returned yet."""
    error: SteelBatchError | None = None


class ManyDates:
    """Scores many dates of one command.

    Args:
        scope: The command.
        max_at_once: Dates that are planned, scored or committed at the same time.
        stop_after: Failures after which no further date is started; None for no limit.
        num_before: Dates that were finished before, for the progress only.
        note: Called with each finished date, from several threads; it returns the outcome.
        observe: Called with the overall progress, from several threads.
    """

    def __init__(
        self,
        scope: Scope,
        *,
        max_at_once: int,
        stop_after: int | None,
        num_before: int = 0,
        note: Callable[[DateOutcome], DateOutcome] = lambda outcome: outcome,
        observe: Observer,
    ) -> None:
        self._scope = scope
        self._stop_after = stop_after
        self._note_outcome = note
        self._room = threading.Semaphore(max_at_once)
        self._may_open = threading.Event()
        self._stopping = threading.Event()
        self._outcomes = Outcomes(num_before=num_before, observe=observe)
        self._open: dict[str, _Open] = {}
        self._again: list[str] = []
        self._note = ""

    def score(self, dates: Sequence[str]) -> Iterator[DateOutcome]:
        """Score dates; may be called once.

        Yields:
            Each date's outcome as it ends; none for a date that was not started.

        Raises:
            MachineError: No actor can score, or none fits on the cluster.
            ClusterError: Ray failed; finished dates are kept.
            Interrupted: A signal requested a stop.
        """
        self._outcomes.expect(len(dates))
        self._report_progress()
        todo = collections.deque(dates)
        with contextlib.ExitStack() as cluster:  # closed last, after locks are released
            with contextlib.ExitStack() as undo:
                undo.push(self._close_open)
                while todo and not self._stopping.is_set():
                    interrupt.check()
                    self._room.acquire()
                    entry = self._open_date(todo.popleft())
                    if entry is not None and isinstance(entry.state, ToScore):
                        ensure_tables(self._scope.store)
                        cluster.enter_context(started_cluster(self._scope.config.ray_address))
                        yield from self._score(entry, list(todo), undo)
                        break
                    if entry is not None:
                        self._finish(entry)
                    yield from self._outcomes.take()
            for date in self._again:
                self._score_alone(date, cluster)
                yield from self._outcomes.take()

    def _score(
        self, first: _Open, others: Sequence[str], undo: contextlib.ExitStack
    ) -> Iterator[DateOutcome]:
        """Score every date once, through one dataset; the first one is open."""
        from steel_batch.cluster.stream import ShardStream  # imports Ray Data
        from steel_batch.pipeline.actors import scoring_setup

        num_works = 1 + len(others)
        pool, setup = scoring_setup(self._scope)
        most_parts = max(PARTS_PER_DATE, pool.num_reads)
        stream = undo.enter_context(
            ShardStream(
                setup,
                pool,
                num_works=num_works,
                num_parts=max(1, min(most_parts, MOST_PARTS // num_works)),
                observe=self._watch,
            )
        )
        with (
            ThreadPoolExecutor(1, "commit") as committing,
            ThreadPoolExecutor(1, "open") as opening,
            contextlib.ExitStack() as stopping,
        ):
            stopping.callback(self._stop)
            self._enqueue(first, stream, committing)
            opened = opening.submit(self._open_others, others, stream, committing)
            for result in stream.results():
                self._take(result, stream, committing)
                yield from self._outcomes.take()
            opened.result()
            self._again += [entry.date for entry in self._open.values()]
        yield from self._outcomes.take()

    def _enqueue(self, entry: _Open, stream: ShardStream, committing: ThreadPoolExecutor) -> None:
        """Queue a date for scoring, or for its commit if all of it is scored."""
        work = entry.state.work if isinstance(entry.state, ToScore) else None
        if work is not None and work.pending:
            entry.num_waiting = sum(len(shards) for shards in work.pending.values())
            stream.put(entry.index, work)
            return
        if work is not None:
            del self._open[work.run_id]
        stream.put(entry.index, None)
        committing.submit(self._finish, entry)

    def _take(
        self, result: ShardResult, stream: ShardStream, committing: ThreadPoolExecutor
    ) -> None:
        entry = self._open.get(result.run_id)
        if entry is None or not isinstance(entry.state, ToScore):  # its date has failed since
            return
        entry.num_waiting -= 1
        try:
            entry.state.take(result)
        except SteelBatchError as error:
            entry.error = error
            stream.put(entry.index, None)
        if result.receipt is not None:
            self._outcomes.add_images(result.receipt.num_images)
        if entry.num_waiting == 0 or entry.error is not None:
            del self._open[result.run_id]
            committing.submit(self._finish, entry)
        self._report_progress()

    def _open_others(
        self, dates: Sequence[str], stream: ShardStream, committing: ThreadPoolExecutor
    ) -> None:
        """Open dates in order, as there is room; every date is reported to the stream."""
        index = 1
        self._may_open.wait()
        try:
            for index, date in enumerate(dates, 1):
                self._room.acquire()
                if self._stopping.is_set():
                    return
                entry = self._open_date(date, index)
                if entry is None:
                    stream.put(index, None)
                else:
                    self._enqueue(entry, stream, committing)
        finally:
            for rest in range(index, 1 + len(dates)):
                stream.put_if_unknown(rest, None)

    def _open_date(self, date: str, index: int = 0) -> _Open | None:
        """Take the date's lock and find or begin its run, in the slot reserved for it.

        Returns None if that fails.
        """
        started = time.monotonic()
        stack = contextlib.ExitStack()
        try:
            state = stack.enter_context(open_date(self._scope.at(date), lambda _: None))
        except Exception as error:  # noqa: BLE001 # it stops no other date
            self._fail(date, error, started)
            self._room.release()
            return None
        entry = _Open(date=date, state=state, stack=stack, started=started, index=index)
        if isinstance(state, ToScore):
            self._open[state.work.run_id] = entry
        self._report_progress()
        return entry

    def _finish(self, entry: _Open) -> None:
        """Commit a scored date, or record why that failed."""
        try:
            with entry.stack:
                if entry.error is not None:
                    raise entry.error
                result = settle(entry.state)
            if result is None:
                self._again.append(entry.date)
            else:
                self._succeed(entry.date, result, entry.started)
        except Exception as error:  # noqa: BLE001 # it stops no other date
            self._fail(entry.date, error, entry.started)
        finally:
            self._room.release()
            self._report_progress()

    def _score_alone(self, date: str, cluster: contextlib.ExitStack) -> None:
        """Score a date that the common dataset left incomplete."""
        started = time.monotonic()
        try:
            result = score_date(self._scope.at(date), lambda _: None, cluster)
            self._succeed(date, result, started)
        except Exception as error:  # noqa: BLE001 # it stops no other date
            self._fail(date, error, started)
        self._report_progress()

    def _succeed(self, date: str, result: RunResult, started: float) -> None:
        seconds = round(time.monotonic() - started, 3)
        outcome = DateOutcome(date=date, state="committed", seconds=seconds, result=result)
        self._outcomes.add(self._note_outcome(outcome))

    def _fail(self, date: str, error: Exception, started: float) -> None:
        """Record that a date failed, for any reason; it does not stop other dates."""
        if isinstance(error, NoImagesError):
            self._outcomes.add(DateOutcome(date=date, state="no images", error=error))
            return
        seconds = round(time.monotonic() - started, 3)
        self._outcomes.add(DateOutcome(date=date, state="failed", seconds=seconds, error=error))
        if self._stop_after is not None and self._outcomes.num_failed >= self._stop_after:
            self._stop()

    def _stop(self) -> None:
        """Start no further date."""
        self._stopping.set()
        self._may_open.set()
        self._room.release()

    def _watch(self, status: StartupStatus) -> None:
        if status.is_over and not status.is_refused:
            self._may_open.set()
        self._note = "" if status.is_over else "; ".join(status.notes)
        self._report_progress()

    def _close_open(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the locks of dates that an interruption or an error left open."""
        with contextlib.ExitStack() as stack:  # one that fails does not keep the others open
            for entry in self._open.values():
                stack.callback(entry.stack.__exit__, kind, error, trace)
            self._open.clear()

    def _report_progress(self) -> None:
        open_dates = [entry.date for entry in list(self._open.values())]
        self._outcomes.report_progress(open_dates, self._note)
