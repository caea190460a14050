"""Score an archive of dates, each of them once; running the command again scores the rest."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from steel_batch.config import ScoreConfig
from steel_batch.errors import SteelBatchError
from steel_batch.pipeline.backfill_config import BackfillConfig
from steel_batch.pipeline.ledger import Ledger
from steel_batch.pipeline.many_dates import ManyDates
from steel_batch.pipeline.outcomes import DateOutcome
from steel_batch.pipeline.scope import Scope, open_scope
from steel_batch.pipeline.settled import DATES_AT_ONCE, settled_dates
from steel_batch.runs.events import Observer, Progress

log = logging.getLogger(__name__)


def backfill(config: ScoreConfig, settings: BackfillConfig, observe: Observer) -> list[DateOutcome]:
    """Score many dates, each as a run of its own.

    Args:
        config: How each date is scored; its field `date` is ignored.
        settings: Which dates.
        observe: Called with the progress, from several threads.

    Returns:
        Every date's outcome, in the order in which the dates were started.

    Raises:
        ConfigError: Nothing can be started; nothing was done.
        ClusterError: Ray failed. Finished dates are kept, and the same command resumes.
    """
    scope = open_scope(config)
    dates = _find_dates(scope, settings)
    ledger = Ledger(scope)
    done = ledger.read(dates)  # even if it is not used: entries of a newer format are refused
    outcomes = {} if settings.recheck else done
    observe(Progress(step="looking for dates with new images"))
    for outcome in _settled(scope, ledger, [date for date in dates if date not in outcomes]):
        outcomes[outcome.date] = outcome
    todo = [date for date in dates if date not in outcomes]
    many = ManyDates(
        scope,
        max_at_once=settings.max_dates_at_once,
        stop_after=settings.stop_after,
        num_before=len(outcomes),
        note=ledger.note,
        observe=observe,
    )
    for outcome in many.score(todo):
        outcomes[outcome.date] = outcome
        if outcome.state == "failed":
            error = outcome.error
            trace = None if isinstance(error, SteelBatchError) else error
            log.warning("date %s failed: %s", outcome.date, error, exc_info=trace)
    return [outcomes.get(date, DateOutcome(date=date, state="not begun")) for date in dates]


def _settled(scope: Scope, ledger: Ledger, dates: list[str]) -> Iterator[DateOutcome]:
    """The dates of which nothing is new; they need neither a lock nor the cluster."""
    with ThreadPoolExecutor(DATES_AT_ONCE, "note") as pool:
        found = [
            DateOutcome(date=result.date, state="committed", seconds=result.seconds, result=result)
            for result in settled_dates(scope, dates)
        ]
        yield from pool.map(ledger.note, found)


def _find_dates(scope: Scope, settings: BackfillConfig) -> list[str]:
    """Return the lake's dates within the bounds, in the order of scoring.

    Raises:
        ConfigError: The keys do not contain a date, or no object matches. An empty list is no
            error: it means that no images were made within the bounds.
    """
    dates = scope.source.dates()
    chosen = [
        date
        for date in dates
        if (settings.first_date or date) <= date <= (settings.last_date or date)
    ]
    if not chosen:
        log.warning(
            "%s has no images from %s to %s; its dates range from %s to %s",
            scope.config.images,
            settings.first_date or dates[0],
            settings.last_date or dates[-1],
            dates[0],
            dates[-1],
        )
    return sorted(chosen, reverse=settings.newest_first)
