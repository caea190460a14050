"""`steel-batch runs`: list runs, and show what happened in one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from steel_batch import layout
from steel_batch.cli.completion import complete_date, complete_run
from steel_batch.cli.output import (
    Table,
    answer,
    counted,
    endpoint_option,
    existing_store,
    output_option,
    print_json,
    print_line,
    print_table,
    store_option,
)
from steel_batch.cli.values import DATES
from steel_batch.errors import ConfigError, LakeError
from steel_batch.lake.commands import command
from steel_batch.runs.alerts import read_alerts
from steel_batch.runs.ending import Ending, ending_of, first_sentence, try_endings
from steel_batch.runs.events import read_events
from steel_batch.runs.record import Run, list_runs, read_run, runs_of, try_runs

LONGEST_LIST: Final = 20


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
    help="Only runs of this date, or of this month: 2026-11.",
)
@output_option
def list_(store: str, endpoint_url: str | None, date: str | None, output: str) -> None:
    """List a store's runs by date, and why runs without a commit ended."""
    lake = existing_store(store, endpoint_url)
    ids = list(list_runs(lake, date or ""))
    tried = list(try_runs(lake, ids))
    found: list[tuple[Run, Ending]] = []
    errors: list[LakeError] = []
    for run_id, run, end in zip(ids, tried, try_endings(lake, tried), strict=True):
        if isinstance(run, Run) and isinstance(end, Ending):
            found.append((run, end))
        elif isinstance(end, LakeError):
            errors.append(end)
            unreadable = Ending("unreadable", end.message, first_sentence(end.message))
            found.append((Run(run_id=run_id, record=None, result=None), unreadable))
    if output == "json":
        print_json(
            [
                {
                    "run_id": run.run_id,
                    "state": end.state,
                    "reason": end.reason,
                    "result": None if run.result is None else run.result.to_json(),
                }
                for run, end in found
            ]
        )
    elif found:
        _print_runs(found)
    else:
        answer.print(f"no runs{f' of {date}' if date else ''} in {lake.url}")
    if errors:
        num_more = len(errors) - LONGEST_LIST
        more = [f"{num_more} more runs cannot be read."] if num_more > 0 else []
        messages = [error.message for error in errors[:LONGEST_LIST]]
        raise type(errors[0])(" ".join([*messages, *more]))


def _print_runs(found: Sequence[tuple[Run, Ending]]) -> None:
    table = Table("run", "state", "images", "quarantined", "seconds", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for run, end in found:
        images = run.record.num_images if run.record else 0
        result = run.result
        table.add_row(
            run.run_id,
            f"{end.state}: {end.short}" if end.short else end.state,
            f"{images:,}",
            f"{result.num_quarantined:,}" if result else "",
            f"{result.seconds:,.0f}" if result else "",
        )
    print_table(table)


@runs.command("show")
@click.argument("run_id", shell_complete=complete_run)
@store_option
@endpoint_option
@output_option
def show(run_id: str, store: str, endpoint_url: str | None, output: str) -> None:
    """Show one run: settings, result, alerts, and its events in order."""
    engine, date, _ = layout.split_run_id(run_id)
    lake = existing_store(store, endpoint_url)
    run = read_run(lake, run_id, is_newest=run_id in runs_of(lake, engine, date)[-1:])
    if run.record is None:
        raise ConfigError(
            f"there is no run {run_id} in {lake.url}. {command(lake, 'runs', 'list')} lists the "
            "runs."
        )
    events = list(read_events(lake, run_id))
    end, alerts = ending_of(lake, run), read_alerts(lake, run_id)
    if output == "json":
        print_json(
            {
                "run_id": run_id,
                "state": end.state,
                "reason": end.reason,
                "record": dataclasses.asdict(run.record),
                "result": None if run.result is None else run.result.to_json(),
                "alerts": None if alerts is None else list(alerts.alerts),
                "events": events,
            }
        )
        return
    print_line(f"{run_id}: {end.state}{f': {end.reason}' if end.reason else ''}")
    for name, value in run.record.settings.items():
        print_line(f"  {name}: {_text(value)}")
    answer.print(
        f"  plan {run.record.plan_digest[:12]}: {counted(run.record.num_images, 'image')} in "
        f"{counted(run.record.num_shards, 'shard')}"
    )
    for alert in () if alerts is None else alerts.alerts:
        print_line(f"  alert: {alert}")
    for event in events:
        rest = {k: v for k, v in event.items() if k not in ("at", "event", "config")}
        text = ", ".join(f"{k}={_text(v)}" for k, v in rest.items())
        print_line(f"{event['at']}  {event['event']}  {text}".rstrip())


def _text(value: Any) -> str:
    """Format a value of an event or a setting, without Python's quotes and braces."""
    if isinstance(value, Mapping):
        return f"({' '.join(f'{k}={_text(v)}' for k, v in value.items()) or 'nothing'})"
    if isinstance(value, (list, tuple)):
        shown = " ".join(map(_text, value[:LONGEST_LIST]))
        return f"({shown}{f' and {len(value) - LONGEST_LIST} more' * (len(value) > LONGEST_LIST)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
