"""`steel-batch runs`: which runs there were, and what happened in one."""

from __future__ import annotations

import dataclasses

import click
from rich.table import Table

from steel_batch import layout
from steel_batch.cli.completion import complete_date, complete_run
from steel_batch.cli.output import (
    answer,
    counted,
    endpoint_option,
    existing_store,
    output_option,
    print_json,
    store_option,
)
from steel_batch.cli.values import DATES
from steel_batch.errors import ConfigError
from steel_batch.runs.events import read_events
from steel_batch.runs.record import list_runs, read_runs, runs_of


@click.group()
def runs() -> None:
    """List runs, or show what happened in one."""


@runs.command("list")
@store_option
@endpoint_option
@click.option(
    "--date",
    type=DATES,
    metavar="DATE",
    shell_complete=complete_date,
    help="Only runs of this date, or of a month: 2026-11.",
)
@output_option
def list_(store: str, endpoint_url: str | None, date: str | None, output: str) -> None:
    """List the runs of a store, by date."""
    lake = existing_store(store, endpoint_url)
    found = list(read_runs(lake, list(list_runs(lake, date or ""))))
    if output == "json":
        print_json(
            [
                {
                    "run_id": run.run_id,
                    "state": run.state,
                    "result": None if run.result is None else run.result.to_json(),
                }
                for run in found
            ]
        )
        return
    table = Table("run", "state", "images", "quarantined", "seconds", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for run in found:
        images = run.record.num_images if run.record else 0
        result = run.result
        table.add_row(
            run.run_id,
            run.state,
            f"{images:,}",
            f"{result.num_quarantined:,}" if result else "",
            f"{result.seconds:,.0f}" if result else "",
        )
    of_date = f" of {date}" if date else ""
    answer.print(table if found else f"no runs{of_date} in {lake.url}")


@runs.command("show")
@click.argument("run_id", shell_complete=complete_run)
@store_option
@endpoint_option
@output_option
def show(run_id: str, store: str, endpoint_url: str | None, output: str) -> None:
    """Show one run: its settings, its result, and what happened, from its events."""
    engine, date, _ = layout.split_run_id(run_id)
    lake = existing_store(store, endpoint_url)
    of_date = read_runs(lake, runs_of(lake, engine, date))
    run = next((run for run in of_date if run.run_id == run_id), None)
    if run is None or run.record is None:
        raise ConfigError(f"there is no run {run_id} in {lake.url}; `runs list` shows them.")
    events = list(read_events(lake, run_id))
    if output == "json":
        print_json(
            {
                "run_id": run_id,
                "state": run.state,
                "record": dataclasses.asdict(run.record),
                "result": None if run.result is None else run.result.to_json(),
                "events": events,
            }
        )
        return
    answer.print(f"{run_id}: {run.state}")
    for name, value in run.record.settings.items():
        answer.print(f"  {name}: {value}")
    answer.print(
        f"  plan {run.record.plan_digest[:12]}: {counted(run.record.num_images, 'image')} in "
        f"{counted(run.record.num_shards, 'shard')}"
    )
    for event in events:
        rest = {k: v for k, v in event.items() if k not in ("at", "event", "config")}
        text = ", ".join(f"{k}={v}" for k, v in rest.items())
        answer.print(f"{event['at']}  {event['event']}  {text}")
