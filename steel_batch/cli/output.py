"""What commands share: printing, writing, and options that several commands take.

JSON goes to stdout. Text, tables and progress go to stderr, unless the text is the answer itself.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from steel_batch import layout
from steel_batch.cli.values import ENDPOINT, STORE
from steel_batch.config import FEWEST_BITS, SAMPLE_BITS
from steel_batch.errors import ConfigError, MachineError, printable, redacted
from steel_batch.lake import Lake
from steel_batch.silence import answers
from steel_batch.sources.stray import by_product_reason, stray_reason

Command = TypeVar("Command", bound=Callable[..., Any])


class _Terminal(Console):
    """A console that escapes control characters in everything it prints."""

    def render_str(self, text: str, **options: Any) -> Text:
        """See `rich.console.Console`: every string is rendered here, also those in tables."""
        return super().render_str(printable(text), **options)


class Table(RichTable):
    """A `rich` table in which each row stays one row, whatever its cells contain."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """See `rich.table.Table`."""
        super().add_row(
            *(printable(c, lines=False) if isinstance(c, str) else c for c in cells), **options
        )


# Keys and messages may contain brackets, which must not be read as markup.
console = _Terminal(stderr=True, highlight=False, markup=False)
answer = _Terminal(highlight=False, markup=False, soft_wrap=True)

_FAULTS_OF_THE_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
HELP: Final[dict[str, Any]] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""How the help of every command is requested and shown, also if it runs alone."""
LONGEST_LINE: Final = 1 << 20

output_option = click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Text for people, or JSON on stdout for programs.",
)
store_option = click.option(
    "--store",
    type=STORE,
    required=True,
    metavar="URL",
    help="Folder or s3:// prefix of the tables and runs.",
)
registry_option = click.option(
    "--store",
    type=STORE,
    required=True,
    metavar="URL",
    help="Folder or s3:// prefix of the registry.",
)
single_writer_option = click.option(
    "--unsafe-single-writer",
    is_flag=True,
    help="Write to a store that cannot decide between two concurrent writers. You guarantee that "
    "no other command writes to it at the same time.",
)
links_option = click.option(
    "--follow-links",
    is_flag=True,
    help="Follow symbolic links that lead out of the --images folder. Without it, such a folder "
    "is skipped, and such an image is not read: `score` quarantines it.",
)
inventory_option = click.option(
    "--inventory-bucket",
    "inventory_buckets",
    multiple=True,
    default=(),
    metavar="BUCKET",
    help="Another bucket that an S3 Inventory may refer to, besides the bucket that contains it. "
    "Repeatable.",
)
endpoint_option = click.option(
    "--endpoint-url",
    type=ENDPOINT,
    metavar="URL",
    envvar="AWS_ENDPOINT_URL",
    help="S3 endpoint, for servers other than AWS.",
)
bits_option = click.option(
    "--bits",
    type=click.IntRange(FEWEST_BITS, SAMPLE_BITS),
    help="Number of used bits in images of 16 bits per sample, such as 12. Without it, an image is "
    "refused if its values do not show that all 16 bits are used.",
)


def existing_store(url: str, endpoint_url: str | None) -> Lake:
    """Open an existing store for reading: a mistyped URL must not look like an empty store.

    Raises:
        ConfigError: There is no store at that place.
    """
    store = Lake(url, endpoint_url=endpoint_url)
    if not any(next(store.list_objects(f"{folder}/"), None) for folder in layout.FOLDERS):
        raise ConfigError(
            f"there is no store at {store.url}: found no runs, tables or registry. Check --store."
        )
    return store


@contextmanager
def naming(flag: str, path: Path) -> Iterator[None]:
    """Turn an operating-system error about a local path into one sentence that names its flag.

    Raises:
        ConfigError: Raised instead of the `OSError` of the block.
        MachineError: The same, if the disk is full or failed.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
            reason = f"there is no folder {path.parent}"
        kind = MachineError if error.errno in _FAULTS_OF_THE_DISK else ConfigError
        raise kind(f"{flag} {path}: {reason}.") from error


def say(text: str) -> None:
    """Print a sentence to stderr: wrapped on a terminal, elsewhere on one line."""
    console.print(text, soft_wrap=not console.is_terminal)


def print_line(text: str) -> None:
    """Print a line of the answer, safe for any name or note in it."""
    answer.print(printable(text, lines=False))


def print_table(table: Table, to: Console = answer) -> None:
    """Print a table: values wrapped on a terminal, elsewhere one line per row."""
    for column in table.columns:
        column.overflow = "fold"
    if not to.is_terminal:
        to = _Terminal(stderr=to.stderr, highlight=False, markup=False, width=LONGEST_LINE)
    to.print(table, soft_wrap=False)


def others(number: int, example: str | None) -> str:
    """Describe the objects that a listing left out: how many, one example, and why, if known.

    A folder whose name does not match counts as one object.
    """
    text = counted(number, "other object")
    if example is None:
        return text
    container, _, member = example.rpartition("#")
    reason = by_product_reason(member) if container else stray_reason(example.removesuffix("/"))
    shown = printable(example, lines=False)
    return f"{text}, for example {shown}{'' if reason is None else f' ({reason})'}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "2,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size_of(num_bytes: int) -> str:
    """Format a number of bytes for people."""
    if num_bytes < 1e3:
        return counted(num_bytes, "byte")
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:,.1f} kB"
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:,.1f} GB"


def duration(seconds: float) -> str:
    """Format seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def print_json(value: Any) -> None:
    """Print one JSON object to stdout."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    click.echo(json.dumps(value, sort_keys=True, default=str), file=answers())


class _Lines(logging.Formatter):
    """Formats warnings for people, and adds times and names if everything is logged.

    Each record is one line, whatever names it contains.
    """

    def __init__(self, verbose: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._verbose = verbose

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        before, _, rest = text.partition(record.message)  # then a traceback, if there is one
        if not self._verbose:
            before = f"{record.levelname.capitalize()}: "
        message = printable(redacted(record.message), lines=False)
        return f"{before}{message}{printable(redacted(rest))}"


def configure_logging(verbose: bool) -> None:
    """Send the package's log records to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines(verbose))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("steel_batch").setLevel(logging.INFO if verbose else logging.WARNING)
