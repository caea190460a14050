"""An archive of dates, each done once: the same command later goes on with the others."""

from __future__ import annotations

import logging

from steel_batch.config import BackfillConfig, ScoreConfig
from steel_batch.errors import SteelBatchError
from steel_batch.pipeline.ledger import Ledger
from steel_batch.pipeline.many_dates import ManyDates
from steel_batch.pipeline.outcomes import DateOutcome
from steel_batch.pipeline.scope import Scope, open_scope
from steel_batch.runs.events import Observer

log = logging.getLogger(__name__)


def backfill(config: ScoreConfig, settings: BackfillConfig, observe: Observer) -> list[DateOutcome]:
    """Score many dates, each as a run of its own.

    Args:
        config: How each date is scored; its own date says nothing.
        settings: Which dates.
        observe: Told how far it is, from several threads.

    Returns:
        Every date's outcome, in the order in which they were begun.

    Raises:
        ConfigError: Nothing can be begun; nothing was done.
        ClusterError: Ray gave up; dates that are done stay so, the same command continues.
    """
    scope = open_scope(config)
    dates = _find_dates(scope, settings)
    ledger = Ledger(scope)
    done = ledger.read(dates)  # even if it is not used: entries of a newer format are refused
    outcomes = {} if settings.recheck else done
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


def _find_dates(scope: Scope, settings: BackfillConfig) -> list[str]:
    """The dates of the lake within the bounds, in the order in which they are to be scored.

    Raises:
        ConfigError: The keys do not say their date, or nothing matches at all. No date within the
            bounds is none: nothing was made on those days.
    """
    dates = scope.source.dates()
    chosen = [
        date
        for date in dates
        if (settings.first_date or date) <= date <= (settings.last_date or date)
    ]
    if not chosen:
        log.warning(
            "%s has no images from %s to %s; its dates reach from %s to %s",
            scope.config.images,
            settings.first_date or dates[0],
            settings.last_date or dates[-1],
            dates[0],
            dates[-1],
        )
    return sorted(chosen, reverse=settings.newest_first)
