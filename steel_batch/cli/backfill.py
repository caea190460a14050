"""`steel-batch backfill`: score many dates of an archive with one pool of warm actors."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from steel_batch.cli.grouped import GroupedCommand
from steel_batch.cli.output import (
    Table,
    configure_logging,
    console,
    duration,
    print_json,
    print_table,
    say,
)
from steel_batch.cli.progress import progress_line
from steel_batch.cli.score import left_alone
from steel_batch.cli.score_options import alert_option, report_option, run_options
from steel_batch.cli.settings import setting
from steel_batch.cli.values import DATE
from steel_batch.config import ScoreConfig
from steel_batch.errors import SteelBatchError
from steel_batch.pipeline.backfill_config import BackfillConfig

if TYPE_CHECKING:
    from steel_batch.pipeline.outcomes import DateOutcome


EXAMPLE: Final = """\
steel-batch backfill --from 2026-01-01 --to 2026-06-30 \\
  --images s3://lake/images --key-pattern 'line={line}/date={date}/{image_id}.jpg' \\
  --store s3://lake/steel --engine severstal@production"""


@click.command(cls=GroupedCommand, example=EXAMPLE)
@report_option
@alert_option
@run_options
@click.option("--from", "first_date", type=DATE, metavar="DATE", help="First date to score.")
@click.option("--to", "last_date", type=DATE, metavar="DATE", help="Last date to score.")
@click.option("--dates-from-lake", is_flag=True, help="Score every date found in the image keys.")
@click.option(
    "--order",
    type=click.Choice(["oldest", "newest"]),
    default="oldest",
    show_default=True,
    help="Whether to start with the newest or the oldest date.",
)
@setting(
    "--max-dates-at-once",
    of=BackfillConfig,
    type=int,
    help="How many dates are planned, scored or committed at the same time.",
)
@setting("--stop-after", of=BackfillConfig, type=int, help="Start no more dates after N failures.")
@setting("--recheck", of=BackfillConfig, help="List finished dates again, to find late images.")
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
    with_report: bool,
    alert_if: tuple[str, ...],
    **options: Any,
) -> None:
    """Score every date from --from to --to; each date is a run of its own.

    One Ray job with one pool of actors scores all dates. A date that fails does not stop the
    others. Run the same command again to resume after an interruption: finished dates are skipped,
    unless --recheck lists them again for late images.
    """
    from steel_batch.cli.run_report import Afterwards
    from steel_batch.pipeline.backfill import backfill as score_dates  # imports DuckDB

    if dates_from_lake == bool(first_date or last_date):
        raise click.UsageError("Give --from, --to or both; or give --dates-from-lake alone.")
    configure_logging(verbose)
    settings = BackfillConfig(
        first_date=first_date,
        last_date=last_date,
        newest_first=order == "newest",
        max_dates_at_once=max_dates_at_once,
        stop_after=stop_after,
        recheck=recheck,
    )
    config = ScoreConfig(**options)
    afterwards = Afterwards.of(with_report=with_report, alert_if=alert_if, config=config)
    started = time.monotonic()
    with progress_line() as observe:
        outcomes = score_dates(config, settings, observe)
    if output == "json":
        print_json(_to_json(outcomes))
    else:
        _show(outcomes, first_date, last_date, rescored=options["rescore_changed"])
        say(
            f"This took {duration(time.monotonic() - started)}. Dates run in parallel, so the "
            "seconds per date, from listing to commit, add up to more."
        )
    is_done = True
    for outcome in outcomes:
        if outcome.state == "committed" and outcome.result is not None:
            is_done &= afterwards.run(config, outcome.result)
        elif outcome.state == "failed":
            afterwards.failed(config, outcome.date, _explain(outcome) or "")
    if not is_done or any(outcome.state == "failed" for outcome in outcomes):
        raise click.exceptions.Exit(1)


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
                "error": _explain(outcome),
                "result": outcome.result.to_json() if outcome.result else None,
            }
            for outcome in outcomes
        ],
    }


def _explain(outcome: DateOutcome) -> str | None:
    """Return why a date has no result; for an error of a library, with the name of its type."""
    error = outcome.error
    if error is None or isinstance(error, SteelBatchError):
        return None if error is None else str(error)
    return f"{type(error).__name__}: {error}"


def _show(
    outcomes: Sequence[DateOutcome], first: str | None, last: str | None, *, rescored: bool
) -> None:
    heads = ("date", "", "images of run", "quarantined", "seconds", "run")
    table = Table(*heads, box=None, pad_edge=False)
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
        if outcome.error is not None:
            say(f"{outcome.date}: {_explain(outcome)}")
        elif outcome.result is not None and outcome.was_listed:
            notes = left_alone(outcome.result, rescored=rescored)
            if notes:
                say(f"{outcome.date}:{notes}")
    if first and last:
        num_days = (datetime.date.fromisoformat(last) - datetime.date.fromisoformat(first)).days + 1
        if num_days > len(outcomes):
            say(f"{num_days - len(outcomes)} of {num_days} days have no images.")
