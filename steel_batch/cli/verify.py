"""`steel-batch verify` and `gc`: check that committed data is whole, and delete garbage."""

from __future__ import annotations

import dataclasses

import click

from steel_batch.cli.completion import complete_date, complete_engine
from steel_batch.cli.output import (
    console,
    counted,
    endpoint_option,
    existing_store,
    output_option,
    print_json,
    print_line,
    say,
    single_writer_option,
    size_of,
    store_option,
)
from steel_batch.cli.values import DATE
from steel_batch.lake.commands import command
from steel_batch.lake.probe import writable
from steel_batch.tables.gc import collect, find_garbage
from steel_batch.tables.verify import verify as verify_store


@click.command()
@store_option
@endpoint_option
@click.option(
    "--engine",
    metavar="ENGINE",
    shell_complete=complete_engine,
    help="Only this engine: <model>-<12 hex digits>.",
)
@click.option(
    "--date", type=DATE, metavar="DATE", shell_complete=complete_date, help="Only this date."
)
@output_option
def verify(
    store: str, endpoint_url: str | None, engine: str | None, date: str | None, output: str
) -> None:
    """Check every committed file, row count and run; exit 1 if a problem is found.

    Reads every committed byte. Reports missing, truncated, changed and unknown files, images with
    two rows, and runs whose numbers do not add up. The counts of files and rows cover all three
    tables.
    """
    lake = existing_store(store, endpoint_url)
    checked = verify_store(lake, engine=engine, date=date)
    problems = list(checked)
    if output == "json":
        print_json([dataclasses.asdict(problem) for problem in problems])
    else:
        for problem in problems:
            print_line(f"{problem.kind}: {problem.key}: {problem.message}")
        found = f"{counted(len(problems), 'problem')} in {lake.url}"
        say(
            f"{found if problems else 'no problems found'}; checked: "
            f"{counted(checked.num_runs, 'run')}, "
            f"{counted(checked.num_files, 'file')}, {counted(checked.num_rows, 'row')}"
        )
    if checked.num_hiding:
        console.print(
            f"note: the log has column bounds for some columns only, in "
            f"{counted(checked.num_hiding, 'file')} of builds before December 2026. deltalake "
            "returns too few rows for filters on other columns. Fix: "
            f"{command(lake, 'upgrade')}."
        )
    if problems:
        raise click.exceptions.Exit(1)


@click.command()
@store_option
@endpoint_option
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, without deleting.")
@single_writer_option
@output_option
def gc(
    store: str, endpoint_url: str | None, dry_run: bool, unsafe_single_writer: bool, output: str
) -> None:
    """Delete staged files of finished runs, and files that no table's log contains.

    Keeps the files of runs that can be resumed, and of dates that a run is working on. Unfinished
    writes, such as incomplete uploads, are deleted after a day.
    """
    lake = existing_store(store, endpoint_url)
    if not dry_run:
        lake = writable(lake, single_writer=unsafe_single_writer)
    found = list(find_garbage(lake) if dry_run else collect(lake))
    if output == "json":
        print_json([dataclasses.asdict(garbage) for garbage in found])
        return
    for garbage in found:
        print_line(f"{garbage.key}  {garbage.bytes:,} bytes  {garbage.reason}")
    size = sum(garbage.bytes for garbage in found)
    verb = "would be deleted" if dry_run else "deleted"
    console.print(f"{verb}: {counted(len(found), 'object')}, {size_of(size)}")
