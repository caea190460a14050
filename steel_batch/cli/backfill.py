"""`steel-batch backfill`: score many dates of an archive with one pool of warm actors."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from steel_batch.cli.output import (
    configure_logging,
    console,
    duration,
    print_json,
    print_table,
    say,
)
from steel_batch.cli.score import left_alone, run_options
from steel_batch.cli.values import DATE
from steel_batch.config import ScoreConfig

if TYPE_CHECKING:
    from steel_batch.pipeline.backfill import DateOutcome, Ledger


@click.command()
@run_options
@click.option("--from", "first_date", type=DATE, metavar="DATE", help="Oldest date.")
@click.option("--to", "last_date", type=DATE, metavar="DATE", help="Newest date.")
@click.option("--dates-from-lake", is_flag=True, help="Every date that the keys name.")
@click.option(
    "--order",
    type=click.Choice(["oldest", "newest"]),
    default="oldest",
    show_default=True,
    help="Which dates come first.",
)
@click.option(
    "--max-dates-at-once",
    default=4,
    show_default=True,
    help="Dates that are planned, scored or committed at one time.",
)
@click.option("--stop-after", type=int, help="Begin no further date after so many failed.")
@click.option("--recheck", is_flag=True, help="List dates again that are done, for late images.")
def backfill(
    output: str,
    verbose: bool,
    first_date: str | None,
    last_date: str | None,
    dates_from_lake: bool,
    order: str,
    max_dates_at_once: int,
    stop_after: int | None,
    recheck: bool,
    **options: Any,
) -> None:
    """Score every date of the lake from --from to --to, each as a run of its own.

    One Ray job and one pool of actors score all dates. A date that fails does not stop the others.
    The same command again continues where it was interrupted: dates that are done are not looked
    at again, unless --recheck asks for images that came late.
    """
    from steel_batch.pipeline.backfill import BackfillConfig  # imports Ray
    from steel_batch.pipeline.backfill import backfill as score_dates

    if dates_from_lake == bool(first_date or last_date):
        raise click.UsageError("Give --from or --to or both, or else --dates-from-lake.")
    configure_logging(verbose)
    settings = BackfillConfig(
        first_date=first_date,
        last_date=last_date,
        newest_first=order == "newest",
        max_dates_at_once=max_dates_at_once,
        stop_after=stop_after,
        recheck=recheck,
    )
    started = time.monotonic()
    with _progress_line() as observe:
        outcomes = score_dates(ScoreConfig(**options), settings, observe)
    if output == "json":
        print_json(_to_json(outcomes))
    else:
        _show(outcomes, first_date, last_date, rescored=options["rescore_changed"])
        say(
            f"This took {duration(time.monotonic() - started)}. Dates are worked on side by side, "
            "so their seconds, from the listing to the commit, add up to more."
        )
    if any(outcome.state == "failed" for outcome in outcomes):
        raise click.exceptions.Exit(1)


@contextmanager
def _progress_line() -> Iterator[Callable[[Ledger], None]]:
    if console.is_terminal:
        with console.status("starting") as status:
            yield lambda ledger: status.update(_describe(ledger))
        return
    last = [(-1, -1, "")]

    def note(ledger: Ledger) -> None:
        now = (ledger.num_done, ledger.num_failed, ledger.note)
        if now != last[0]:
            last[0] = now
            say(_describe(ledger))

    yield note


def _describe(ledger: Ledger) -> str:
    parts = [f"{ledger.num_done:,} of {ledger.num_dates:,} dates done"]
    if ledger.num_failed:
        parts.append(f"{ledger.num_failed:,} failed")
    if ledger.num_images:
        parts.append(f"{ledger.num_images:,} images")
    if ledger.images_per_second:
        parts.append(f"{ledger.images_per_second:,.0f} images/s")
    if ledger.seconds_left:
        parts.append(f"{duration(ledger.seconds_left)} left")
    if ledger.note:
        parts.append(ledger.note)
    if ledger.open_dates:
        parts.append(f"at {', '.join(ledger.open_dates)}")
    return " · ".join(parts)


def _to_json(outcomes: Sequence[DateOutcome]) -> dict[str, Any]:
    def count(*states: str) -> int:
        return sum(outcome.state in states for outcome in outcomes)

    return {
        "num_dates": len(outcomes),
        "num_committed": count("committed"),
        "num_done_before": count("done before"),
        "num_without_images": count("no images"),
        "num_failed": count("failed"),
        "num_not_begun": count("not begun"),
        "dates": [
            {
                "date": outcome.date,
                "state": outcome.state,
                "seconds": outcome.seconds,
                "error": outcome.error,
                "result": outcome.result.to_json() if outcome.result else None,
            }
            for outcome in outcomes
        ],
    }


def _show(
    outcomes: Sequence[DateOutcome], first: str | None, last: str | None, *, rescored: bool
) -> None:
    table = Table("date", "", "images", "quarantined", "seconds", "run", box=None, pad_edge=False)
    for column in table.columns[2:5]:
        column.justify = "right"
    for outcome in outcomes:
        result = outcome.result
        table.add_row(
            outcome.date,
            outcome.state,
            f"{result.num_images:,}" if result else "",
            f"{result.num_quarantined:,}" if result else "",
            f"{outcome.seconds:,.1f}" if outcome.seconds else "",
            (result.run_id or "nothing new") if result else "",
        )
    results = [outcome.result for outcome in outcomes if outcome.result]
    table.add_section()
    table.add_row(
        "total",
        "",
        f"{sum(r.num_images for r in results):,}",
        f"{sum(r.num_quarantined for r in results):,}",
        f"{sum(o.seconds for o in outcomes):,.1f}",
        "",
    )
    print_table(table, console)
    for outcome in outcomes:
        if outcome.error:
            say(f"{outcome.date}: {outcome.error}")
        elif outcome.result is not None and outcome.was_listed:
            notes = left_alone(outcome.result, rescored=rescored)
            if notes:
                say(f"{outcome.date}:{notes}")
    if first and last:
        num_days = (datetime.date.fromisoformat(last) - datetime.date.fromisoformat(first)).days + 1
        if num_days > len(outcomes):
            say(f"{num_days - len(outcomes)} of {num_days} days have no images.")
