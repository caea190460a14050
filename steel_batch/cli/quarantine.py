"""`steel-batch quarantine`: images that could not be scored."""

from __future__ import annotations

from typing import Any, Final

import click
import pyarrow as pa

from steel_batch import layout
from steel_batch.cli.completion import complete_date, complete_run
from steel_batch.cli.grouped import GroupedCommand
from steel_batch.cli.output import (
    endpoint_option,
    existing_store,
    output_option,
    print_json,
    say,
    store_option,
)
from steel_batch.cli.query import show_table
from steel_batch.cli.score import score_and_show
from steel_batch.cli.score_options import date_option, run_options
from steel_batch.cli.values import DATE
from steel_batch.errors import IMAGE_CODES, ConfigError
from steel_batch.lake import Lake
from steel_batch.lake.commands import command
from steel_batch.runs.receipt import quarantined_images
from steel_batch.runs.record import read_run
from steel_batch.tables.query import run_query

_LISTED: Final = pa.schema(
    [(name, pa.string()) for name in ("date", "engine", "image_key", "error_code", "message")]
    + [("bytes", pa.int64())]
)

RETRY_EXAMPLE: Final = """\
steel-batch quarantine retry --date 2026-11-21 \\
  --images s3://lake/images --key-pattern 'line={line}/date={date}/{image_id}.jpg' \\
  --store s3://lake/steel --engine severstal@production"""


@click.group()
def quarantine() -> None:
    """List images that could not be scored, or try them again."""


@quarantine.command("list")
@store_option
@endpoint_option
@click.option(
    "--date", type=DATE, metavar="DATE", shell_complete=complete_date, help="Only this date."
)
@click.option("--code", metavar="CODE", help="Only this error code, such as truncated.")
@click.option(
    "--run",
    "run_id",
    metavar="RUN",
    shell_complete=complete_run,
    help="Images quarantined by this run, even if it committed nothing, such as after exit 3.",
)
@output_option
def list_(
    store: str,
    endpoint_url: str | None,
    date: str | None,
    code: str | None,
    run_id: str | None,
    output: str,
) -> None:
    """List quarantined images with code and message."""
    lake = existing_store(store, endpoint_url)
    if run_id is not None:
        rows = _set_aside(lake, run_id, date, code)
        if output == "json":
            print_json(rows.to_pylist())
        else:
            show_table(rows)
        return
    where = ["true"]
    if date is not None:
        where.append(f"date = '{date}'")
    if code is not None:
        _check_code(code, lake)
        where.append(f"error_code = '{code}'")
    rows = run_query(
        lake,
        "SELECT date, engine, image_key, error_code, message, bytes FROM quarantine "  # noqa: S608 - both parts are checked above
        f"WHERE {' AND '.join(where)} ORDER BY ALL",
    )
    if output == "json":
        print_json(rows.to_pylist())
    else:
        show_table(rows)
    if date is not None and not rows.num_rows:
        _say_if_not_scored(lake, date)


def _say_if_not_scored(store: Lake, date: str) -> None:
    """Tell a date without bad images from one that no run has scored."""
    tables = (layout.PREDICTIONS, layout.QUARANTINE)
    parts = [f"(SELECT 1 FROM {table} WHERE date = '{date}' LIMIT 1)" for table in tables]  # noqa: S608 - a date
    if not run_query(store, " UNION ALL ".join(parts)).num_rows:
        say(
            f"no row of {date} is committed in {store.url}: nothing was scored yet, or a run did "
            f"not end. {command(store, 'runs', 'list')} lists the runs."
        )


def _set_aside(store: Lake, run_id: str, date: str | None, code: str | None) -> pa.Table:
    """Read what one run has quarantined so far, from its receipts."""
    engine, its_date, _ = layout.split_run_id(run_id)
    if read_run(store, run_id).record is None:
        raise ConfigError(
            f"there is no run {run_id} in {store.url}. {command(store, 'runs', 'list')} lists the "
            "runs."
        )
    if date not in (None, its_date):
        raise ConfigError(f"run {run_id} is of {its_date}, not of --date {date}: remove --date.")
    found = list(quarantined_images(store, run_id))
    known = {*IMAGE_CODES, *(image.error_code for image in found)}
    if code not in (None, *known):
        raise ConfigError(f"unknown --code {code!r}: expected one of: {', '.join(sorted(known))}.")
    rows = [
        {
            "date": its_date, "engine": engine, "image_key": image.image_key,
            "error_code": image.error_code, "message": image.message, "bytes": image.bytes,
        }
        for image in found
        if code in (None, image.error_code)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=_LISTED)


def _check_code(code: str, store: Lake) -> None:
    if code in IMAGE_CODES:
        return
    rows = run_query(store, "SELECT DISTINCT error_code FROM quarantine").to_pylist()
    others = sorted({row["error_code"] for row in rows} - set(IMAGE_CODES))
    if code not in others or not code.replace("_", "").isalnum():
        raise ConfigError(
            f"unknown --code {code!r}: expected one of: {', '.join((*IMAGE_CODES, *others))}."
        )


@quarantine.command("retry", cls=GroupedCommand, example=RETRY_EXAMPLE)
@date_option
@run_options
def retry(output: str, verbose: bool, **options: Any) -> None:
    """Score a date's quarantined images again; those that succeed leave the quarantine.

    Takes the flags of `score` except --report and --alert-if. It also scores new images of the
    date.
    """
    existing_store(options["store"], options["endpoint_url"])
    score_and_show(output, verbose, {**options, "retry_quarantined": True})
