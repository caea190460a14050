"""`steel-batch query`: SQL over a store's tables and the views that explain them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import click
import pyarrow as pa

from steel_batch.answers.columns import COLUMNS
from steel_batch.answers.open_store import NO_ROWS, OpenStore
from steel_batch.answers.pixel_size import parse_pixel_sizes
from steel_batch.answers.relation import Relation
from steel_batch.answers.views import VIEWS
from steel_batch.answers.whole import new_file
from steel_batch.answers.write import WRITERS, rows_of, text_of
from steel_batch.cli.output import (
    Table,
    endpoint_option,
    existing_store,
    naming,
    print_table,
    store_option,
)
from steel_batch.cli.shell import run_shell
from steel_batch.cli.values import SQL
from steel_batch.errors import ConfigError
from steel_batch.silence import answers

EXAMPLES: Final = """\b
steel-batch query --store S "SELECT line, class_name, defect_rate FROM class_summaries"
steel-batch query --store S --output csv --out big.csv "FROM defects WHERE area_px > 9000"
steel-batch query --store S --as-of 2026-11-22 "SELECT count(*) FROM predictions"
steel-batch query --store S"""


class _Explained(click.Command):
    """A command whose help ends with the views and their columns."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and the views."""
        super().format_epilog(ctx, formatter)
        for name, view in VIEWS.items():
            with formatter.section(f"{name}, {view.meaning}"):
                formatter.write_dl(
                    [
                        (column, each.meaning + (f" ({each.unit})" if each.unit else ""))
                        for column, each in COLUMNS[name].items()
                    ]
                )


as_of_option = click.option(
    "--as-of",
    metavar="VERSION|TIME",
    help="Query an earlier state of the store: a table version of the predictions, or a time such "
    "as 2026-11-22 or 2026-11-22T06:30 (UTC, or with an offset).",
)


@click.command(cls=_Explained, epilog=EXAMPLES)
@click.argument("sql", type=SQL, required=False)
@store_option
@endpoint_option
@click.option(
    "--file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Read the SQL from a file; - is standard input.",
)
@as_of_option
@click.option(
    "--pixel-mm",
    multiple=True,
    metavar="[LINE=]MM",
    help="Size of a pixel in millimetres, for the columns in mm: 0.35; 0.35x0.5 for width and "
    "height; 2=0.35 for line 2 only. Repeatable.",
)
@click.option(
    "--output",
    type=click.Choice(["text", *sorted(WRITERS)]),
    default="text",
    show_default=True,
    help="Text for people, or a format for programs on stdout or in --out.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the answer to a new file.",
)
@click.option(
    "--unsafe",
    "is_unsafe",
    is_flag=True,
    help="Let SQL read and write everything that this user can: files, databases, the network. "
    "Without it, SQL reads only the views below.",
)
def query(
    sql: str | None,
    store: str,
    endpoint_url: str | None,
    file: Path | None,
    as_of: str | None,
    pixel_mm: tuple[str, ...],
    output: str,
    out: Path | None,
    is_unsafe: bool,
) -> None:
    """Run SQL over a store: its tables, runs and engines.

    The SQL dialect is DuckDB's. Without SQL, on a terminal, this starts a shell. The views are
    listed below.
    """
    if sql is not None and file is not None:
        raise click.UsageError("give SQL or --file, not both.")
    if out is not None and output == "text":
        raise click.UsageError("--out needs --output csv, json or parquet.")
    sizes = parse_pixel_sizes(pixel_mm)
    is_shell = sql is None and file is None
    if is_shell and not sys.stdin.isatty():
        raise click.UsageError(
            "Missing argument 'SQL': give SQL, or --file (- is standard input). Without both, "
            "this starts a shell, which needs a terminal."
        )
    if is_shell and output != "text":
        raise click.UsageError("the shell prints text only: give SQL, or remove --output.")
    if output == "parquet" and out is None and sys.stdout.isatty():
        raise click.UsageError("cannot print Parquet to a terminal: give --out FILE.")
    if file is not None:
        sql = _read(file)
    lake = existing_store(store, endpoint_url)
    with OpenStore(lake, as_of=as_of, pixel_sizes=sizes, is_unsafe=is_unsafe) as opened:
        if sql is None:
            run_shell(opened, _show)
        else:
            _answer(opened, sql, output, out)


def _read(file: Path) -> str:
    """Read SQL from a file, or from standard input."""
    if str(file) == "-":
        return sys.stdin.read()
    with naming("--file", file):
        data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--file {file}: not text in UTF-8 ({error}).") from error


def _answer(store: OpenStore, sql: str, output: str, out: Path | None) -> None:
    """Run every statement; print each answer as text, or the only answer in another format."""
    if output == "text":
        num_answers = 0
        for num_answers, found in enumerate(store.answers(sql), 1):  # noqa: B007 - counted below
            _show(found)
    else:
        relations = list(store.answers(sql))
        num_answers = len(relations)
        if num_answers > 1:
            raise ConfigError(
                f"--output {output} takes one query, found {num_answers}: run them one by one, or "
                "use --output text."
            )
        for relation in relations:
            fields, batches = relation.read()
            with _target(out) as to:
                WRITERS[output](fields, batches, to)
    if not num_answers:
        raise ConfigError(NO_ROWS)


@contextmanager
def _target(out: Path | None) -> Iterator[BinaryIO]:
    """Open the place an answer is written to: stdout, or a new file."""
    if out is not None:
        with naming("--out", out), new_file(out) as file:
            yield file
        return
    stdout = answers()
    stdout.flush()
    yield stdout.buffer
    stdout.buffer.flush()


def _show(relation: Relation) -> None:
    fields, batches = relation.read()
    show_table(pa.Table.from_batches(batches, fields))


def show_table(rows: pa.Table) -> None:
    """Print a query's answer; numbers are right-aligned."""
    table = Table(*rows.column_names, box=None, pad_edge=False)
    for column, field in zip(table.columns, rows.schema, strict=True):
        kind = field.type
        if any(f(kind) for f in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)):
            column.justify = "right"
    for row in rows_of(rows.schema, rows.to_batches()):
        table.add_row(*map(_text, row))
    print_table(table)


def _text(value: Any) -> str:
    """Format a value for people: numbers with at least four significant digits."""
    if not isinstance(value, float):
        return text_of(value)
    if not 1e-4 <= abs(value) < 1e15:
        return f"{value:.4g}"
    before = len(f"{abs(value):.0f}") if abs(value) >= 1 else 0
    text = f"{value:,.{max(0, 4 - before)}f}" if before else f"{value:.4g}"
    return text.rstrip("0").rstrip(".") if "." in text else text
