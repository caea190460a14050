"""What commands share: how they print and write, and the options that several of them take.

JSON for machines goes to stdout; text, tables and progress go to stderr, except where the text is
the answer itself.
"""

from __future__ import annotations

import dataclasses
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
from steel_batch.cli.values import ENDPOINT, PLACE
from steel_batch.config import FEWEST_BITS, SAMPLE_BITS
from steel_batch.errors import ConfigError, printable, redacted
from steel_batch.lake import Lake
from steel_batch.silence import answers
from steel_batch.sources.stray import by_product_reason, stray_reason

Command = TypeVar("Command", bound=Callable[..., Any])


class _Terminal(Console):
    """A console that shows control characters of whatever text it is given as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        """See `rich.console.Console`: strings come this way, those in tables as well."""
        return super().render_str(printable(text), **options)


class Table(RichTable):
    """A table of `rich` in which each row stays a row, whatever its cells hold."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """See `rich.table.Table`."""
        super().add_row(
            *(printable(c, lines=False) if isinstance(c, str) else c for c in cells), **options
        )


# Keys and messages hold brackets, which are not meant as markup.
console = _Terminal(stderr=True, highlight=False, markup=False)
answer = _Terminal(highlight=False, markup=False, soft_wrap=True)

HELP: Final[dict[str, Any]] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""How a command's help is asked for and shown, also where it is run alone."""
LONGEST_LINE: Final = 1 << 20

output_option = click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Text for people, or JSON on stdout for machines.",
)
store_option = click.option(
    "--store",
    type=PLACE,
    required=True,
    metavar="URL",
    help="Folder or s3:// prefix of the tables and runs.",
)
registry_option = click.option(
    "--store",
    type=PLACE,
    required=True,
    metavar="URL",
    help="Folder or s3:// prefix of the registry.",
)
single_writer_option = click.option(
    "--unsafe-single-writer",
    is_flag=True,
    help="Write to a store that does not decide between two writers: on your word that no other "
    "command writes to it meanwhile.",
)
links_option = click.option(
    "--follow-links",
    is_flag=True,
    help="Read what links in a folder lead to out of it, too. Without it, such an image is "
    "quarantined, and what lies below such a folder is left out.",
)
inventory_option = click.option(
    "--inventory-bucket",
    "inventory_buckets",
    multiple=True,
    default=(),
    metavar="BUCKET",
    help="A bucket that an S3 Inventory may name besides the one that it lies in; may be repeated.",
)
endpoint_option = click.option(
    "--endpoint-url",
    type=ENDPOINT,
    metavar="URL",
    envvar="AWS_ENDPOINT_URL",
    help="S3 endpoint other than AWS's.",
)
bits_option = click.option(
    "--bits",
    type=click.IntRange(FEWEST_BITS, SAMPLE_BITS),
    help="Bits in use in images of 16 bits a sample, as the camera gives them, such as 12. Without "
    "it, an image that does not show that it uses all 16 is refused.",
)


def existing_store(url: str, endpoint_url: str | None) -> Lake:
    """A store that is only looked into: a mistyped one is not an empty one.

    Raises:
        ConfigError: Nothing lies there that a store has.
    """
    store = Lake(url, endpoint_url=endpoint_url)
    if not any(next(store.list_objects(f"{folder}/"), None) for folder in layout.FOLDERS):
        raise ConfigError(
            f"there is no store at {store.url}: it has no runs, tables or registry; check --store."
        )
    return store


@contextmanager
def naming(flag: str, path: Path) -> Iterator[None]:
    """What the operating system says of a path of this machine, in one sentence with its flag.

    Raises:
        ConfigError: In place of the `OSError` of the block.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
            reason = f"there is no folder {path.parent}"
        raise ConfigError(f"{flag} {path}: {reason}.") from error


def say(text: str) -> None:
    """A sentence on stderr: folded to a terminal's width, elsewhere one line."""
    console.print(text, soft_wrap=not console.is_terminal)


def print_line(text: str) -> None:
    """A line of the answer, whatever names and notes are in it."""
    answer.print(printable(text, lines=False))


def print_table(table: Table, to: Console = answer) -> None:
    """A table: values folded to a terminal's width, elsewhere a line a row."""
    for column in table.columns:
        column.overflow = "fold"
    if not to.is_terminal:
        to = _Terminal(stderr=to.stderr, highlight=False, markup=False, width=LONGEST_LINE)
    to.print(table, soft_wrap=False)


def others(number: int, example: str | None) -> str:
    """What a listing saw and took for no image: how many objects, one of them, and why, if known.

    A folder whose name does not match counts as one.
    """
    text = counted(number, "other object")
    if example is None:
        return text
    container, _, member = example.rpartition("#")
    reason = by_product_reason(member) if container else stray_reason(example.removesuffix("/"))
    shown = printable(example, lines=False)
    return f"{text}, for example {shown}{'' if reason is None else f' ({reason})'}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 image", "2,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size_of(num_bytes: int) -> str:
    """Bytes as people say them."""
    if num_bytes < 1e3:
        return counted(num_bytes, "byte")
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:,.1f} kB"
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:,.1f} GB"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    click.echo(json.dumps(value, sort_keys=True, default=str), file=answers())


class _Lines(logging.Formatter):
    """Warnings as a person reads them; with times and names where all is logged.

    A record is a line, whatever names it tells of.
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
