"""`steel-batch query`: SQL over the tables of a store."""

from __future__ import annotations

from pathlib import Path

import click
import pyarrow as pa

from steel_batch.cli.output import (
    Table,
    endpoint_option,
    existing_store,
    output_option,
    print_json,
    print_table,
    store_option,
)
from steel_batch.tables.query import run_query


@click.command()
@click.argument("sql")
@store_option
@endpoint_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A file that COPY … TO 'FILE' may write, and no other.",
)
@click.option(
    "--unsafe",
    "is_unsafe",
    is_flag=True,
    help="Let SQL read and write whatever this user can: other files, databases, the network.",
)
@output_option
def query(
    sql: str,
    store: str,
    endpoint_url: str | None,
    out: Path | None,
    is_unsafe: bool,
    output: str,
) -> None:
    """Answer SQL over predictions, class_summaries and quarantine.

    For example: "SELECT line, count(*) FROM predictions WHERE has_defect GROUP BY line".

    SQL reaches these tables alone. To keep an answer: "COPY (SELECT …) TO 'answer.parquet'" with
    --out answer.parquet.
    """
    found = run_query(existing_store(store, endpoint_url), sql, out=out, is_unsafe=is_unsafe)
    if output == "json":
        print_json(found.to_pylist())
    else:
        show_table(found)


def show_table(rows: pa.Table) -> None:
    """Print a query's answer, numbers to the right."""
    table = Table(*rows.column_names, box=None, pad_edge=False)
    for column, field in zip(table.columns, rows.schema, strict=True):
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            column.justify = "right"
    for row in rows.to_pylist():
        table.add_row(*(_text(value) for value in row.values()))
    print_table(table)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
