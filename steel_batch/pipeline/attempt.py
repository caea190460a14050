"""One attempt at a run: its counts, events and times, and how it ended.

An interrupted run is resumed by another attempt, which continues from what earlier ones stored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType

from steel_batch import interrupt
from steel_batch.errors import TooManyBadImagesError
from steel_batch.lake.commands import command
from steel_batch.lake.lock import Lease
from steel_batch.pipeline.scope import DateScope
from steel_batch.pipeline.tally import KeySet, Tally
from steel_batch.runs.events import Events, Meter, Observer, Progress
from steel_batch.runs.plan import Plan
from steel_batch.runs.receipt import read_receipts
from steel_batch.runs.record import ClassCount, RunRecord, RunResult, put_result
from steel_batch.tables.committed import quarantined_keys


class Stopwatch:
    """Measures the time of each step of an attempt.

    Args:
        command_started: When the command began, if the attempt is all that it does, in seconds of
            the monotonic clock.
    """

    def __init__(self, command_started: float | None = None) -> None:
        now = time.monotonic()
        self.started = now if command_started is None else command_started
        """Start of the attempt, or of the command, in seconds of the monotonic clock."""
        self.seconds: dict[str, float] = {}
        """Seconds by step; see `RunResult.attempt_seconds`."""
        if command_started is not None:
            self.seconds["command"] = now - command_started

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the attempt began."""
        return time.monotonic() - self.started

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the duration of the block to a step."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.monotonic() - started


class Attempt:
    """One attempt at a run, by the holder of the date's lock: a `with` block.

    If the block ends without a result, the reason is recorded for `runs list` and `runs show`.

    Args:
        scope: The date.
        record: The run.
        lease: The date's lock, held by the caller.
        meter: Counts this process's requests since the attempt began.
        stopwatch: Started when the attempt began.
        observe: Called with the run's progress.
        is_new: Whether it is the first one, by the process that began the run.
    """

    def __init__(
        self,
        scope: DateScope,
        record: RunRecord,
        *,
        lease: Lease,
        meter: Meter,
        stopwatch: Stopwatch,
        observe: Observer,
        is_new: bool,
    ) -> None:
        self.is_new = is_new
        self.scope, self.record, self.lease = scope, record, lease
        self.stopwatch = stopwatch
        self.tally: Tally
        """The state of the run's shards, set by `resume`."""
        self.events = Events(scope.store, record.run_id, is_new=is_new)
        self._meter, self._observe = meter, observe
        self._counts: Counter[str] = Counter()
        self._is_over = False

    def __enter__(self) -> Attempt:
        """Record that the attempt begins."""
        config = dataclasses.asdict(self.scope.config)
        self.events.add("attempt", host=platform.node(), config=config)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Record how the attempt ended."""
        if self._is_over:
            return
        if isinstance(error, (KeyboardInterrupt, interrupt.Interrupted)):
            self.events.add("interrupted", lake=self._lake_counts())
        elif error is not None:
            self.events.add(
                "failed",
                error=type(error).__name__,
                message=str(error),
                lake=self._lake_counts(),
            )
        self.events.flush()

    def resume(self) -> None:
        """Find out which shards earlier attempts scored."""
        store, record = self.scope.store, self.record
        is_retry = record.num_retried or record.settings.get("retry_quarantined")
        known_bad = quarantined_keys(store, record.engine, record.date) if is_retry else ()
        num_classes = len(self.scope.engine.card.classes)
        self.tally = Tally(record, num_classes=num_classes, known_bad=KeySet(known_bad))
        if self.is_new:
            return
        receipts = read_receipts(
            store,
            record.run_id,
            record.plan_digest,
            num_shards=record.num_shards,
            num_classes=num_classes,
        )
        for receipt in receipts:
            self.tally.add(receipt, resumed=True)

    def open_plan(self) -> Plan:
        """Open the run's plan, and check that its digest is the one in the run's record."""
        record = self.record
        return Plan(self.scope.store, record.run_id, digest=record.plan_digest)

    def progress(self, step: str) -> Progress:
        """Return the run's progress."""
        return self.tally.progress(step)

    def report_progress(self, step: str) -> None:
        """Pass the run's progress to the observer."""
        self._observe(self.progress(step))

    def count_requests(self, counts: Mapping[str, int]) -> None:
        """Add the request counts of other processes; see `Lake.counts`."""
        self._counts.update(counts)

    def check_bad(self) -> None:
        """Stop if too many images cannot be scored, not counting those already in quarantine.

        Raises:
            TooManyBadImagesError: It states how many, why, and what to do.
        """
        config, record, tally = self.scope.config, self.record, self.tally
        num_new = record.num_images - record.num_retried
        num_bad = tally.num_quarantined - tally.num_bad_again
        what = "new images" if record.num_retried else "images"
        if num_bad <= config.max_bad * num_new:
            return
        reasons = ", ".join(f"{code} ({n})" for code, n in tally.bad_codes.most_common())
        listing = command(self.scope.store, "quarantine", "list", "--run", record.run_id)
        raise TooManyBadImagesError(
            f"{num_bad} of {num_new} {what} cannot be scored, which exceeds --max-bad "
            f"{config.max_bad:g}: {reasons}; for example {tally.bad_example.rstrip('.')}. To list "
            f"them: {listing}. The run has committed nothing; its results are kept. To commit the "
            "other images, run the same command with a greater --max-bad. To score all "
            "images, repair them and run the same command with --fresh."
        )

    def finish(self, version: int) -> RunResult:
        """Record the run's end, with the version of the predictions table that has its rows."""
        result = self._result(version)
        self.events.add(
            "committed",
            **{k: v for k, v in result.to_json().items() if k != "classes"},
            lake=self._lake_counts(),
        )
        self.events.flush()
        put_result(self.scope.store, result)
        self._is_over = True
        return result

    def _lake_counts(self) -> dict[str, int]:
        """Return the attempt's request counts, over all processes.

        Dates that one process works on at the same time share that process's counts.
        """
        self._counts.update(self._meter.take())
        return dict(sorted(self._counts.items()))

    def _result(self, version: int) -> RunResult:
        record, tally, stopwatch = self.record, self.tally, self.stopwatch
        return RunResult(
            run_id=record.run_id,
            engine=record.engine,
            date=record.date,
            num_images=record.num_images,
            num_scored=tally.num_rows,
            num_quarantined=tally.num_quarantined,
            num_shards=record.num_shards,
            seconds=round(stopwatch.elapsed_seconds, 3),
            images_per_second=round(tally.images_per_second, 2),
            startup_seconds=round(max(0.0, tally.first_receipt - stopwatch.started), 3),
            committed=True,
            table_version=version,
            predictions=self.scope.predictions_glob,
            num_committed_before=record.num_committed,
            num_changed=record.num_changed,
            num_left_out=record.num_left_out,
            example_left_out=record.example_left_out,
            num_retried=record.num_retried,
            num_beyond_limit=record.num_beyond_limit,
            num_bad_again=tally.num_bad_again,
            num_resumed_shards=tally.num_resumed,
            num_resumed_images=tally.num_resumed_images,
            classes=tuple(
                ClassCount(class_id=i + 1, class_name=name, num_images=int(tally.num_defective[i]))
                for i, name in enumerate(self.scope.engine.card.classes)
            ),
            attempt_seconds={step: round(s, 3) for step, s in stopwatch.seconds.items()},
        )
