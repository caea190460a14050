"""What Ray prints of lost nodes and failed tasks: one line each, on stderr.

Ray prints it to stdout, which is for results, and with the log and the stack trace of the process
that ended. Those stay in the logs of Ray's session on that node.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import Final

from steel_batch.cluster.ray_errors import reason_of

_COLOUR: Final = re.compile(r"\x1b\[[\d;]*m")
_TRACE: Final = "Traceback (most recent call last):"


class Notices(io.TextIOBase):
    """A stand-in for stdout while this process is connected to a cluster."""

    def write(self, text: str) -> int:
        """Pass on a notice; what `print` writes at once is one."""
        sys.stderr.write(first_line(text) if text.strip() else text)
        return len(text)

    def flush(self) -> None:
        """Have stderr show what it has."""
        sys.stderr.flush()


def first_line(notice: str) -> str:
    """What a notice is about; where it goes on with a trace, the reason that ends it."""
    text = _COLOUR.sub("", notice)
    line, *rest = text.strip().splitlines()
    if line.endswith(_TRACE):
        return f"{line.removesuffix(_TRACE)}{reason_of(RuntimeError(text))}"
    return f"{line} (more in Ray's logs)" if rest else line


def keep_traces_off_the_terminal() -> None:
    """Have Ray Data write its stack traces to its log file alone: the errors reach us too.

    A handler that belongs to the root logger as well is left as it is: it shows our own messages.
    """
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and handler not in logging.root.handlers:
            handler.setLevel(logging.CRITICAL)
