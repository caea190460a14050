"""`steel-batch upgrade`: bring a store that an earlier build wrote up to date."""

from __future__ import annotations

import dataclasses

import click

from steel_batch import layout
from steel_batch.cli.output import (
    answer,
    counted,
    endpoint_option,
    existing_store,
    output_option,
    print_json,
    single_writer_option,
    store_option,
)
from steel_batch.lake.probe import writable
from steel_batch.tables.table_log import commit_turn
from steel_batch.tables.upgrade import upgrade_table


@click.command()
@store_option
@endpoint_option
@single_writer_option
@output_option
def upgrade(store: str, endpoint_url: str | None, unsafe_single_writer: bool, output: str) -> None:
    """Bring the tables of an earlier build up to date; no row changes.

    Adds the columns that this build writes, null in the rows that are there, and puts the bounds
    of every column of every file into the tables' logs: with bounds of some columns only, as
    builds before December 2026 wrote them, deltalake and what is made of it return too few rows.
    Reads the footer of each file. Runs do what readers need by themselves; this is for stores that
    nothing is added to any more, and makes filters by other columns than the date quick again.
    """
    lake = writable(existing_store(store, endpoint_url), single_writer=unsafe_single_writer)
    with commit_turn(lake):
        done = [upgrade_table(lake, table) for table in layout.TABLES]
    if output == "json":
        print_json([dataclasses.asdict(table) for table in done])
    else:
        for table in done:
            if table.is_changed or table.num_bounded:
                answer.print(
                    f"{table.table}: brought up to date, bounds of "
                    f"{counted(table.num_bounded, 'file')} written"
                )
            else:
                answer.print(f"{table.table}: up to date already")
            for key in table.unreadable:
                answer.print(f"{table.table}: {key} cannot be read: run `steel-batch verify`")
    if any(table.unreadable for table in done):
        raise click.exceptions.Exit(1)
