"""The dates of a `score` command: one, or every date found in the image keys."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence

from steel_batch.config import ALL_DATES, ScoreConfig
from steel_batch.pipeline.backfill_config import BackfillConfig
from steel_batch.pipeline.many_dates import ManyDates
from steel_batch.pipeline.outcomes import DateOutcome
from steel_batch.pipeline.run import score_date
from steel_batch.pipeline.scope import Scope, open_scope
from steel_batch.runs.events import Observer
from steel_batch.runs.record import RunResult

log = logging.getLogger(__name__)


def score(
    config: ScoreConfig, observe: Observer, *, command_started: float | None = None
) -> Iterator[RunResult]:
    """Score the dates of a configuration, one run each, and yield their results in order.

    With all dates, those without images are skipped with a warning. After a failure, no further
    date is started; dates in progress are finished and yielded before the error is raised.

    Args:
        config: The command.
        observe: Called with the progress; with all dates, from several threads.
        command_started: When the command began, in seconds of the monotonic clock; the time of one
            date's run counts from then.

    Raises:
        ConfigError: The user has to change something; nothing was done.
        LockHeldError: Another run is working on the engine and date.
        TooManyBadImagesError: Nothing was committed; receipts are kept.
        LakeError: The lake or the store failed permanently; receipts are kept.
    """
    scope = open_scope(config)
    if config.date == ALL_DATES:
        yield from _score_all(scope, observe)
        return
    with contextlib.ExitStack() as cluster:  # closed last, after the lock is released
        scope = dataclasses.replace(scope, command_started=command_started)
        yield score_date(scope.at(config.date), observe, cluster)


def _score_all(scope: Scope, observe: Observer) -> Iterator[RunResult]:
    max_at_once = BackfillConfig().max_dates_at_once
    many = ManyDates(scope, max_at_once=max_at_once, stop_after=1, observe=observe)
    dates = scope.dates()
    failed: Exception | None = None
    for outcome in in_order(dates, many.score(dates)):
        if outcome.result is not None:
            yield outcome.result
        elif outcome.state == "no images":
            log.warning("%s is skipped: %s", outcome.date, outcome.error)
        else:
            failed = failed or outcome.error
    if failed is not None:
        raise failed


def in_order(dates: Sequence[str], outcomes: Iterable[DateOutcome]) -> Iterator[DateOutcome]:
    """Yield outcomes in the order of their dates, each once all earlier dates have ended."""
    ended: dict[str, DateOutcome] = {}
    num_done = 0
    for outcome in outcomes:
        ended[outcome.date] = outcome
        while num_done < len(dates) and dates[num_done] in ended:
            yield ended[dates[num_done]]
            num_done += 1
    yield from (ended[date] for date in dates[num_done:] if date in ended)
