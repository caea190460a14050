"""The interactive shell of `query`: statements that end with ``;``, and words about the views.

Ctrl-C and Ctrl-D end it. A line is read in a thread, so that a signal is seen while it waits.
"""

from __future__ import annotations

import contextlib
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import duckdb

from steel_batch import interrupt
from steel_batch.answers.columns import COLUMNS
from steel_batch.answers.open_store import OpenStore
from steel_batch.answers.views import VIEWS
from steel_batch.cli.output import console
from steel_batch.errors import SteelBatchError

PROMPT: Final = "steel> "
GOES_ON: Final = "   ... "
POLL_SECONDS: Final = 0.1
HELP: Final = """\
.tables          the views, and what a row of each is
.columns VIEW    the columns of one
.quit            leave, as Ctrl-D and Ctrl-C do
SELECT …;        any SQL of DuckDB; a statement ends with ;"""


def run_shell(store: OpenStore, show: Callable[[Any], None]) -> None:
    """Read and answer statements until there are no more.

    Args:
        store: What is asked.
        show: Prints the answer of one statement, a `duckdb.DuckDBPyRelation`.

    Raises:
        Interrupted: A signal asked to stop.
    """
    console.print(f"Ask {', '.join(VIEWS)}. `.help` says more.")
    with _terminal_kept():
        for text in _inputs():
            if text.startswith("."):
                if text in (".quit", ".exit"):
                    return
                _explain(text.split())
                continue
            try:
                for found in store.answers(text):
                    show(found)
            except SteelBatchError as error:
                console.print(f"Error: {error}")


def _explain(words: list[str]) -> None:
    if words[0] == ".tables":
        for name, view in VIEWS.items():
            console.print(f"{name:16} {view.meaning}")
    elif words[0] == ".columns" and len(words) == 2 and words[1] in COLUMNS:
        for name, column in COLUMNS[words[1]].items():
            console.print(f"{name:18} {column.meaning}{f' ({column.unit})' if column.unit else ''}")
    elif words[0] == ".columns":
        console.print(f"Error: .columns takes one of: {', '.join(COLUMNS)}")
    else:
        console.print(HELP)


def _inputs() -> Iterator[str]:
    """Lines that begin with a dot, and whole statements."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # which `input` uses for history and editing
    pending = ""
    while (line := _read_line(GOES_ON if pending else PROMPT)) is not None:
        if not pending and line.strip().startswith("."):
            yield line.strip()
            continue
        pending = f"{pending}{line}\n".lstrip()
        if is_whole(pending):
            yield pending
            pending = ""
    console.print()


def is_whole(sql: str) -> bool:
    """Whether a text ends with a ``;`` that is part of no quotation or comment."""
    tokens = [
        sql[start:] for start, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment
    ]
    return bool(tokens) and tokens[-1].startswith(";")


def _read_line(prompt: str) -> str | None:
    """A line of the terminal; None where there are no more.

    Raises:
        Interrupted: A signal asked to stop.
    """
    found: list[str] = []
    is_read = threading.Event()

    def read() -> None:
        with contextlib.suppress(EOFError):
            found.append(input(prompt))
        is_read.set()

    threading.Thread(target=read, daemon=True).start()
    while not is_read.wait(POLL_SECONDS):
        interrupt.check()
    interrupt.check()
    return found[0] if found else None


@contextlib.contextmanager
def _terminal_kept() -> Iterator[None]:
    """Leave the terminal as it was, also where a line was being read."""
    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
