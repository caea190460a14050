"""The options that select images for `export` and `show`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from steel_batch.cli.completion import complete_date, complete_engine
from steel_batch.cli.output import endpoint_option, store_option
from steel_batch.cli.values import DATES, SQL

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = [
    store_option,
    endpoint_option,
    click.option(
        "--date",
        type=DATES,
        metavar="DATE",
        shell_complete=complete_date,
        help="Only this date, month (2026-11) or year.",
    ),
    click.option(
        "--engine",
        metavar="ENGINE",
        shell_complete=complete_engine,
        help="Rows of this engine, <model>-<12 hex digits>. Default: for each date, the engine in "
        "the view `current`; with --query, the rows that it returns.",
    ),
    click.option(
        "--where",
        type=SQL,
        metavar="CONDITION",
        help="SQL over the columns of predictions, such as \"line = '1' AND has_defect\".",
    ),
    click.option(
        "--query",
        type=SQL,
        metavar="SQL",
        help="SQL that returns image_key, date and engine. Selects these rows, in this order. It "
        "may leave out date or engine if each image has rows of one date or engine only.",
    ),
]


def selection_options(command: Command) -> Command:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
