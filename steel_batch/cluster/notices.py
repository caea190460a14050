"""Ray's notices about lost nodes and failed tasks: one line each, on stderr.

Ray prints them to stdout, which is for results, with the log and the stack trace of the process
that ended. Those remain in the logs of Ray's session on that node.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import threading
from collections.abc import Iterator
from typing import Final

from steel_batch.cluster.ray_errors import reason_of

_COLOUR: Final = re.compile(r"\x1b\[[\d;]*m")
_TRACE: Final = "Traceback (most recent call last):"
_shown: Final = threading.Event()


class Notices(io.TextIOBase):
    """A replacement of stdout while this process is connected to a cluster."""

    def __init__(self) -> None:
        _shown.set()

    def write(self, text: str) -> int:
        """Forward a notice; each call of `print` is one notice."""
        if _shown.is_set():
            sys.stderr.write(first_line(text) if text.strip() else text)
        return len(text)

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()


def first_line(notice: str) -> str:
    """The first line of a notice; if a trace follows, with the reason that ends it."""
    text = _COLOUR.sub("", notice)
    line, *rest = text.strip().splitlines()
    if line.endswith(_TRACE):
        return f"{line.removesuffix(_TRACE)}{reason_of(RuntimeError(text))}"
    return f"{line} (more in Ray's logs)" if rest else line


@contextlib.contextmanager
def notices_of_work() -> Iterator[None]:
    """Show notices within the block and drop those that follow it: what fails then, we ended.

    Ray reports the tasks of an actor that is killed as failed, and "will be retried".
    """
    _shown.set()
    try:
        yield
    finally:
        _shown.clear()


def keep_traces_off_the_terminal() -> None:
    """Let Ray Data write its stack traces only to its log file: the errors reach us anyway.

    A handler that also belongs to the root logger is left alone: it shows our own messages.
    """
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and handler not in logging.root.handlers:
            handler.setLevel(logging.CRITICAL)
