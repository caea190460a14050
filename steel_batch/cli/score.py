"""`steel-batch score`: score one date, or every date, of a lake."""

from __future__ import annotations

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
from steel_batch.cli.progress import progress_line
from steel_batch.cli.score_options import date_option, limit_option, run_options
from steel_batch.config import ScoreConfig
from steel_batch.runs.record import RunResult

EXAMPLE: Final = """\
steel-batch score --date 2026-11-21 \\
  --images s3://lake/images --key-pattern 'line={line}/date={date}/{image_id}.jpg' \\
  --store s3://lake/steel --engine severstal@production"""


@click.command(cls=GroupedCommand, example=EXAMPLE)
@date_option
@limit_option
@run_options
def score(output: str, verbose: bool, **options: Any) -> None:
    """Score a date's images and commit one row per image.

    An unfinished run of the same engine, date and settings is continued. Images that have their
    row already are left out, so running again after late images arrive adds only those.
    """
    score_and_show(output, verbose, options)


def score_and_show(output: str, verbose: bool, options: dict[str, Any]) -> None:
    """Score as the options say, show how far it is, and show or print the results."""
    from steel_batch.pipeline.score import score as score_dates  # imports Ray

    configure_logging(verbose)
    config = ScoreConfig(**options)
    with progress_line() as observe:
        for result in score_dates(config, observe):  # a date that fails does not hide those before
            if output == "json":
                print_json(result.to_json())
            else:
                show_result(result, rescored=config.rescore_changed)


def show_result(result: RunResult, *, rescored: bool = False) -> None:
    """How a run ended, for a person.

    Args:
        result: How it ended.
        rescored: Whether images that were changed since were scored again.
    """
    notes = left_alone(result, rescored=rescored)
    if result.run_id is None:
        say(
            f"{result.date}: nothing new: all {result.num_committed_before + result.num_changed:,} "
            f"images have their row or quarantine entry already.{notes}"
        )
        return
    quarantined = f"{result.num_quarantined:,} quarantined"
    if result.num_quarantined:
        quarantined += " (`steel-batch quarantine list` says why)"
    late = (
        f"; {result.num_committed_before:,} had their row or quarantine entry already"
        if result.num_committed_before
        else ""
    )
    rate = f"{result.images_per_second:,.1f} images/s; " if result.images_per_second else ""
    scored = f"{counted(result.num_scored, 'image')} scored with {result.engine}"
    if result.num_resumed_images:
        scored += f", {result.num_resumed_images:,} of the run's images by an earlier attempt,"
    retried = ""
    if result.num_retried:
        retried = (
            f" Tried again: {counted(result.num_retried, 'quarantined image')}, of which "
            f"{result.num_retried - result.num_bad_again:,} left the quarantine."
        )
    say(
        f"{result.date}: {scored} in {duration(result.seconds)} ({rate}start-up "
        f"{duration(result.startup_seconds)}), {quarantined}{late}.{retried}{notes}"
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


def left_alone(result: RunResult, *, rescored: bool) -> str:
    """What a date has beside the scored images, as sentences; each begins with a blank."""
    changed = (
        f" Changed since they were scored: {counted(result.num_changed, 'image')}, "
        f"{'whose rows are replaced' if rescored else 'left so without --rescore-changed'}."
        if result.num_changed
        else ""
    )
    left_out = (
        f" Left out by their keys: {others(result.num_left_out, result.example_left_out)}."
        if result.num_left_out
        else ""
    )
    beyond = (
        f" Left to a later run by --limit: {counted(result.num_beyond_limit, 'image')}."
        if result.num_beyond_limit
        else ""
    )
    return changed + left_out + beyond
