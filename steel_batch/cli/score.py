"""`steel-batch score`: score one date, or every date, of a lake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

from steel_batch.cli.grouped import GroupedCommand
from steel_batch.cli.output import (
    Table,
    configure_logging,
    console,
    counted,
    duration,
    others,
    print_json,
    say,
)
from steel_batch.cli.process_age import process_started
from steel_batch.cli.progress import progress_line
from steel_batch.cli.score_options import (
    alert_option,
    date_option,
    limit_option,
    report_option,
    run_options,
)
from steel_batch.config import ScoreConfig
from steel_batch.errors import SteelBatchError
from steel_batch.lake import Lake
from steel_batch.lake.commands import command
from steel_batch.runs.record import RunResult

EXAMPLE: Final = """\
steel-batch score --date 2026-11-21 \\
  --images s3://lake/images --key-pattern 'line={line}/date={date}/{image_id}.jpg' \\
  --store s3://lake/steel --engine severstal@production"""


@click.command(cls=GroupedCommand, example=EXAMPLE)
@date_option
@limit_option
@report_option
@alert_option
@run_options
def score(
    output: str, verbose: bool, with_report: bool, alert_if: tuple[str, ...], **options: Any
) -> None:
    """Score a date's images and commit one row per image.

    Resumes an unfinished run of the same engine, date and settings. Images that already have a row
    are skipped, so run the same command again after late images arrive: it adds only those.
    """
    score_and_show(
        output, verbose, options,
        with_report=with_report, alert_if=alert_if, command_started=process_started(),
    )  # fmt: skip


def score_and_show(
    output: str,
    verbose: bool,
    options: dict[str, Any],
    *,
    with_report: bool = False,
    alert_if: Sequence[str] = (),
    command_started: float | None = None,
) -> None:
    """Run the scoring, show its progress, and show or print the results."""
    from steel_batch.cli.run_report import Afterwards
    from steel_batch.pipeline.score import score as score_dates  # imports DuckDB

    configure_logging(verbose)
    config = ScoreConfig(**options)
    afterwards = Afterwards.of(with_report=with_report, alert_if=alert_if, config=config)
    is_done = True
    with progress_line() as observe, _failure_told(config, afterwards):
        # Show each result before the next date fails.
        for result in score_dates(config, observe, command_started=command_started):
            if output == "json":
                print_json(result.to_json())
            else:
                store = Lake(config.store, endpoint_url=config.endpoint_url)
                show_result(result, store, rescored=config.rescore_changed)
            is_done &= afterwards.run(config, result)
    if not is_done:
        raise click.exceptions.Exit(1)


@contextmanager
def _failure_told(config: ScoreConfig, afterwards: Any) -> Iterator[None]:
    """Tell of an error of the block before it ends the command."""
    try:
        yield
    except SteelBatchError as error:
        afterwards.failed(config, config.date, str(error))
        raise


def show_result(result: RunResult, store: Lake, *, rescored: bool = False) -> None:
    """Show a person how a run ended.

    Args:
        result: The run's result.
        store: Where its rows are.
        rescored: Whether changed images were scored again.
    """
    notes = left_alone(result, rescored=rescored)
    if result.run_id is None:
        say(
            f"{result.date}: nothing new: all {result.num_committed_before + result.num_changed:,} "
            f"images already have a row or a quarantine entry.{notes}"
        )
        return
    late = (
        f"; {result.num_committed_before:,} already had a row or a quarantine entry"
        if result.num_committed_before
        else ""
    )
    rate = f"{result.images_per_second:,.1f} images/s; " if result.images_per_second else ""
    scored = f"{counted(result.num_scored, 'image')} scored with {result.engine}"
    resumed = ""
    if result.num_resumed_images:  # those that it quarantined included
        done = counted(result.num_resumed_images, "image")
        resumed = f" An earlier attempt of this run had done {done}."
    retried = ""
    if result.num_retried:
        retried = (
            f" Retried: {counted(result.num_retried, 'quarantined image')}, of which "
            f"{result.num_retried - result.num_bad_again:,} left the quarantine."
        )
    say(
        f"{result.date}: {scored} in {duration(result.seconds)} ({rate}start-up "
        f"{duration(result.startup_seconds)}), {result.num_quarantined:,} quarantined{late}."
        f"{resumed}{retried}{notes}"
    )
    table = Table("class", "name", "images", "share", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for entry in result.classes:
        share = entry.num_images / max(1, result.num_scored)
        table.add_row(
            str(entry.class_id), entry.class_name, f"{entry.num_images:,}", f"{share:.1%}"
        )
    console.print(table)
    console.print(f"run {result.run_id}, table version {result.table_version}")
    console.print(f"{result.predictions}", soft_wrap=True)
    if result.num_quarantined:
        listing = command(store, "quarantine", "list", "--run", result.run_id)
        console.print(f"why images were quarantined: {listing}", soft_wrap=True)


def left_alone(result: RunResult, *, rescored: bool) -> str:
    """Describe a date's images that were not scored, as sentences that each begin with a blank."""
    changed = (
        f" Changed since they were scored: {counted(result.num_changed, 'image')}; "
        f"{'their rows are replaced' if rescored else 'use --rescore-changed to score them'}."
        if result.num_changed
        else ""
    )
    left_out = (
        f" Left out by the key pattern: {others(result.num_left_out, result.example_left_out)}."
        if result.num_left_out
        else ""
    )
    beyond = (
        f" Beyond --limit: {counted(result.num_beyond_limit, 'image')}, left to a later run."
        if result.num_beyond_limit
        else ""
    )
    return changed + left_out + beyond
