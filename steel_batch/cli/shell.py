"""The interactive shell of `query`: SQL statements that end with ``;``, and dot commands.

Ctrl-C and Ctrl-D quit. Lines are read in a thread, so that a signal is handled while it waits.
"""

from __future__ import annotations

import contextlib
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Final

import duckdb

from steel_batch import interrupt
from steel_batch.answers.columns import COLUMNS
from steel_batch.answers.open_store import OpenStore
from steel_batch.answers.relation import Relation
from steel_batch.answers.views import VIEWS
from steel_batch.cli.output import console
from steel_batch.errors import SteelBatchError

PROMPT: Final = "steel> "
GOES_ON: Final = "   ... "
POLL_SECONDS: Final = 0.1
HELP: Final = """\
.tables          list the views, and what a row of each is
.columns VIEW    list the columns of a view
.quit            quit, like Ctrl-D and Ctrl-C
SELECT …;        any SQL of DuckDB; a statement ends with ;"""


def run_shell(store: OpenStore, show: Callable[[Relation], None]) -> None:
    """Read and run statements until the input ends.

    Args:
        store: The store to query.
        show: Prints the result of one statement.

    Raises:
        Interrupted: A signal requested a stop.
    """
    console.print(f"Views: {', '.join(VIEWS)}. Type `.help` for help.")
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
        console.print(f"Error: .columns expects one of: {', '.join(COLUMNS)}")
    else:
        console.print(HELP)


def _inputs() -> Iterator[str]:
    """Read dot commands and whole statements."""
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
    """Return whether a text ends with a ``;`` outside quotations and comments."""
    tokens = [
        sql[start:] for start, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment
    ]
    return bool(tokens) and tokens[-1].startswith(";")


def _read_line(prompt: str) -> str | None:
    """Read a line from the terminal; None at the end of input.

    Raises:
        Interrupted: A signal requested a stop.
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
    """Restore the terminal's settings at the end, even if a line was being read."""
    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
