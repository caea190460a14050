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
    """Bring the tables of an earlier build up to date, without changing rows.

    Adds the columns of this build (null in existing rows), and writes every column's minimum and
    maximum for every file to the tables' logs. Builds before December 2026 wrote them for some
    columns only; deltalake then returns too few rows for filters on the other columns. Reads the
    footer of every file. `score` upgrades what readers need; run this for tables that get no new
    rows, and to speed up filters on columns other than the date.
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
                    f"{table.table}: updated; wrote column bounds of "
                    f"{counted(table.num_bounded, 'file')}"
                )
            else:
                answer.print(f"{table.table}: already up to date")
            for key in table.unreadable:
                answer.print(f"{table.table}: {key} cannot be read. Run `steel-batch verify`.")
    if any(table.unreadable for table in done):
        raise click.exceptions.Exit(1)
